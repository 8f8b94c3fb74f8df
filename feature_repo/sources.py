"""TimescaleDB views as Feast sources.

`local_time` is the row's hour on the wall clock of the asset's own time zone, in seconds since 1970. The
database converts it, so calendar features need no time zone data wherever they are computed.
"""

from collections.abc import Sequence

from feast import PushSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource


def view_source(view: str, features: Sequence[str], description: str) -> PostgreSQLSource:
    """Source named like `view`, with its `features` and `local_time`; rows are stamped with their hour.

    Tag `versions` leads the offline store to every version of the rows there ever was, for reads of what was
    known at an earlier time.
    """
    columns = ", ".join(f'"{feature}"' for feature in features)
    columns = (
        f"tenant_id, asset_id, event_timestamp, created_timestamp, {columns}, "
        "extract(epoch FROM event_timestamp AT TIME ZONE timezone)::bigint AS local_time"
    )
    versions = f"{view.removesuffix('_features')}_feature_versions"
    return PostgreSQLSource(
        name=view,
        query=f"SELECT {columns} FROM {view}",  # noqa: S608  # constants of this repository
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
        tags={"versions": f"SELECT {columns}, superseded_at FROM {versions}"},  # noqa: S608  # the same
    )


#: Readings one by one, by `store.push("readings", …)`. A row has the columns of the table.
readings = PushSource(
    name="readings",
    batch_source=PostgreSQLSource(
        name="timeseries_data",
        table="timeseries_data",
        # no renaming: Feast 0.67 forgets the field mapping of views that can be pushed to
        timestamp_field="timestamp",
        created_timestamp_column="ingested_at",
        description="Readings as they were ingested",
        tags={"filled_by_database": "interval_seconds,in_features"},
    ),
    description="A reading that must be online at once",
)
