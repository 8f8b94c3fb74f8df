"""MLflow servers of a test's own (see `benchmarks.mlflow_servers`)."""

from benchmarks.mlflow_servers import FORKS, Server, running

__all__ = ["FORKS", "Server", "running"]
