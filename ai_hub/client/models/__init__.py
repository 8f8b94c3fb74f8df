"""The production model: found in the registry, kept on disk, verified, loaded, swapped when it changes."""
