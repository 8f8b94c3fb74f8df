"""What `mlflow server` loads through entry points."""

# It loads parts of this package itself, through entry points, which they could not stand halfway through
# their own import.
import mlflow  # noqa: F401
