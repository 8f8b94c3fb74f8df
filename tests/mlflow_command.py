"""Commands of `mlflow` in processes that need not import it first, which takes seconds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from registry_servers import FORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run(arguments: Sequence[str], variables: Mapping[str, str], output: Path) -> str:
    """What `mlflow` with these arguments and variables prints, into `output` first; fails when it fails."""
    process = FORKS.Process(target=_run, args=(list(arguments), dict(variables), str(output)))
    process.start()
    process.join()
    printed = output.read_text()
    assert process.exitcode == 0, printed
    return printed


def _run(arguments: list[str], variables: dict[str, str], output: str) -> None:
    from mlflow.cli import cli  # noqa: PLC0415  # in its own process only

    sys.stdout.flush()
    with open(output, "ab", buffering=0) as stream:  # noqa: PTH123  # a descriptor is what is wanted
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(variables)
    cli(arguments)
