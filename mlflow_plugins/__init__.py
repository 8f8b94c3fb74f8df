"""What `mlflow server` loads through entry points; its clients use the parts that need no MLflow."""
