from __future__ import annotations

import subprocess
import sys

import pytest

#: Feast's constructor takes a wrong type silently where nothing checks it.
_ENTITY = """
from feast import Entity
try:
    Entity(name="meter", description=5)
except Exception as error:
    print(type(error).__name__)
else:
    print("unchecked")
from typeguard import check_type
print(check_type("5", str))
"""
_SKIP = "from ai_hub.imports import skip_type_checks as skip; skip(); skip()"


@pytest.mark.parametrize(
    ("before", "outcome"),
    [("", "TypeCheckError"), (_SKIP, "unchecked"), (f"import typeguard; {_SKIP}", "unchecked")],
    ids=["feast alone", "before typeguard", "after typeguard"],
)
def test_skip_type_checks__leaves_only_feast_unchecked(before: str, outcome: str) -> None:
    code = f"{before}\n{_ENTITY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [outcome, "5"]
