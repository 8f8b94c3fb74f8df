"""Files of runs and versions: where they are, copies, manifests, the artifact proxy."""
