"""Lists read about as many rows as they show, however many there are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ai_hub.api import services
from ai_hub.db import connect
from ai_hub.ingest import findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection
    from support.energy import Energy

MANY = 5_000
FINDINGS = """
INSERT INTO data_findings (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail)
SELECT %(tenant)s, 'meter-' || lpad((number / 10)::text, 5, '0'), 'gap',
    now() - number %% 10 * INTERVAL '1 day', now(), '{"hours": 2}'
FROM generate_series(1, %(many)s) AS number
"""


@pytest.fixture
def connection(database: str, tenant: str) -> Iterator[Connection]:
    values = {"tenant": tenant, "many": MANY}
    with connect(database, autocommit=True) as opened:
        opened.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind)"
            " SELECT %(tenant)s, 'meter-' || lpad(number::text, 5, '0'), 'electricity'"
            " FROM generate_series(1, %(many)s) AS number",
            values,
        )
        opened.execute(FINDINGS, values)
        opened.execute("ANALYZE assets, data_findings")
        yield opened


def rows_read(connection: Connection, query: str, values: Any) -> int:
    """Rows that the tables' scans gave or threw away."""
    ((plans,),) = connection.execute(
        f"EXPLAIN (ANALYZE, FORMAT json) {query}",  # type: ignore[arg-type]
        values,
    ).fetchall()
    return _scanned(plans[0]["Plan"])


def _scanned(node: dict[str, Any]) -> int:
    inner = node.get("Plans", [])
    own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if not inner else 0
    return int(own * node["Actual Loops"]) + sum(map(_scanned, inner))


def test_page_of_assets__reads_the_page(connection: Connection, tenant: str) -> None:
    values = {"tenant": tenant, "kind": None, "assets": None, "limit": 20, "offset": 0}
    assert rows_read(connection, services._PAGE, values) <= 25
    some = values | {"assets": ["meter-00003", "meter-04000"]}
    assert rows_read(connection, services._PAGE, some) <= 25


def test_findings__end_at_the_limit(energy: Energy, connection: Connection, tenant: str) -> None:
    # an asset's findings come by kind, and are sorted by time
    assert rows_read(connection, findings.FIND, [tenant, None, None, False, 20]) <= 60
    shown = energy.run("ai-hub", "ingest", "findings", "--tenant", tenant, "--limit", "20", "--json")
    assert shown.returncode == 0, shown.stderr
    assert len(json.loads(shown.stdout)) == 20
    assert "more than these 20" in shown.stderr
    one = energy.run("ai-hub", "ingest", "findings", "--tenant", tenant, "--asset", "meter-00003", "--json")
    assert len(json.loads(one.stdout)) == 10
    assert not one.stderr
