"""The application `mlflow server` runs: MLflow's own, and our routes beside it."""
