"""Servers that run without Docker, and the demo on them: for laptops and tests, never for production."""
