"""Ports: asked for, kept, or free."""

from __future__ import annotations

import socket

import pytest

from ai_hub.dev import service
from ai_hub.errors import ConflictError


def choose(**given: object) -> int:
    defaults = {"configured": None, "recorded": None, "taken": set(), "variable": "AI_HUB_REDIS_PORT"}
    return service.choose_port(**(defaults | given))  # type: ignore[arg-type]  # keyword defaults of a test


def test_choose__recorded_and_free__kept() -> None:
    port = choose()
    assert choose(recorded=port) == port


def test_choose__recorded_but_in_use__another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert choose(recorded=port) != port


def test_choose__recorded_but_taken_by_the_stack__another() -> None:
    port = choose()
    assert choose(recorded=port, taken={port}) != port


def test_choose__derived_port_in_use__another() -> None:
    port = choose(distance=10_000)
    with socket.create_server(("127.0.0.1", port + 10_000)):
        assert choose(recorded=port) == port
        assert choose(recorded=port, distance=10_000) != port


def test_choose__configured_but_taken_by_the_stack__refused() -> None:
    with pytest.raises(ConflictError, match="AI_HUB_REDIS_PORT"):
        choose(configured=31_000, taken={31_000})
