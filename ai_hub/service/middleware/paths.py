"""Paths that the middleware treats in a way of their own."""

from __future__ import annotations

from typing import Final

#: Where features are read for inference.
ONLINE: Final = "/ai/features/get"
#: Asked all the time by whoever watches, and answered even when the service is full.
WATCHED: Final = frozenset({"/health/live", "/health/ready", "/metrics"})
#: Where models are uploaded: its method and path.
UPLOAD: Final = ("POST", "/ai/models/register")
