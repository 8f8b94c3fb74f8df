"""Requests that the stores refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast.errors import FeastError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime


class HistoryNotKnownError(FeastError):
    """Rows cannot be read as they were known at an earlier time."""


class MaterializationEndError(FeastError):
    """A materialization would end in the future, or an earlier one did."""

    def __init__(self, view: str, start: datetime, end: datetime) -> None:
        self.view = view
        self.start = start
        self.end = end
        since, until = f"{start:%Y-%m-%dT%H:%M:%S} UTC", f"{end:%Y-%m-%dT%H:%M:%S} UTC"
        text = (
            f"An earlier run materialized {view} until {since}, which is in the future, so this one would "
            "write nothing. `feast materialize START END` writes the missing rows."
            if start > end
            else f"{until} is in the future: the next incremental run would start there and skip the rows "
            "before. End now: `feast materialize-incremental $(date -u +%Y-%m-%dT%H:%M:%S)`."
        )
        super().__init__(text)


class SharedRegistryError(FeastError):
    """A teardown would delete other projects of the registry."""

    def __init__(self, project: str, others: Iterable[str]) -> None:
        self.project = project
        self.others = sorted(others)
        super().__init__(
            f"FeatureStore.teardown would also delete {', '.join(self.others)} from the registry, so nothing "
            f"was deleted. For {project} alone: feast_plugins.projects.teardown(store), or AI Hub's "
            "`feast teardown`."
        )


class ProtectedProjectError(FeastError):
    """A project with Feast's tag for protected ones cannot be torn down."""

    def __init__(self, project: str) -> None:
        self.project = project
        super().__init__(
            f"The project {project} is protected: it is managed elsewhere, and Feast does not tear it down."
        )


class WriteColumnsError(FeastError):
    """Rows to be written have other columns than the table of the batch source."""

    def __init__(self, table: str, missing: Iterable[str], unknown: Iterable[str]) -> None:
        self.table = table
        self.missing = sorted(missing)
        self.unknown = sorted(unknown)
        by_label = {"missing": self.missing, "not in the table": self.unknown}
        differences = "; ".join(f"{label}: {', '.join(names)}" for label, names in by_label.items() if names)
        super().__init__(f"The rows do not fit into {table}. {differences}.")


class WriteTargetError(FeastError):
    """The batch source is no table that rows can be written to."""


class EntityKeysError(FeastError):
    """Rows of views with different keys cannot be joined without entity rows."""

    def __init__(self, views: Iterable[str]) -> None:
        self.views = sorted(views)
        super().__init__(
            f"None of {', '.join(self.views)} has the keys of all others, so their rows cannot be told apart "
            "without entity rows. Give entity_df, or ask for these views one by one."
        )


class EntityTypeError(FeastError):
    """Join keys of the entity rows have types that do not compare with those of a view."""

    def __init__(self, view: str, types: Mapping[str, str]) -> None:
        self.view = view
        self.types = dict(types)
        types_text = ", ".join(f"{name} ({kind})" for name, kind in self.types.items())
        super().__init__(
            f"The keys of the entity rows do not compare with those of {view}: {types_text}. Give each "
            "the type that its column has in the view's source."
        )


class QueryTimeoutError(FeastError):
    """A query ran longer than allowed and was cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"The query did not finish within {seconds:g} s and was cancelled. Request fewer rows, or "
            "raise the job's `timeout` or the offline store's `statement_timeout_s`."
        )


class SavedDatasetStorageError(FeastError):
    """Results are saved by SavedDatasetFileStorage (Parquet) or SavedDatasetPostgreSQLStorage (a table)."""

    def __init__(self, storage: type) -> None:
        self.storage = storage
        super().__init__(f"{type(self).__doc__} Use one of these instead of {storage.__name__}.")


class ExportLocationMissingError(FeastError):
    """The offline store has no `export_location`: name a folder or an s3:// address to export to."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class ColumnTypesError(FeastError):
    """The columns of a feature view's source have types that cannot be encoded as whole columns."""

    def __init__(self, view: str) -> None:
        super().__init__(f"Columns of {view} have types that cannot be encoded as whole columns.")


class InterruptedMaterializationError(FeastError):
    """A materialization was cancelled because the call that it is part of was interrupted."""

    def __init__(self, view: str) -> None:
        super().__init__(f"The materialization of {view} was interrupted.")


class RayEngineMissingError(FeastError):
    """The offline store joins on the cluster of the Ray engine: name one as `batch_engine`."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class DeclarationError(FeastError):
    """A declared feature view that cannot be: what is wrong with it."""


class DeclarationLossError(FeastError):
    """Applying a declaration would delete stored values."""

    def __init__(self, losses: Iterable[str]) -> None:
        self.losses = list(losses)
        super().__init__(
            f"This would delete {'; '.join(self.losses)}. `feast apply` asks whether it shall; a program "
            "says so by `with feast_plugins.windows.database.allow_losses():`."
        )
