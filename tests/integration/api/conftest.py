"""A service with two tenants."""

from __future__ import annotations

from support.city_works import city_works

__all__ = ["city_works"]
