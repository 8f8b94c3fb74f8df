"""What inference services use: features, the production model, predictions."""
