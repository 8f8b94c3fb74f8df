"""What a run was trained on, as MLflow keeps it: tables, window and the time that rows were known at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource
from typing_extensions import override

from ai_hub.forecasting import TRAINING_SOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.types.schema import Schema

_TIMES: Final = ("start", "end", "readings_from", "known_at")


@dataclass(frozen=True)
class FeatureRows(DatasetSource):
    """Feature rows of a tenant between two times, as known at a time."""

    tenant: str
    feature_service: str
    #: feature views, which are relations in TimescaleDB
    tables: tuple[str, ...]
    start: datetime
    end: datetime
    #: time of the first readings that the rows are made of
    readings_from: datetime
    #: what was recorded later is not in them
    known_at: datetime

    def within(self, start: datetime, end: datetime) -> FeatureRows:
        """The part of the rows between two times."""
        return replace(self, start=start, end=end, readings_from=start - (self.start - self.readings_from))

    @staticmethod
    @override
    def _get_source_type() -> str:
        return TRAINING_SOURCE

    @override
    def load(self) -> Any:
        """Refuse: rows are read through Feast.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"Feature rows are read through Feast, at known_at {self.known_at.isoformat()}: "
            "`ai_hub.features.store.open_store(known_at=…)`, or `ai-hub train --known-at …`."
        )

    @staticmethod
    @override
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, FeatureRows)

    @classmethod
    @override
    def _resolve(cls, raw_source: Any) -> FeatureRows:
        source: FeatureRows = raw_source
        return source

    @override
    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "tables": list(self.tables),
            **{name: getattr(self, name).isoformat() for name in _TIMES},
        }

    @classmethod
    @override
    def from_dict(cls, source_dict: dict[Any, Any]) -> FeatureRows:
        times = {name: datetime.fromisoformat(source_dict[name]) for name in _TIMES}
        return cls(**{**source_dict, "tables": tuple(source_dict["tables"]), **times})


class FeatureRowsDataset(Dataset):
    """Feature rows, of which MLflow keeps all but the rows."""

    def __init__(
        self,
        source: FeatureRows,
        name: str,
        *,
        assets: Sequence[str],
        row_count: int,
        schema: Schema | None = None,
        digest: str | None = None,
    ) -> None:
        """Describe the rows.

        Args:
            source: where they are from.
            name: of the dataset.
            assets: whose rows.
            row_count: how many.
            schema: of their features and target.
            digest: of their values; default: of the source and the assets.
        """
        self._schema = schema
        self._profile = {"num_rows": row_count, "assets": sorted(assets)}
        super().__init__(source, name, digest)

    @override
    def _compute_digest(self) -> str:
        text = json.dumps([self.name, self.source.to_dict(), self._profile])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    @override
    def profile(self) -> dict[str, Any]:
        return self._profile

    @property
    @override
    def schema(self) -> Schema | None:
        return self._schema

    @override
    def to_dict(self) -> dict[str, str]:
        schema = self._schema and json.dumps({"mlflow_colspec": self._schema.to_dict()})
        more = {"schema": schema, "profile": json.dumps(self._profile)}
        return {**super().to_dict(), **{name: text for name, text in more.items() if text}}
