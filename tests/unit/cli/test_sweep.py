"""Every command of `ai-hub` with right, wrong and hostile arguments: a message and an exit status.


Commands are found in the command line itself, so that a new one is covered. In process, against addresses at
which nothing answers; each command meets one of the hostile texts, and in `make sweep` all of them.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Any

import click
import pytest
import typer.main
from support.hostile_arguments import HOSTILE, NOWHERE
from typer.testing import CliRunner

from ai_hub.cli.errors import UnexpectedError, explain
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: These run until they are stopped, or start servers: only their help and wrong options are tried.
ENDLESS = {"up", "demo", "serve", "feature-server", "worker", "export-worker", "freshness"}


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name, part in command.commands.items():
            yield from _commands(part, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _arguments(command: Any, text: str | None = None) -> list[str]:
    """Values for everything required and, with `text`, for every option that takes free text."""
    found: list[str] = []
    for parameter in command.params:
        kind = parameter.type_descriptor.annotation
        number = kind in {int, float}
        choices = list(kind) if isinstance(kind, type) and issubclass(kind, Enum) else []
        free = not number and not choices
        if getattr(parameter, "is_flag", False) or not (parameter.required or (text is not None and free)):
            continue
        if text is not None and free:
            value = text
        elif choices:
            value = str(choices[0].value)
        else:
            value = "1" if number else "2026-01-31"
        found += [parameter.opts[0], value] if parameter.opts[0].startswith("-") else [value]
    return found


def _run(path: tuple[str, ...], *arguments: str) -> None:
    result = CliRunner().invoke(app, [*path, *arguments])
    output = result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        failure = explain(result.exception)
        assert not isinstance(failure, UnexpectedError), failure
        output += str(failure)
        assert failure.exit_code in {1, 2, 3}
    else:
        assert result.exit_code in {0, 1, 2, 3, 4}
    assert "Traceback" not in output
    assert path == ("env",) or "secret-of-a-test" not in output


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("EXPORT_STORAGE_PATH", str(tmp_path / "exports"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if number % 4 == 0 else pytest.mark.long)
        for number, path in enumerate(COMMANDS)
    ],
    ids="-".join,
)
def test_command__wrong_and_hostile_arguments__ends_with_a_message(path: tuple[str, ...]) -> None:
    _run(path, "--help")
    _run(path, "--no-such-option")
    if path[0] in ENDLESS:
        return
    _run(path, *_arguments(COMMANDS[path]))
    at = list(COMMANDS).index(path) % len(HOSTILE)
    for text in HOSTILE if os.environ.get("AI_HUB_SWEEP") else HOSTILE[at : at + 1]:
        _run(path, *_arguments(COMMANDS[path], text))


def test_failure_that_no_table_knows__is_one_line_and_not_hidden() -> None:
    failure = explain(ZeroDivisionError("by zero"))
    assert isinstance(failure, UnexpectedError)
    assert "ZeroDivisionError: by zero" in failure.message
