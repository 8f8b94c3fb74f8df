"""Versions of a tenant's models: lists, promotion, rollback, deletion, gates and the audit trail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.registry.server import API, call, check_name, model_path, require_server
from ai_hub.times import from_millis, to_millis
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.gates.gate import Assessment
from mlflow_plugins.lifecycle import rules, semver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LATEST = "latest"
#: Of a version that was trained anew and of its run: the request that they are of, in this database.
REQUEST_TAG: Final = "retrain_request"
_PAGE = 1000
_HIGHEST_FIRST: Final = ("version_number DESC",)
_STAGES: Final = {stage.lower(): stage for stage in rules.ALLOWED}
#: Stands for the stage in the registry's searches.
_STAGE_TAG: Final = "lifecycle_stage"
_NEWEST_FIRST: Final = ("creation_timestamp DESC", "name ASC", "version_number DESC")
#: Names that an error lists.
_LISTED: Final = 20


class NoSuchVersionError(NotFoundError):
    """The model exists, the version does not."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version of a tenant's model."""

    tenant: str
    model: str
    version: int
    semantic_version: str | None
    stage: str
    aliases: tuple[str, ...]
    run_id: str | None
    registered_at: datetime
    tags: dict[str, str]
    #: of its run; `list_versions` has them
    metrics: dict[str, float]
    description: str | None = None

    @property
    def manifest_sha256(self) -> str | None:
        """SHA-256 of its manifest; None when it has none."""
        return self.tags.get(manifest.TAG)


def list_versions(tenant: str, model: str | None = None, *, limit: int | None = None) -> list[ModelVersion]:
    """Versions of one model or of all, by name, newest first, with aliases and the metrics of their runs.

    Costs a call for each model and each run among them, besides one for each thousand versions.

    Args:
        tenant: whose models.
        model: only this one.
        limit: only so many versions, the newest.

    Raises:
        NotFoundError: no such tenant or model.
    """
    check_name(tenant)
    require_server()
    aliases = {} if model is None else {model: _aliases(tenant, model)}
    found = search(tenant, model, order_by=_NEWEST_FIRST, limit=limit)
    for name in {item.model for item in found} - aliases.keys():
        aliases[name] = _aliases(tenant, name)
    metrics = {run_id: _metrics(tenant, run_id) for run_id in {item.run_id for item in found}}
    found = [
        replace(
            item,
            aliases=tuple(alias for alias, number in aliases[item.model].items() if number == item.version),
            metrics=metrics[item.run_id],
        )
        for item in found
    ]
    return sorted(found, key=lambda item: (item.model, -item.version))


def find_version(tenant: str, model: str, wanted: str | int) -> ModelVersion:
    """The version that `wanted` names, with one call.

    Found by its stage it comes without aliases other than `production`; `list_versions` has all.

    Args:
        tenant: whose model.
        model: its name.
        wanted: a number (`3`), a semantic version (`v1.2.0`), a stage (`production`), or `latest`: the
            newest version in Staging.

    Raises:
        NotFoundError: there is none, with what there is.
    """
    check_name(tenant)
    require_server()
    text = str(wanted)
    stage = rules.STAGING if text.lower() == LATEST else _STAGES.get(text.lower())
    if stage is not None:
        if matching := search(tenant, model, order_by=_HIGHEST_FIRST, limit=1, stage=stage):
            # those of other stages are of the version that came last into them
            return replace(matching[0], aliases=("production",) if stage == rules.PRODUCTION else ())
    elif text.isdecimal() or semver.parsed(text):
        try:
            return get_version(tenant, model, text)
        except NotFoundError:
            pass  # said below, with what there is
    raise _no_such_version(tenant, model, text)


def _no_such_version(tenant: str, model: str, wanted: str) -> NoSuchVersionError:
    _require_model(tenant, model)
    present = search(tenant, model, order_by=_HIGHEST_FIRST, limit=_LISTED + 1)
    if wanted.lower() == LATEST:
        return NoSuchVersionError(
            f"Model {model} of tenant {tenant} has no version in Staging, so there is no candidate.",
            hint=f"Name a version: --version. {_present(present)}",
        )
    near = semver.nearest(wanted, [item.semantic_version for item in present])
    return NoSuchVersionError(
        f"Model {model} of tenant {tenant} has no version {wanted!r}.",
        hint=(f"Did you mean {near}? " if near else "") + _present(present),
    )


def _present(present: list[ModelVersion]) -> str:
    names = [f"{item.version} ({item.semantic_version or '-'}, {item.stage})" for item in present]
    return f"It has: {_join_names(names) or 'no versions yet; train and register one first'}."


def production_version(tenant: str, model: str) -> ModelVersion:
    """The version in Production (see `find_version`).

    Raises:
        NotFoundError: there is none, or no such model.
    """
    try:
        return find_version(tenant, model, rules.PRODUCTION)
    except NoSuchVersionError as error:
        raise NotFoundError(
            f"No version of {model} (tenant {tenant}) is in Production.",
            hint=f"Promote one with `ai-hub promote {model} --tenant {tenant}`. {error.hint}",
        ) from error


def _aliases(tenant: str, model: str) -> dict[str, int]:
    """A model's aliases, which a search does not return."""
    found = call("GET", f"{API}/registered-models/get", tenant=tenant, params={"name": model})
    return {each["alias"]: int(each["version"]) for each in found["registered_model"].get("aliases", ())}


def search(
    tenant: str,
    model: str | None = None,
    *,
    order_by: Sequence[str] = (),
    limit: int | None = None,
    stage: str | None = None,
) -> list[ModelVersion]:
    """Versions of a model, or of all of the tenant, with one call for each thousand, without aliases.

    Args:
        tenant: whose models.
        model: only this one.
        order_by: MLflow's columns, for example `version_number DESC`.
        limit: only the first so many.
        stage: only those in it.
    """
    if model and "'" in model:
        return []  # no model can have this name, and no filter could say it
    found: list[ModelVersion] = []
    conditions = [f"name = '{model}'"] if model else []
    conditions += [f"tags.{_STAGE_TAG} = '{stage}'"] if stage else []
    parameters: dict[str, Any] = {"order_by": order_by, "filter": " AND ".join(conditions)}
    while limit is None or len(found) < limit:
        parameters["max_results"] = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = call("GET", f"{API}/model-versions/search", tenant=tenant, params=parameters)
        found += [read_version(tenant, each) for each in page.get("model_versions", ())]
        parameters["page_token"] = page.get("next_page_token")
        if not parameters["page_token"]:
            break
    return found


def get_version(tenant: str, model: str, version: str) -> ModelVersion:
    """One version by `v1.2.0` or MLflow's number, with one call.

    Raises:
        NotFoundError: there is none.
    """
    if version.isdecimal():
        route, key = "model-versions/get", "version"
    else:
        # the registry takes a semantic version for an alias
        route, key = "registered-models/alias", "alias"
    found = call("GET", f"{API}/{route}", tenant=tenant, params={"name": model, key: version})
    return read_version(tenant, found["model_version"])


def read_version(tenant: str, row: Mapping[str, Any]) -> ModelVersion:
    """A version from the server's JSON."""
    number = int(row["version"])
    tags = {str(tag["key"]): str(tag.get("value", "")) for tag in row.get("tags", ())}
    return ModelVersion(
        tenant=tenant,
        model=row["name"],
        version=number,
        semantic_version=tags.get(semver.TAG),
        stage=row["current_stage"],
        aliases=tuple(row.get("aliases", ())),
        run_id=row.get("run_id") or None,
        registered_at=from_millis(int(row["creation_timestamp"])),
        tags=tags,
        metrics={},
        description=row.get("description") or None,
    )


def set_tag(version: ModelVersion, key: str, value: str) -> None:
    """Set a version's tag.

    Raises:
        ConflictError: it is one that is written once, and has another value.
        ForbiddenError: the user may not.
    """
    body = {"name": version.model, "version": str(version.version), "key": key, "value": value}
    call("POST", f"{API}/model-versions/set-tag", tenant=version.tenant, json=body)


def _metrics(tenant: str, run_id: str | None) -> dict[str, float]:
    if run_id is None:
        return {}
    try:
        run = call("GET", f"{API}/runs/get", tenant=tenant, params={"run_id": run_id})["run"]
    except NotFoundError:  # a run may be cleaned up; its registered version stays
        return {}
    # JSON has no NaN, so some values are text
    return {each["key"]: float(each["value"]) for each in run["data"].get("metrics", ())}


def require_version(tenant: str, model: str, version: str) -> ModelVersion:
    """One version by `v1.2.0` or MLflow's number, with one call.

    Raises:
        NotFoundError: no such version, with what there is in the tenant.
    """
    check_name(tenant)
    require_server()
    try:
        return get_version(tenant, model, version)
    except NotFoundError as error:
        raise _no_version(tenant, model, version) from error


def search_newest_first(tenant: str, model: str | None) -> list[ModelVersion]:
    """Every version of a model, or of all of the tenant, newest first; one call for each thousand.

    Raises:
        NotFoundError: no such model, with those there are.
    """
    check_name(tenant)
    require_server()
    found = search(tenant, model, order_by=_NEWEST_FIRST)
    if model and not found:
        _require_model(tenant, model)
    return found


def _require_model(tenant: str, model: str) -> None:
    try:
        call("GET", f"{API}/registered-models/get", tenant=tenant, params={"name": model})
    except NotFoundError as error:
        raise _no_model(tenant, model) from error


def _no_version(tenant: str, model: str, version: str) -> NotFoundError:
    parameters = {
        "filter": f"name = '{model}'",
        "max_results": _LISTED + 1,
        "order_by": ["version_number DESC"],
    }
    page = call("GET", f"{API}/model-versions/search", tenant=tenant, params=parameters)
    present = [read_version(tenant, each) for each in page.get("model_versions", ())]
    if not present:
        return _no_model(tenant, model)
    near = semver.nearest(version, [item.semantic_version for item in present])
    known = [f"{item.semantic_version or item.version} ({item.stage})" for item in present]
    return NotFoundError(
        f"Model {model} of tenant {tenant} has no version {version}.",
        hint=(f"Did you mean {near}? " if near else "") + f"It has: {_join_names(known)}.",
    )


def _no_model(tenant: str, model: str) -> NotFoundError:
    # as MLflow's own client asks: prompts are no models
    parameters = {"filter": "tag.`mlflow.prompt.is_prompt` != 'true'", "max_results": _LISTED + 1}
    page = call("GET", f"{API}/registered-models/search", tenant=tenant, params=parameters)
    names = [each["name"] for each in page.get("registered_models", ())]
    if model in names:
        return NotFoundError(f"Model {model} of tenant {tenant} has no versions.", hint="Register one first.")
    return NotFoundError(
        f"Tenant {tenant} has no model {model}.",
        hint=f"It has: {_join_names(names)}." if names else "It has no models yet; register one first.",
    )


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


@dataclass(frozen=True)
class Transition:
    """A change of stage; `from_stage` is None on registration.

    `actor_source` says how far to trust `actor`: authenticated, claimed or unknown.
    """

    version: int
    semantic_version: str | None
    from_stage: str | None
    to_stage: str
    actor: str
    actor_source: str
    reason: str | None
    evidence: dict[str, Any]
    at: datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Transition:
        """Read what the server sends."""
        at = from_millis(row["at_ms"])
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if name != "at"}, at=at)


def gates(tenant: str, model: str, version: str | int = LATEST, *, reason: str | None = None) -> Assessment:
    """What promoting a version (see `find_version`) would meet now, if this user did it for this reason.

    Raises:
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    path = f"{model_path(model)}/versions/{chosen.version}/gates"
    parameters: dict[str, Any] = {} if reason is None else {"reason": reason}
    return Assessment.from_json(call("GET", path, tenant=tenant, params=parameters))


#: Seconds the server may take to read (or delete) every file of a version.
_CHECK_S: Final = 300


@dataclass(frozen=True)
class Move:
    """What a promotion or rollback did: the version's own transition, and those of whom it displaced."""

    model: str
    own: Transition
    displaced: tuple[Transition, ...]


def promote(
    tenant: str,
    model: str,
    version: str | int = LATEST,
    *,
    stage: str = rules.PRODUCTION,
    reason: str | None = None,
    expected: str | None = None,
) -> Move:
    """Move a version to `stage` (see `find_version` for `version`), from `expected` if that is given.

    Raises:
        ConflictError: the registry refuses, with its reason.
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    path = f"{model_path(model)}/versions/{chosen.version}/stage"
    return _move(tenant, model, path, {"stage": stage, "reason": reason, "expected": expected})


def rollback(tenant: str, model: str, *, version: str | int | None = None, reason: str | None = None) -> Move:
    """Put the version that was in Production before (or `version`, which was once) back into Production.

    Raises:
        ConflictError: there is nothing to roll back to, or the registry refuses.
        NotFoundError: no such tenant, model or version.
    """
    require_server()
    number = None if version is None else find_version(tenant, model, version).version
    return _move(tenant, model, f"{model_path(model)}/rollback", {"version": number, "reason": reason})


def delete(
    tenant: str, model: str, version: str | int, *, force: bool = False, reason: str | None = None
) -> list[str]:
    """Delete an archived version (`force`: one in any stage) for good; returns the files deleted.

    Raises:
        ConflictError: it is not archived.
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    parameters = {"force": str(force).lower(), **({"reason": reason} if reason else {})}
    path = f"{model_path(model)}/versions/{chosen.version}"
    answer = call("DELETE", path, tenant=tenant, params=parameters, timeout=_CHECK_S)
    return list(answer["files_deleted"])


def history(
    tenant: str, model: str, *, version: str | int | None = None, limit: int = 1000
) -> list[Transition]:
    """Every change of stage, newest first; those of deleted versions included."""
    check_name(tenant)
    require_server()
    parameters: dict[str, Any] = {"limit": limit}
    if version is not None:
        parameters["version"] = find_version(tenant, model, version).version
    answer = call("GET", f"{model_path(model)}/transitions", tenant=tenant, params=parameters)
    return [Transition.from_row(row) for row in answer["transitions"]]


def production_at(tenant: str, model: str, at: datetime) -> Transition | None:
    """The promotion that put into Production what was there at `at`; None when nothing was.

    Raises:
        BadInputError: `at` has no time zone.
        NotFoundError: no such tenant.
    """
    if at.tzinfo is None:
        raise BadInputError(
            f"{at.isoformat()} has no time zone.",
            hint="Give the time one, for example datetime(2026, 11, 30, 12, tzinfo=timezone.utc).",
        )
    check_name(tenant)
    require_server()
    parameters = {"at_ms": to_millis(at)}
    try:
        row = call("GET", f"{model_path(model)}/production", tenant=tenant, params=parameters)
    except NotFoundError:
        return None
    return Transition.from_row(row)


def _move(tenant: str, model: str, path: str, parameters: dict[str, Any]) -> Move:
    check_name(tenant)
    answer = call("POST", path, tenant=tenant, json=parameters, timeout=_CHECK_S)
    own, *displaced = map(Transition.from_row, answer["transitions"])
    return Move(model, own, tuple(displaced))
