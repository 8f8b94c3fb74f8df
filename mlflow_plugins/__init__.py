"""What `mlflow server` loads through entry points."""
