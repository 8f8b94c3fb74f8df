"""A version on its way from one registry to another: the document that goes along with its files."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: Version tag that says from where a version was imported, as JSON.
TAG: Final = "imported_from"
_LONGEST: Final = 500
#: Of a trail, which is kept for good and read by every page: characters as JSON, and values inside values.
_LONGEST_TRAIL: Final = 1_000_000
_DEEPEST: Final = 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Origin(_Strict):
    """Which version it is, where, and who exported it when (ISO 8601, UTC)."""

    server: str = Field(max_length=_LONGEST)
    tenant: str = Field(max_length=_LONGEST)
    model: str = Field(max_length=_LONGEST)
    version: int
    semantic_version: str = Field(max_length=40)
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    exported_by: str = Field(max_length=_LONGEST)
    exported_at: str = Field(max_length=40)

    def __str__(self) -> str:
        return (
            f"{self.model} {self.semantic_version} of {self.tenant} at {self.server}, "
            f"exported by {self.exported_by}"
        )

    def as_tag(self) -> str:
        """The value of the version's tag."""
        return json.dumps(self.model_dump(), sort_keys=True)


class Dataset(_Strict):
    """A data set its run has recorded, with MLflow's fields."""

    name: str
    digest: str
    source_type: str
    source: str
    schema_: str | None = Field(None, alias="schema")
    profile: str | None = None
    tags: dict[str, str] = {}


class Lineage(_Strict):
    """How the version came to be where it was registered."""

    run_id: str | None
    source: str | None
    author: str | None
    registered_at: str | None
    feature_service: str | None
    code_version: str | None
    datasets: list[Dataset]


class Fingerprint(_Strict):
    """What a file must be."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ExportedVersion(_Strict):
    """All of a version but the contents of its files, which are named with their digests."""

    format: Literal[1]
    origin: Origin
    description: str | None
    tags: dict[str, str]
    params: dict[str, str]
    #: None for one that is no finite number
    metrics: dict[str, float | None]
    run_tags: dict[str, str]
    lineage: Lineage
    #: its audit trail, the newest in front
    transitions: list[dict[str, Any]]
    #: of the model, without what the registry has added
    files: dict[str, Fingerprint]
    #: `metadata.json`, `metrics.json` and `manifest.json`, as they were there
    registry_files: dict[str, Fingerprint]

    @field_validator("transitions")
    @classmethod
    def _is_readable(cls, transitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if _depth(transitions) > _DEEPEST or len(json.dumps(transitions)) > _LONGEST_TRAIL:
            raise ValueError(
                f"a trail has at most {_LONGEST_TRAIL:,} characters and {_DEEPEST} values inside each other"
            )
        return transitions

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """The model's files as manifests list them."""
        return {path: entry.model_dump() for path, entry in self.files.items()}

    def evidence(self) -> dict[str, Any]:
        """What the audit trail keeps of it where it is imported."""
        kept = {"origin", "lineage", "metrics", "transitions"}
        return self.model_dump(mode="json", by_alias=True, include=kept)


def _depth(value: Any) -> int:
    """How many values are inside each other; the parser has refused what is too deep to be counted."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
