"""Registered models on this machine: found in the registry, kept in a cache, verified and loaded."""
