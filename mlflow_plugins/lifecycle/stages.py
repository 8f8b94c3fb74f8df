"""Changes of stage inside one transaction that holds the model's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast

import sqlalchemy as sa
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
)
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.errors import bad_input, conflict, missing
from mlflow_plugins.lifecycle import aliases, audit, rules, semver
from mlflow_plugins.lifecycle.aliases import AliasChange
from mlflow_plugins.notifications import outbox
from mlflow_plugins.notifications.outbox import Event
from mlflow_plugins.users.permissions import (
    ACTOR_TAG,
    REASON_TAG,
    UNKNOWN,
    Actor,
    claimed,
    current_actor,
    reason_of_request,
    require_approver,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey, Transition


#: By which a page says who wants a change, and why.
CAUSE_TAGS: Final = (REASON_TAG, ACTOR_TAG)
#: What a reason may have in the audit trail.
LONGEST_REASON: Final = 5000


class Cause(NamedTuple):
    """Who changes a stage, why, and what was checked before."""

    actor: Actor
    reason: str | None
    evidence: dict[str, Any]

    @classmethod
    def of_request(
        cls, evidence: dict[str, Any], *, reason: str | None = None, claim: str | None = None
    ) -> Cause:
        """The cause of what this request does; `claim` is whom the caller says it acts for.

        Raises:
            MlflowException: 400, no audit trail could hold the reason.
        """
        reason = checked("The reason", reason or reason_of_request(), LONGEST_REASON)
        return cls(current_actor(claim), reason, evidence)


class VersionRow(Protocol):
    """The columns of MLflow's `SqlModelVersion` used here, with the types their values have."""

    workspace: str
    name: str
    version: int
    current_stage: str
    source: str
    run_id: str | None
    user_id: str | None
    description: str | None
    creation_time: int
    last_updated_time: int


Text = TypeVar("Text", str, str | None)

_ACTIVE: Final = (rules.STAGING, rules.PRODUCTION)


def lock_model(session: Session, workspace: str, name: str) -> ModelKey:
    """Make every other change to this model wait until the transaction ends.

    An UPDATE as the transaction's first statement locks the row on PostgreSQL and takes the write lock on
    SQLite, waiting for whoever has it; both then read what was committed last.

    Raises:
        MlflowException: 404, no such model.
    """
    this_model = (SqlRegisteredModel.workspace == workspace, SqlRegisteredModel.name == name)
    touched = (
        sa.update(SqlRegisteredModel).where(*this_model).values(last_updated_time=get_current_time_millis())
    )
    result = session.execute(touched.execution_options(synchronize_session=False))
    if cast("sa.CursorResult[Any]", result).rowcount == 0:
        raise missing(f"Registered Model with name={name} not found")
    created = session.scalar(sa.select(SqlRegisteredModel.creation_time).where(*this_model))
    return audit.ModelKey(workspace, name, created or 0)


def refusal(session: Session, model: ModelKey, version: VersionRow, target: str) -> str | None:
    """Why the rules keep a version from moving to stage `target`; None when they do not."""
    was_in_production = audit.was_in_production(session, model, version.version)
    why = rules.refusal(version.current_stage, target, was_in_production=was_in_production)
    return f"Version {version.version} of model {model.name} stays as it is. {why}" if why else None


def check_move(session: Session, model: ModelKey, version: VersionRow, target: str) -> None:
    """Refuse what the rules do not allow.

    Raises:
        MlflowException: 409, the version may not move to stage `target`; 403, this user may not move it.
    """
    if rules.PRODUCTION in {version.current_stage, target}:
        require_approver(model.workspace)
    if (why := refusal(session, model, version, target)) is not None:
        raise conflict(why)


def move(
    session: Session,
    model: ModelKey,
    version: VersionRow,
    target: str,
    *,
    archive_others: bool,
    cause: Cause,
) -> list[Transition]:
    """Move a version, archive whom it displaces, record both, and let the aliases follow.

    Returns:
        What was recorded: the version's own transition in front.

    Raises:
        MlflowException: 409 by the rules.
    """
    check_move(session, model, version, target)
    cause = _using_up_tags(session, version, cause)
    displaced: list[Transition] = []
    if target == rules.PRODUCTION or (archive_others and target in _ACTIVE):
        for other in versions_of(session, model, target):
            if other.version != version.version:
                why = f"Displaced from {target} by version {version.version}."
                because = Cause(cause.actor, why, {"displaced_by": version.version})
                displaced.append(_set_stage(session, model, other, rules.ARCHIVED, because))
    own = _set_stage(session, model, version, target, cause)
    mirror_aliases(session, model)
    _tell(session, model, own, displaced)
    return [own, *displaced]


def enter_registry(session: Session, model: ModelKey, version: VersionRow, cause: Cause) -> None:
    """Put a new version into Staging."""
    cause = _using_up_tags(session, version, cause)
    version.user_id = None if cause.actor.source == "unknown" else cause.actor.name
    version.current_stage = rules.STAGING
    _record(session, model, version, None, cause)
    mirror_aliases(session, model)


def record_deletion(session: Session, model: ModelKey, version: VersionRow, cause: Cause) -> None:
    """Write the end of a version's life into the audit trail."""
    if version.current_stage == rules.PRODUCTION:
        require_approver(model.workspace)
    cause = _using_up_tags(session, version, cause)
    origin, version.current_stage = version.current_stage, rules.DELETED
    _tell(session, model, _record(session, model, version, origin, cause), [])


def mirror_aliases(session: Session, model: ModelKey) -> None:
    """Point each stage's alias at the version that entered it last; remove it when the stage is empty."""
    session.flush()
    table: Any = SqlRegisteredModelAlias
    mine = (table.workspace == model.workspace, table.name == model.name, table.alias.in_(rules.ALIAS_STAGES))
    present = {row.alias: row for row in session.scalars(sa.select(table).where(*mine))}
    entered = (_entered_last(model, stage) for stage in rules.ALIAS_STAGES.values())
    for alias, newest in zip(rules.ALIAS_STAGES, session.execute(sa.select(*entered)).one(), strict=True):
        row = present.get(alias)
        if newest == (row.version if row is not None else None):
            continue
        if row is None:
            values = {"workspace": model.workspace, "name": model.name, "alias": alias, "version": newest}
            session.add(SqlRegisteredModelAlias(**values))
        elif newest is None:
            session.delete(row)
        else:
            row.version = newest
        aliases.note(session, AliasChange(alias, newest))
    session.flush()


def semantic_version(session: Session, version: VersionRow) -> str | None:
    """The version's semantic version; None for one registered before this plugin."""
    return tags(session, version, semver.TAG).get(semver.TAG)


def versions_of(session: Session, model: ModelKey, stage: str | None = None) -> list[VersionRow]:
    """Every version that is not deleted (or those in `stage`), oldest first."""
    column: sa.Column[str] = SqlModelVersion.current_stage
    query = (
        sa.select(SqlModelVersion)
        .where(SqlModelVersion.workspace == model.workspace, SqlModelVersion.name == model.name)
        .where(column != STAGE_DELETED_INTERNAL if stage is None else column == stage)
        .order_by(SqlModelVersion.version)
    )
    return [cast("VersionRow", row) for row in session.scalars(query)]


def _entered_last(model: ModelKey, stage: str) -> sa.ColumnElement[int | None]:
    """Of the versions now in `stage`, the one that came last; those older than the trail go by number."""
    number = cast("sa.ColumnElement[int]", SqlModelVersion.version)
    inside = (
        SqlModelVersion.workspace == model.workspace,
        SqlModelVersion.name == model.name,
        SqlModelVersion.current_stage == stage,
    )
    highest = sa.select(sa.func.max(number)).where(*inside).scalar_subquery()
    return sa.func.coalesce(audit.entered_last(model, stage, sa.select(number).where(*inside)), highest)


def _set_stage(
    session: Session, model: ModelKey, version: VersionRow, target: str, cause: Cause
) -> Transition:
    origin, version.current_stage = version.current_stage, target
    version.last_updated_time = get_current_time_millis()
    return _record(session, model, version, origin, cause)


def _tell(session: Session, model: ModelKey, own: Transition, displaced: list[Transition]) -> None:
    if (event := Event.of_move(model.workspace, own, displaced)) is not None:
        outbox.add(session, event)


def _record(
    session: Session, model: ModelKey, version: VersionRow, origin: str | None, cause: Cause
) -> Transition:
    return audit.record(
        session,
        model,
        version=version.version,
        semantic_version=semantic_version(session, version),
        from_stage=origin,
        to_stage=version.current_stage,
        actor=cause.actor,
        reason=cause.reason,
        evidence=cause.evidence,
    )


def with_tags(said: Mapping[str, str], cause: Cause) -> Cause:
    """Fill in what a page could only say by `CAUSE_TAGS` of the version."""
    claim = said.get(ACTOR_TAG)
    actor = claimed(claim) if claim and cause.actor == UNKNOWN else cause.actor
    reason = cause.reason or checked(f"Tag {REASON_TAG}", said.get(REASON_TAG), LONGEST_REASON)
    return cause._replace(actor=actor, reason=reason)


def checked(what: str, text: Text, longest: int) -> Text:
    """The text, if a column of so many characters can hold it.

    Raises:
        MlflowException: 400, with what to do.
    """
    if text is not None and len(text) > longest:
        raise bad_input(f"{what} has {len(text)} characters; at most {longest} can be kept. Shorten it.")
    if text is not None and "\x00" in text:
        raise bad_input(f"{what} contains the character NUL, which no database keeps. Remove it.")
    return text


def _using_up_tags(session: Session, version: VersionRow, cause: Cause) -> Cause:
    """As `with_tags`; the tags are gone afterwards, whether they were needed or not."""
    filled = with_tags(tags(session, version, *CAUSE_TAGS), cause)
    session.execute(sa.delete(SqlModelVersionTag).where(*_tagged([version], CAUSE_TAGS)))
    return filled


def tags(session: Session, version: VersionRow, *keys: str) -> dict[str, str]:
    """Those of these tags that a version has, without empty ones."""
    return tags_of(session, [version], *keys)[version.version]


def tags_of(session: Session, versions: Sequence[VersionRow], *keys: str) -> dict[int, dict[str, str]]:
    """The same of several versions of one model, by version."""
    row: Any = SqlModelVersionTag
    found: dict[int, dict[str, str]] = {version.version: {} for version in versions}
    query = sa.select(row.version, row.key, row.value).where(*_tagged(versions, keys))
    for version, key, value in session.execute(query):
        if value:
            found[version][key] = value
    return found


def _tagged(versions: Sequence[VersionRow], keys: Collection[str]) -> tuple[sa.ColumnElement[bool], ...]:
    row: Any = SqlModelVersionTag
    return (
        row.workspace == versions[0].workspace,
        row.name == versions[0].name,
        row.version.in_([version.version for version in versions]),
        row.key.in_(keys),
    )
