"""What the gates say about candidates.

Some read all of a version's files, so a page asks by itself only while these are small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow_plugins.gates.assessment import Assessment
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.web.lifecycle.model_page import ModelPage

#: Asked about without being told to: the newest candidates, while their files are this small together.
_CANDIDATES: Final = 5
_BYTES: Final = 128 * 2**20


def ask(store: LifecycleStore, model: ModelPage, asked: int | None) -> dict[int, Assessment]:
    """What promoting each candidate would meet, by version; `asked` is one the visitor wants in any case."""
    chosen, size = set(), 0
    for version in model.candidates[:_CANDIDATES]:
        size += version.size_bytes
        if size <= _BYTES:
            chosen.add(version.version)
    chosen |= {version.version for version in model.candidates if version.version == asked}
    return {number: store.gates(model.name, number) for number in sorted(chosen)}
