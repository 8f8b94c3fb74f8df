"""Where the project's own files and the embedded servers' data are."""

from __future__ import annotations

import os
from pathlib import Path

from ai_hub.errors import NotFoundError

_PACKAGE = Path(__file__).resolve().parent
_STATE_DIR_VARIABLE = "AI_HUB_STATE_DIR"


def resource(name: str) -> Path:
    """Folder `name` (`sql`, `feature_repo`, `policy`) of the checkout, or of the installed wheel.

    Raises:
        NotFoundError: neither place has it.
    """
    for base in (_PACKAGE.parent, _PACKAGE / "_data"):
        if (base / name).is_dir():
            return base / name
    raise NotFoundError(f"{name}/ is missing from this installation.", hint="Reinstall ai-hub.")


def state_dir() -> Path:
    """The one git-ignored folder the embedded servers write to (`AI_HUB_STATE_DIR`, default `.ai-hub`).

    In a checkout it sits at its root wherever the command runs; elsewhere in the current folder.
    """
    if configured := os.environ.get(_STATE_DIR_VARIABLE):
        return Path(configured).resolve()
    root = _PACKAGE.parent
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / ".ai-hub"
