"""`docker-compose.yml` as a container engine reads it, without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from dotenv import dotenv_values

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
#: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, and `$$` for a dollar sign.
VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<rule>[-?])(?P<text>[^}]*))?\})")


def raw() -> dict[str, Any]:
    """The file with its variables in place."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def resolved(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with `variables` filled in.

    Raises:
        KeyError: one that must be set is not.
    """
    content: dict[str, Any] = _fill(raw(), variables)
    return content


def example() -> dict[str, str]:
    """Variables that a copy of `.env.example` sets."""
    return {name: value for name, value in dotenv_values(EXAMPLE).items() if value is not None}


def strings(value: object) -> list[str]:
    """Every text in a part of the file."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def _fill(value: object, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        filled = {key: _fill(item, variables) for key, item in value.items()}
        for name, text in [*filled.get("environment", {}).items()]:
            if text is None:  # handed on where it is set
                del filled["environment"][name]
                if name in variables:
                    filled["environment"][name] = variables[name]
        return filled
    if isinstance(value, list):
        return [_fill(item, variables) for item in value]
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: _value(match, variables), value)
    return value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    if found := variables.get(match["name"]):
        return found
    if match["rule"] == "-":
        return str(match["text"])
    raise KeyError(match["name"])
