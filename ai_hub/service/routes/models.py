"""The model registry."""

from __future__ import annotations

from fastapi import APIRouter

from ai_hub.service.dependencies import AUTHENTICATED

router = APIRouter(prefix="/ai/models", tags=["models"], dependencies=AUTHENTICATED)
