from __future__ import annotations

import re

from support import compose

TEXT = (compose.ROOT / "docs/deployment.md").read_text()
SERVICES = compose.resolved(compose.example())["services"]


def test_one_time_services__are_told_with_their_commands() -> None:
    for name in ("init", "migrate", "apply"):
        assert f"| `{name}` | `{' '.join(SERVICES[name]['command'])}` |" in TEXT


def test_published_ports__are_told_with_service_and_variable() -> None:
    published = [
        (name, *entry)
        for name, service in compose.raw()["services"].items()
        for entry in re.findall(r"\$\{(\w+):-(\d+)\}:\d+", " ".join(service.get("ports", [])))
    ]
    assert published
    for service, variable, port in published:
        assert re.search(rf"127\.0\.0\.1:{port} \| `{service}` \| `{variable}` \|", TEXT), variable


def test_volumes__are_told() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \|[^|]+\|[^|]+\|$", TEXT, re.MULTILINE)) >= set(
        compose.raw()["volumes"]
    )


def test_variables__exist() -> None:
    known = {match["name"] for match in compose.VARIABLE.finditer(compose.FILE.read_text())}
    known |= {name for service in SERVICES.values() for name in service.get("environment", {})}
    named = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", TEXT))
    assert named - known == set()
