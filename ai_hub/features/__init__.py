"""Access to Feast: the store handle, its services, and online reads that say what is missing or stale."""
