"""The declared view `ai_features` as Feast sources, one a feature view.

Among its columns is `local_time`: the database converts it, so calendar features need no time zone data
wherever they are computed.
"""

from collections.abc import Sequence

from feast import PushSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource


def view_source(view: str, features: Sequence[str], description: str) -> PostgreSQLSource:
    """Source named like `view`, with these features and `local_time`; rows are stamped with their hour.

    Tag `versions` leads the offline store to every version of the rows there ever was, for reads of what was
    known at an earlier time.
    """
    columns = ", ".join(f'"{feature}"' for feature in features)
    columns = f"tenant_id, asset_id, event_timestamp, created_timestamp, {columns}, local_time"
    return PostgreSQLSource(
        name=view,
        query=f"SELECT {columns} FROM ai_features",  # noqa: S608  # constants of this repository
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
        tags={"versions": f"SELECT {columns}, superseded_at FROM ai_features_versions"},  # noqa: S608  # the same
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
        tags={"filled_by_database": "interval_seconds,in_features,available_at"},
    ),
    description="A reading that must be online at once",
)
