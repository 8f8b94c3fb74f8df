"""AI Hub: feature store and model registry of a multi-tenant energy-management suite."""

__version__ = "0.1.0"
