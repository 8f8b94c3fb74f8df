"""Requests that the stores refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast.errors import FeastError

if TYPE_CHECKING:
    from collections.abc import Iterable


class HistoryNotKnownError(FeastError):
    """A request for rows as they were known at some time cannot be answered."""


class WriteColumnsError(FeastError):
    """Rows to be written do not have the columns of the table of the batch source."""

    def __init__(self, table: str, missing: Iterable[str], unknown: Iterable[str]) -> None:
        self.table = table
        self.missing = sorted(missing)
        self.unknown = sorted(unknown)
        parts = {"missing": self.missing, "not in the table": self.unknown}
        found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
        super().__init__(f"The rows do not fit into {table}. {found}.")


class WriteTargetError(FeastError):
    """The batch source is no table that rows can be written to."""


class QueryTimeoutError(FeastError):
    """A query ran longer than allowed and was cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"The query did not finish within {seconds:g} s and was cancelled. Ask for less at once, "
            "or allow more by the job's `timeout` or the offline store's `statement_timeout_s`."
        )


class ColumnTypesError(FeastError):
    """The columns of a feature view's source have types that cannot be encoded as whole columns."""

    def __init__(self, view: str) -> None:
        super().__init__(f"Columns of {view} have types that cannot be encoded as whole columns.")


class InterruptedMaterializationError(FeastError):
    """A materialization ended before its end because another one of the same call was interrupted."""

    def __init__(self, view: str) -> None:
        super().__init__(f"The materialization of {view} was interrupted.")
