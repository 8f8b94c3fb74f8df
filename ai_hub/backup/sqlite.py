"""Databases in a file of SQLite, copied while others write to them."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from ai_hub.backup import facts
from ai_hub.backup.manifest import Database, Facts, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL


def path_of(url: str) -> Path | None:
    """File of an SQLAlchemy URL; None if it is no SQLite database."""
    parsed: URL = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def dump(name: str, source: Path, folder: Path) -> Database:
    """Copy a database into `folder` as `name`.sqlite."""
    target = folder / f"{name}.sqlite"
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)
        # one file: what is in a log beside it would be left behind
        copy.execute("PRAGMA journal_mode = DELETE")
    return Database(kind="sqlite", file=describe(target, target.name), facts=gather(target))


def gather(path: Path) -> Facts:
    """Rows and a hash of all rows, by table."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        names = [
            str(name)
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        return Facts(tables={name: _content(connection, name) for name in sorted(names)})


def filled(path: Path, of_any_start: Mapping[str, int]) -> list[str]:
    """Tables with more rows than a server that was only started writes; none if there is no file."""
    if not path.exists():
        return []
    counts = {name: rows for name, (rows, _) in gather(path).tables.items()}
    return [name for name, rows in counts.items() if rows > of_any_start.get(name, 0)]


def compare(name: str, path: Path, kept: Database) -> list[str]:
    """What is not as it was in the backup; a server that runs again may have added its own rows."""
    return [f"{name}: {line}" for line in facts.differences(kept.facts, gather(path), same_major=True)]


def _content(connection: sqlite3.Connection, table: str) -> tuple[int, str]:
    quoted = table.replace('"', '""')
    total, rows = 0, 0
    for row in connection.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608  # a name of this database
        rows += 1
        total += int.from_bytes(hashlib.sha256(repr(row).encode()).digest()[:8])
    return rows, str(total)
