"""Where exports go: a folder, or a bucket with a prefix, and a part of it for each tenant."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ai_hub.errors import BadInputError
from ai_hub.exports.errors import OutputPathError

if TYPE_CHECKING:
    from ai_hub.exports.request import Request
    from ai_hub.settings import Settings

_S3: Final = "s3"


@dataclass(frozen=True)
class Bucket:
    """Objects of one tenant: those in `name` whose keys begin with `prefix`."""

    name: str
    prefix: str


def tenant_place(settings: Settings, tenant: str) -> Path | Bucket:
    """The tenant's part of EXPORT_STORAGE_PATH.

    Raises:
        BadInputError: the setting is neither a folder nor s3://bucket/prefix.
    """
    root = settings.export_storage_path
    if "://" not in root:
        return Path(root).absolute() / tenant
    parts = urlsplit(root)
    if parts.scheme != _S3 or not parts.netloc:
        raise BadInputError(
            f"EXPORT_STORAGE_PATH {root!r} is no place for exports.",
            hint="Use a folder, or s3://bucket/prefix.",
        )
    return Bucket(parts.netloc, "/".join(filter(None, [parts.path.strip("/"), tenant])) + "/")


def local_path(folder: Path, path: str) -> Path:
    """`path` below the tenant's `folder`.

    Raises:
        OutputPathError: links on the way lead out of it.
    """
    found = folder / path
    try:
        # the root may be a link, the tenant's folder in it may not
        home = folder.parent.resolve() / folder.name
        inside = found.resolve().is_relative_to(home) and not found.is_symlink()
    except (OSError, RuntimeError) as error:
        raise OutputPathError(path, "cannot be looked up") from error
    if not inside:
        raise OutputPathError(path, "leads out of the tenant's folder by a link")
    return found


def is_gone(settings: Settings, storage_path: str) -> bool:
    """Whether nothing is any more where an export was stored, as far as it can be told from here."""
    if not storage_path.startswith(f"{_S3}://"):
        return not os.path.lexists(storage_path)
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    return s3.is_gone(settings, storage_path)


def check_place(settings: Settings, request: Request) -> None:
    """Make sure that the request's path is in the tenant's part.

    Raises:
        OutputPathError: it is not.
        BadInputError: EXPORT_STORAGE_PATH is unusable.
    """
    place = tenant_place(settings, request.tenant)
    if isinstance(place, Path) and request.output_path is not None:
        local_path(place, request.output_path)
