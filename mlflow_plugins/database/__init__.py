"""Our tables beside MLflow's, and transactions over both."""
