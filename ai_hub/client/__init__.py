"""For inference services: features, the production model, and predictions; see docs/client.md."""

from ai_hub.client.asynchronous import AsyncClient, AsyncProductionModel
from ai_hub.client.errors import (
    BusyError,
    ClosedError,
    DegradedError,
    ExportFailedError,
    KeyRefusedError,
    UnavailableError,
)
from ai_hub.client.predictions import Prediction
from ai_hub.client.production_model import ProductionModel
from ai_hub.client.synchronous import Client
from ai_hub.forecasting.models.loading import LoadedModel

__all__ = [
    "AsyncClient",
    "AsyncProductionModel",
    "BusyError",
    "Client",
    "ClosedError",
    "DegradedError",
    "ExportFailedError",
    "KeyRefusedError",
    "LoadedModel",
    "Prediction",
    "ProductionModel",
    "UnavailableError",
]
