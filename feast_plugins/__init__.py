"""Feast store and engine classes named in `feature_store.yaml`."""
