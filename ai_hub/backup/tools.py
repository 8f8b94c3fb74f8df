"""`pg_dump` and `pg_restore` of the right version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Debian's folders of the programs; elsewhere they are on the path.
_FOLDERS: Final = Path("/usr/lib/postgresql")
_LINES: Final = 6


class ToolMissingError(AiHubError):
    """PostgreSQL's client programs are not installed in the version that this needs."""

    exit_code = 2

    def __init__(self, name: str, major: int, found: Sequence[int]) -> None:
        self.name, self.major, self.found = name, major, tuple(found)
        installed = f"installed: {', '.join(map(str, sorted(found)))}" if found else "none is installed"
        super().__init__(
            f"{name} of PostgreSQL {major} or newer is needed, as the server has {major}; {installed}.",
            hint=f"Install postgresql-client-{major}; apt.postgresql.org has it for each Debian and Ubuntu.",
        )


class ToolFailedError(AiHubError):
    """`pg_dump` or `pg_restore` failed."""

    def __init__(self, name: str, output: str) -> None:
        self.output = output
        lines = [line for line in output.strip().splitlines() if ": warning:" not in line]
        # the error first: the statement that it quotes can be long
        first = next((number for number, line in enumerate(lines) if ": error:" in line), 0)
        super().__init__(f"{name} failed: " + "\n".join(lines[first : first + _LINES]))


def find(name: str, major: int) -> tuple[Path, int]:
    """The program of version `major`, else the next newer one, and its version.

    Raises:
        ToolMissingError: only older ones are there, or none.
    """
    versions = {_major(path): path for path in _installed(name)}
    fitting = sorted(version for version in versions if version >= major)
    if not fitting:
        raise ToolMissingError(name, major, [*versions])
    return versions[fitting[0]], fitting[0]


def run(program: Path, arguments: Sequence[str], dsn: str) -> None:
    """Run a program on a database; the password is in its environment, not on its command line.

    Raises:
        ToolFailedError: it failed; says how.
    """
    place = conninfo_to_dict(dsn)
    password = place.pop("password", None)
    environment = {**os.environ, "PGTZ": "UTC"} | ({"PGPASSWORD": str(password)} if password else {})
    done = subprocess.run(
        [str(program), *arguments, "--no-password", f"--dbname={make_conninfo('', **place)}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolFailedError(program.name, done.stderr)


def contents(program: Path, dump: Path) -> list[str]:
    """The lines of a dump's table of contents, as `pg_restore --use-list` takes them."""
    done = subprocess.run([str(program), "--list", str(dump)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolFailedError(program.name, done.stderr)
    return done.stdout.splitlines()


def _installed(name: str) -> Iterator[Path]:
    if found := shutil.which(name):
        yield Path(found)
    yield from _FOLDERS.glob(f"*/bin/{name}")


def _major(program: Path) -> int:
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"(\d+)(?:\.\d+|devel|beta|rc)", done.stdout)
    return int(match[1]) if match else 0
