"""Manifest of a backup. It is written last: a backup without one is incomplete."""

from __future__ import annotations

import hashlib
from datetime import datetime  # pydantic reads it
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ValidationError

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST: Final = "manifest.json"
_BLOCK: Final = 1 << 20


class File(BaseModel):
    """One file of the backup."""

    path: str
    size: int
    sha256: str


class Role(BaseModel):
    """A role of the server, which no dump of a database holds."""

    name: str
    login: bool
    inherit: bool
    createdb: bool
    createrole: bool
    connection_limit: int
    #: hash as PostgreSQL keeps it; None: there is none, or we may not read it
    password: str | None = None
    member_of: list[str] = []
    #: `name=value` by whether it holds for every database (False) or for this one (True)
    settings: list[tuple[bool, str]] = []
    #: whether a tenant reads its own rows with it
    of_tenant: bool = False


class Facts(BaseModel):
    """Contents of a database at its dump, to compare with the restored ones."""

    #: rows, and the sum of a hash of each, by table
    tables: dict[str, tuple[int, str]]
    #: grants, policies, jobs, sequences
    rights: list[str] = []
    #: functions, views, indexes, constraints, as this PostgreSQL version writes them
    definitions: list[str] = []


class Database(BaseModel):
    """A dump, or the copy of a file or folder."""

    kind: Literal["postgresql", "sqlite", "folder"]
    file: File
    facts: Facts
    #: the login that dumped, and the major versions of server and `pg_dump`
    login: str = ""
    server_major: int = 0
    tool_major: int = 0
    timescaledb: str | None = None
    roles: list[Role] = []
    #: (grantee, privilege) on the database itself; None: PostgreSQL's own
    database_rights: list[tuple[str, str]] | None = None
    database_settings: list[str] = []


class Objects(BaseModel):
    """Objects of a bucket, or files of a folder; each is kept once under the checksum of its content."""

    source: str
    index: File
    count: int
    bytes: int


class Manifest(BaseModel):
    """The whole backup."""

    format: Literal[1] = 1
    id: str
    started_at: datetime
    finished_at: datetime
    #: of `ai-hub`, `mlflow` and `feast`
    versions: dict[str, str]
    databases: dict[str, Database]
    objects: dict[str, Objects]
    settings: list[File]


class Entry(BaseModel):
    """One line of an index: an object or a file."""

    key: str
    size: int
    sha256: str
    content_type: str | None = None
    metadata: dict[str, str] = {}


def parse(content: bytes, where: str) -> Manifest:
    """The manifest in `content`.

    Raises:
        BadInputError: it is damaged, or of a later version.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BadInputError(
            f"{MANIFEST} of {where} cannot be read: {error.errors()[0]['msg']}",
            hint="It is damaged, or was written by a later version of ai-hub.",
        ) from error


def checksum(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def describe(path: Path, name: str) -> File:
    """The entry of a file that is kept as `name`."""
    size, sha256 = checksum(path)
    return File(path=name, size=size, sha256=sha256)
