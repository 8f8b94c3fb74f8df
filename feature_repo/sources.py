"""TimescaleDB views as Feast sources.

`local_time` is the row's hour on the wall clock of the asset's own time zone, in seconds since 1970. The
database converts it, so calendar features need no time zone data wherever they are computed.
"""

from collections.abc import Sequence

from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource


def view_source(view: str, features: Sequence[str], description: str) -> PostgreSQLSource:
    """Source named like `view`, with its `features` and `local_time`; rows are stamped with their hour."""
    columns = ", ".join(f'"{feature}"' for feature in features)
    return PostgreSQLSource(
        name=view,
        query=(
            f"SELECT tenant_id, asset_id, event_timestamp, created_timestamp, {columns}, "  # noqa: S608  # constants of this repository
            f"extract(epoch FROM event_timestamp AT TIME ZONE timezone)::bigint AS local_time FROM {view}"
        ),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
    )
