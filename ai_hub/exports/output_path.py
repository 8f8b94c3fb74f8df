"""Names of exports below the tenant's folder."""

from __future__ import annotations

import re
from typing import Final

from ai_hub.exports.errors import OutputPathError

SUFFIX: Final = ".parquet"
#: Folder of exports that nobody has named a path for; nobody can name one in it.
UNNAMED: Final = "unnamed"
#: Of a part, in bytes: file systems take 255, and temporary names are longer.
_LONGEST_PART: Final = 160
#: Of all: keys in S3 take 1,024 bytes, with the tenant's prefix before and the name of a part behind.
_LONGEST: Final = 512
_CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_DRIVE: Final = re.compile(r"^[A-Za-z]:")


def check_output_path(path: str, *, partitioned: bool) -> None:
    """Make sure that `path` is a plain relative name.

    Raises:
        OutputPathError: it could lead elsewhere, or does not suit every file system.
    """
    if _CONTROL.search(path):
        raise OutputPathError(path, "has control or invisible characters")
    if len(path.encode()) > _LONGEST:
        raise OutputPathError(path, f"is longer than {_LONGEST} bytes")
    if "\\" in path or _DRIVE.match(path) or ":" in path:
        raise OutputPathError(path, "has a drive letter, colon or backslash")
    if path.startswith(("/", "~")):
        raise OutputPathError(path, "is absolute")
    parts = path.split("/")
    if ".." in parts:
        raise OutputPathError(path, "leads upwards")
    # some file systems take upper and lower case for the same
    if parts[0].casefold() == UNNAMED:
        raise OutputPathError(path, f"is in {UNNAMED}/, where exports without an output_path go")
    if problem := next(filter(None, map(_problem, parts)), None):
        raise OutputPathError(path, problem)
    if not partitioned and not path.endswith(SUFFIX):
        raise OutputPathError(path, f"does not end in {SUFFIX}")


def _problem(part: str) -> str | None:
    if not part.strip() or part != part.strip():
        return "has an empty part or spaces around one"
    if part.startswith((".", "_")):
        return "has a part that begins with '.' or '_', which readers skip"
    if len(part.encode()) > _LONGEST_PART:
        return f"has a part longer than {_LONGEST_PART} bytes"
    return None
