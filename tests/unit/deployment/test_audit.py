from __future__ import annotations

import importlib.util
import secrets
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support import compose

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

CANARY = {
    "name": "django",
    "version": "1.2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["2"], "aliases": []}],
}
GOOD = {"name": "jinja2", "version": "3.1", "vulns": []}
BAD = {
    "name": "jinja2",
    "version": "2.0",
    "vulns": [{"id": "CVE-2", "fix_versions": ["3"], "aliases": ["GHSA-x"]}],
}
SKIPPED = {"name": "own", "skip_reason": "not found"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    path = compose.ROOT / ".ci" / "audit.py"
    spec = importlib.util.spec_from_file_location("audit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # processes of the pool look functions up by name
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("report", "vulnerable", "asked"),
    [
        ([CANARY, GOOD], False, True),
        ([CANARY, BAD], True, True),
        ([CANARY, GOOD, SKIPPED], False, False),
        ([GOOD], False, False),
        ([{"name": "django", "version": "1.2", "vulns": []}, GOOD], False, False),
        ([{"name": "django", "skip_reason": "not found"}, BAD], True, False),
        ([], False, False),
    ],
)
def test_judge__report__is_never_taken_for_better_than_it_is(
    audit: ModuleType, report: list[dict[str, Any]], vulnerable: bool, asked: bool
) -> None:
    found, reason = audit.judge(report)
    assert (bool(found), reason is None) == (vulnerable, asked)


@pytest.mark.parametrize("first", ["", "-", "_", "+", "/", "9"])
@pytest.mark.parametrize("assignment", ['password = "{}"', "MINIO_SECRET_KEY={}", "  api_key: '{}'"])
def test_scan__random_secret__is_found_whatever_it_begins_with(
    audit: ModuleType, tmp_path: Path, assignment: str, first: str
) -> None:
    planted = tmp_path / ("settings.py" if '"' in assignment else "settings.env")
    tokens = [first + secrets.token_urlsafe(24) for _ in range(100)]
    planted.write_text("\n".join(assignment.format(token) for token in tokens))
    found = {line for *_, line in audit.secrets_in(str(planted))}
    assert found == set(range(1, len(tokens) + 1))


def test_scan__planted_secrets__are_found_by_their_lines(audit: ModuleType, tmp_path: Path) -> None:
    planted = tmp_path / "settings.py"
    lines = [
        f'password = "{secrets.token_urlsafe(24)}"',
        f'dsn = "postgresql://ai_hub:{secrets.token_hex(12)}@db/ai_hub"',
        "harmless = 1",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        f"aws = AKIA{'ABCDEFGH' * 2}",
    ]
    planted.write_text("\n".join(lines))
    found = {line for *_, line in audit.secrets_in(str(planted))}
    assert found >= {1, 2, 4, 5}
    assert 3 not in found
