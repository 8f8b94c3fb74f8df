"""Exports of features to Parquet."""

from __future__ import annotations

from fastapi import APIRouter

from ai_hub.service.dependencies import AUTHENTICATED

router = APIRouter(prefix="/ai/features", tags=["exports"], dependencies=AUTHENTICATED)
