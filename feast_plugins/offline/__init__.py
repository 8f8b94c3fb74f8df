"""Offline store: point-in-time reads of feature views, and where results are saved."""
