"""MLflow's registry store with our rules."""
