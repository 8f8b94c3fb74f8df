"""Runs the commands a person would type, shows them, and reads what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ai_hub.errors import AiHubError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class StepFailedError(AiHubError):
    """A command of the demo failed."""

    def __init__(self, command: str, status: int, output: str = "") -> None:
        self.command = command
        super().__init__(
            f"`{command}` ended with status {status}.{chr(10) if output else ''}{output.rstrip()}",
            hint="Mend what it says and run the demo again; finished steps are not repeated in vain.",
        )


@dataclass
class Step:
    """One finished part of the demo."""

    title: str
    seconds: float
    result: str


@dataclass
class Steps:
    """Runs commands, remembering how long each part took and what came of it."""

    console: Console
    done: list[Step] = field(default_factory=list)
    _title: str = ""
    _started: float = 0.0

    def begin(self, title: str) -> None:
        """Announce the next part."""
        self._title, self._started = title, time.monotonic()
        self.console.print()
        self.console.rule(Text(f"{len(self.done) + 1}. {title}", style="bold"), align="left")

    def end(self, result: str) -> None:
        """Close the part with one line on what came of it."""
        self.done.append(Step(self._title, time.monotonic() - self._started, result))

    def run(self, *command: str, shown: bool = True) -> None:
        """Run a command, its output going to the terminal as it comes (or nowhere, with `shown` off).

        Raises:
            StepFailedError: it failed.
        """
        self._announce(command)
        # what the command prints must come after what we print
        self.console.file.flush()
        if shown:
            status = _execute(command, shown=True).returncode
            if status:
                raise StepFailedError(" ".join(command), status)
        else:
            _output(command)

    def json(self, *command: str) -> Any:
        """What a command prints with `--json`.

        Raises:
            StepFailedError: it failed.
        """
        self._announce(command)
        return json.loads(_output((*command, "--json")))

    def json_together(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        """As `json` for commands that do not wait for each other; the answers are in their order."""
        for command in commands:
            self._announce(command)
        return [json.loads(output) for output in _outputs([(*command, "--json") for command in commands])]

    def run_together(self, commands: Sequence[Sequence[str]], *, shown: bool = True) -> None:
        """Run commands that do not wait for each other and show what each says, in their order (or nothing).

        Raises:
            StepFailedError: one failed.
        """
        for command, output in zip(commands, _outputs(commands), strict=True):
            self._announce(command)
            if shown:
                self.console.out(output.rstrip(), highlight=False)

    @contextmanager
    def in_background(self, *command: str) -> Iterator[None]:
        """Run a command while the body does something else.

        Raises:
            StepFailedError: it failed.
        """
        self._announce((*command, "&"))
        with ThreadPoolExecutor(1) as pool:
            output = pool.submit(_output, command)
            yield
            output.result()

    def check(self, *command: str) -> None:
        """Run a check and show what it says; that it finds something (status 1) is no failure.

        Raises:
            StepFailedError: it failed.
        """
        self._announce(command)
        result = _execute(command)
        if result.returncode not in {0, 1} or not result.stdout:
            raise StepFailedError(" ".join(command), result.returncode, result.stderr or result.stdout)
        self.console.out(result.stdout.rstrip(), highlight=False)

    def refused(self, *command: str) -> str:
        """Run a command that must fail, and return its message.

        Raises:
            StepFailedError: it did not fail.
        """
        self._announce(command)
        result = _execute(command)
        message = result.stderr.strip()
        if result.returncode == 0:
            raise StepFailedError(" ".join(command), 0, "It was expected to be refused.")
        self.console.print(Text(message, style="yellow"))
        return message

    def _announce(self, command: Sequence[str]) -> None:
        self.console.print(
            Text("$ " + " ".join(_quoted(part) for part in command), style="cyan"), soft_wrap=True
        )


def _execute(command: Sequence[str], *, shown: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is in the result, or on the terminal with `shown`."""
    return subprocess.run(
        _located(command), env=_environment(), capture_output=not shown, text=True, check=False
    )


def _output(command: Sequence[str]) -> str:
    result = _execute(command)
    if result.returncode:
        raise StepFailedError(" ".join(command), result.returncode, result.stderr or result.stdout)
    return result.stdout


def _outputs(commands: Sequence[Sequence[str]]) -> list[str]:
    # starting Python and its libraries is most of each command, so as many run as there are cores
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_output, commands))


def _quoted(part: str) -> str:
    return f"'{part}'" if " " in part else part


def _located(command: Sequence[str]) -> list[str]:
    """The command as installed beside this Python, so that the demo needs no activated environment."""
    folder = Path(sys.executable).parent
    return [shutil.which(command[0], path=str(folder)) or command[0], *command[1:]]


def _environment() -> dict[str, str]:
    """The settings of the stack, which `feast` reads from the environment; no colour codes lost in pipes."""
    return {**os.environ, **Settings().environment(), "PYTHONUNBUFFERED": "1"}
