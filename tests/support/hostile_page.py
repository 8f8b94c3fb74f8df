"""Writes docs/hostile-inputs.md: `python tests/support/hostile_page.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from support import hostile_inputs
from support.hostile_inputs import HOSTILE

if TYPE_CHECKING:
    from support.hostile_requests import Hostile

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hostile-inputs.md"
_SHOWN = 60
_GROUPS = {
    "Times": hostile_inputs.TIMES,
    "Ranges and numbers": hostile_inputs.RANGES,
    "Feature sets, features and assets": hostile_inputs.NAMES,
    "Tenants": hostile_inputs.TENANTS,
    "Models": hostile_inputs.MODELS,
    "Uploads and artifacts": hostile_inputs.UPLOADS,
    "Exports": hostile_inputs.PLACES,
    "Bodies": hostile_inputs.BODIES,
    "Keys and tokens": hostile_inputs.CALLERS,
    "HTTP itself": hostile_inputs.HTTP,
}


def page() -> str:
    """The whole page."""
    lines = [
        "# Hostile inputs",
        "",
        f"{len(HOSTILE)} requests that nobody means well with, and the status each gets. Every answer is a",
        "`Problem` with a message and a hint, and nothing that is stored changes: rows of every table of",
        "TimescaleDB, keys of Redis (but for the short-lived marks that an asset does not exist), objects in",
        "every bucket, MLflow's tables and the files of exports are compared.",
        "`tests/integration/api/test_hostile_inputs.py` sends them all; this page is written by",
        "`python tests/support/hostile_page.py` from `tests/support/hostile_inputs.py`.",
    ]
    for title, group in _GROUPS.items():
        lines += ["", f"## {title}", "", "| input | request | status |", "|---|---|---|"]
        lines += [f"| {each.id} | `{_request(each)}` | {each.status} |" for each in group]
    return "\n".join(lines) + "\n"


def _request(hostile: Hostile) -> str:
    first = hostile.request if isinstance(hostile.request, bytes) else next(iter(hostile.request()))
    head, _, body = first.partition(b"\r\n\r\n")
    start = head.partition(b"\r\n")[0].removesuffix(b" HTTP/1.1")
    shown = ascii(start[:_SHOWN].decode("latin-1"))[1:-1]
    if body:
        end = b"..." + body[-_SHOWN:] if len(body) > _SHOWN else body
        shown += " " + ascii(end.decode("latin-1"))[1:-1]
    return shown.replace("|", "\\|").replace("`", "'")


if __name__ == "__main__":
    PAGE.write_text(page())
