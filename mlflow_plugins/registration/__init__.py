"""How a version comes to exist: what it is made from, its number, its files."""
