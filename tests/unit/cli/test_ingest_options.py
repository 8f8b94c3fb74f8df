"""Options that several commands share, declared as dataclasses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ai_hub.cli.ingest_options import with_options

Name = Annotated[str, typer.Option("--name", help="of the meter")]
Count = Annotated[int, typer.Option("--count", min=1)]


@dataclass(frozen=True, kw_only=True)
class Meter:
    name: Name
    count: Count = 2


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()

    @made.command()
    @with_options
    def show(first: str, *, before: bool = False, meter: Meter, after: int = 7) -> None:
        typer.echo(f"{first} {before} {meter} {after}")

    return made


def test_with_options__fields_of_a_dataclass__are_options_in_its_place(app: typer.Typer) -> None:
    options = re.findall(r"--(before|name|count|after)\b", CliRunner().invoke(app, ["--help"]).stdout)
    assert list(dict.fromkeys(options)) == ["before", "name", "count", "after"]


def test_with_options__command__gets_the_dataclass(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["x", "--name", "hall", "--after", "9"])
    assert done.stdout == "x False Meter(name='hall', count=2) 9\n"


@pytest.mark.parametrize(
    "arguments", [["x"], ["x", "--name", "hall", "--count", "0"], ["x", "--meter", "hall"]]
)
def test_with_options__missing_wrong_or_unknown_option__is_refused(
    app: typer.Typer, arguments: list[str]
) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
