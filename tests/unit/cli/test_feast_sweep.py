"""Every command of `feast` with right, wrong and hostile arguments: a message and an exit status.

Commands are found in the command line itself, so that a new one is covered. In process, on a registry with
what this repository declares, and against addresses at which nothing answers; each command meets one of the
hostile texts, and in `make sweep` all of them. tests/integration/feast_plugins/test_commands.py runs them on
servers.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner
from feast.cli.cli import cli as stock
from support.feast_process import restored
from support.hostile_arguments import HOSTILE, NOWHERE

from ai_hub import paths
from ai_hub.cli.errors import UnexpectedError, explain
from ai_hub.cli.feast_commands import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

#: These run until they are stopped: only their help and wrong options are tried.
ENDLESS = {
    *("serve", "serve_lineage", "serve_offline", "serve_registry", "serve_transformations"),
    *("ui", "listen", "mcp"),
}
SETTINGS = NOWHERE | {
    "PGHOST": "127.0.0.1",
    "PGPORT": "1",
    "PGDATABASE": "none",
    "PGUSER": "nobody",
    "PGPASSWORD": "secret-of-a-test",
    "PGSSLMODE": "disable",
    "FEAST_REDIS_CONNECTION": "127.0.0.1:1,db=0,password=secret-of-a-test",
}
#: What each argument must be where a date or a count will not do.
RIGHT = {
    "project_directory": "made",
    "manifest_path": "manifest.json",
    "state": "AVAILABLE_ONLINE",
    "entities": "tenant_id=t",
    "features": "forecast_basic_features:lag_1h",
    "name": "forecast_basic_features",
    "feature_view_name": "forecast_basic_features",
}


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from _commands(part, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_commands(commands))


def _arguments(command: click.Command, text: str | None = None) -> list[str]:
    """Values for everything required and, with `text`, for every option that takes free text."""
    found: list[str] = []
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            continue
        free = not isinstance(parameter.type, click.Choice | click.types.IntParamType)
        required = parameter.required or isinstance(parameter, click.Argument)
        if not (required or (text is not None and free)):
            continue
        if text is not None and free:
            value = text
        elif isinstance(parameter.type, click.Choice):
            value = str(parameter.type.choices[0])
        else:
            value = RIGHT.get(str(parameter.name), "2026-01-31" if free else "1")
        found += (
            ["--", value]
            if isinstance(parameter, click.Argument) and "--" not in found
            else ([value] if isinstance(parameter, click.Argument) else [parameter.opts[0], value])
        )
    return found


def _run(path: tuple[str, ...], *arguments: str) -> Result:
    with restored():
        result = CliRunner().invoke(commands, [*path, *arguments], input="n\n")
    output = result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        failure = explain(result.exception)
        assert not isinstance(failure, UnexpectedError), failure
        output += str(failure)
        assert failure.exit_code in {1, 2, 3}
    else:
        assert result.exit_code in {0, 1, 2}, output
    assert "Traceback" not in output
    assert path == ("configuration",) or "secret-of-a-test" not in output
    return result


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This repository, applied to a registry of its own."""
    folder = tmp_path_factory.mktemp("feast")
    shutil.copytree(paths.resource("feature_repo"), folder / "repo")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("FEAST_REGISTRY_URI", f"sqlite:///{folder}/registry.db")
        patch.setenv("FEATURE_REPO_DIR_ENV_VAR", str(folder / "repo"))
        # into the registry alone: our command and engine would make the declared views in TimescaleDB
        settings = folder / "repo" / "feature_store.yaml"
        text = settings.read_text()
        settings.write_text(text.replace("feast_plugins.batch_engine.ArrowComputeEngine", "local"))
        with restored():
            result = CliRunner().invoke(stock, ["apply", "--skip-source-validation"])
        assert result.exit_code == 0, result.output + repr(result.exception)
        settings.write_text(text)
        yield folder


@pytest.fixture(autouse=True)
def alone(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(repository / "registry.db", tmp_path)
    monkeypatch.setenv("FEAST_REGISTRY_URI", f"sqlite:///{tmp_path}/registry.db")
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if number % 8 == 0 else pytest.mark.long)
        for number, path in enumerate(COMMANDS)
    ],
    ids="-".join,
)
def test_command__wrong_and_hostile_arguments__ends_with_a_message(path: tuple[str, ...]) -> None:
    assert _run(path, "--help").exit_code == 0
    _run(path, "--no-such-option")
    if path[0] in ENDLESS:
        return
    _run(path, *_arguments(COMMANDS[path]))
    at = list(COMMANDS).index(path) % len(HOSTILE)
    for text in HOSTILE if os.environ.get("AI_HUB_SWEEP") else HOSTILE[at : at + 1]:
        _run(path, *_arguments(COMMANDS[path], text))


def test_documentation__has_every_command() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "feast.md").read_text()
    listed = set(re.findall(r"`feast ([^`]+)`", text.partition("## Commands")[2].partition("## Several")[0]))
    assert {" ".join(path) for path in COMMANDS} <= listed
