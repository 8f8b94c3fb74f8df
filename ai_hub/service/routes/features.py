"""Features for inference."""

from __future__ import annotations

from fastapi import APIRouter

from ai_hub.service.dependencies import AUTHENTICATED

router = APIRouter(prefix="/ai/features", tags=["features"], dependencies=AUTHENTICATED)
