"""For inference services: features, the production model, and predictions; see docs/client.md."""

from ai_hub.client.asynchronous import AsyncClient, AsyncModel
from ai_hub.client.errors import (
    BusyError,
    ClosedError,
    DegradedError,
    ExportFailedError,
    KeyRefusedError,
    UnavailableError,
)
from ai_hub.client.models.live import LiveModel
from ai_hub.client.models.loaded import LoadedModel
from ai_hub.client.predictions import Prediction
from ai_hub.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "AsyncModel",
    "BusyError",
    "Client",
    "ClosedError",
    "DegradedError",
    "ExportFailedError",
    "KeyRefusedError",
    "LiveModel",
    "LoadedModel",
    "Prediction",
    "UnavailableError",
]
