"""Files of runs and versions: where they are, copying, sealing, the artifact proxy."""
