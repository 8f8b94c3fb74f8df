"""Requests to train models in production anew: proposed by rule, decided by a person or by policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence  # of dataclasses
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from prometheus_client import Counter
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ai_hub.db.transactions import transaction
from ai_hub.errors import AiHubError, ConflictError, NotFoundError
from ai_hub.forecasting import findings
from ai_hub.forecasting.findings import Thresholds, event_log
from ai_hub.forecasting.log import Role
from ai_hub.jobs import queue
from ai_hub.registry.versions import ModelVersion  # of a dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from ai_hub.forecasting.card import ModelCard
    from ai_hub.forecasting.findings import ModelFinding
    from ai_hub.settings import Settings

#: Kind of the jobs.
KIND: Final = "retrain"
#: Who decides where a policy does.
BY_POLICY: Final = "policy"
#: Without the tenant: a name in a metric is readable by all who read metrics.
_CHANGES: Final = Counter(
    "ai_hub_retrain_requests",
    "Requests to train a model anew that were proposed, approved, rejected or withdrawn",
    ["change"],
)
_DAY: Final = timedelta(days=1)
_WEEK: Final = timedelta(days=7)
#: Measured hours of a week that may be compared: a day may be missing.
_WHOLE_WEEK: Final = 6 * 24
#: Readings that a new meter must have before it is a reason to train.
_HISTORY: Final = timedelta(weeks=4)
#: Meters that evidence names.
_NAMED: Final = 20
#: Meters that a line names.
_SHOWN: Final = 3


class Cause(StrEnum):
    """Why a model should be trained anew, the heaviest first."""

    #: a finding: its error is above its own history
    ERROR = "error"
    #: the load of meters has left its own history; never alone, only beside an error
    DRIFT = "drift"
    #: it was registered long ago
    AGE = "age"
    #: there are meters that it was not trained on
    ASSETS = "assets"
    #: somebody asks for it
    REQUEST = "request"


class Status(StrEnum):
    """What has become of a request."""

    PROPOSED = "proposed"
    #: its job waits or runs
    APPROVED = "approved"
    REJECTED = "rejected"
    #: the version that it is about left production before anybody decided
    WITHDRAWN = "withdrawn"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class Policy:
    """When a model is trained anew, and who decides it."""

    #: a proposal is approved at once; the new version gets as far as Staging, never further
    automatic: bool = False
    max_age_days: int = 180
    #: days without a proposal after a request has ended
    cooldown_days: int = 14

    def as_dict(self) -> dict[str, Any]:
        """The policy for JSON."""
        return {"approval": "automatic" if self.automatic else "manual"} | {
            name: getattr(self, name) for name in ("max_age_days", "cooldown_days")
        }


_POLICY: Final = """
SELECT
    (array_agg(automatic ORDER BY model DESC) FILTER (WHERE automatic IS NOT NULL))[1],
    (array_agg(max_age_days ORDER BY model DESC) FILTER (WHERE max_age_days IS NOT NULL))[1],
    (array_agg(cooldown_days ORDER BY model DESC) FILTER (WHERE cooldown_days IS NOT NULL))[1]
FROM retrain_policies WHERE tenant_id = %s AND model IN ('', %s)
"""
_SAVE_POLICY: Final = """
INSERT INTO retrain_policies AS stored (tenant_id, model, automatic, max_age_days, cooldown_days)
VALUES (%(tenant)s, %(model)s, %(automatic)s, %(max_age_days)s, %(cooldown_days)s)
ON CONFLICT (tenant_id, model) DO UPDATE SET
    automatic = coalesce(excluded.automatic, stored.automatic),
    max_age_days = coalesce(excluded.max_age_days, stored.max_age_days),
    cooldown_days = coalesce(excluded.cooldown_days, stored.cooldown_days)
"""


def find_policy(connection: psycopg.Connection[Any], tenant: str, model: str = "") -> Policy:
    """The policy of a model: each value its own, else that of the tenant's models, else the default."""
    row = connection.execute(_POLICY, [tenant, model]).fetchone()
    values = zip(("automatic", "max_age_days", "cooldown_days"), row or (), strict=False)
    return Policy(**{name: value for name, value in values if value is not None})


def save_policy(
    connection: psycopg.Connection[Any], tenant: str, model: str = "", **values: bool | int | None
) -> Policy:
    """Set the fields that are not None, of one model or (without a name) of all; returns the new policy."""
    unset = dict.fromkeys(("automatic", "max_age_days", "cooldown_days"))
    connection.execute(_SAVE_POLICY, {"tenant": tenant, "model": model, **unset, **values})
    return find_policy(connection, tenant, model)


@dataclass(frozen=True)
class RetrainRequest:
    """One row. Times are in UTC."""

    request_id: UUID
    tenant_id: str
    model: str
    #: in production when it was proposed
    version: int
    semantic_version: str | None
    #: by cause
    evidence: Mapping[str, Any] = field(hash=False)
    status: str
    proposed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None
    ended_at: datetime | None
    #: what was registered
    new_version: int | None
    new_semantic_version: str | None
    error: str | None

    @property
    def causes(self) -> list[Cause]:
        """Why, the heaviest first."""
        return [cause for cause in Cause if cause in self.evidence]

    def as_dict(self) -> dict[str, Any]:
        """The request for JSON."""
        plain = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }
        return {
            "tenant": plain.pop("tenant_id"),
            **plain,
            "request_id": str(self.request_id),
            "causes": [each.value for each in self.causes],
        }

    @property
    def why(self) -> str:
        """Its causes, for a reader."""
        return "; ".join(map(self._text, self.causes))

    def __str__(self) -> str:
        """One line."""
        number = f"{self.version}" + (f" ({self.semantic_version})" if self.semantic_version else "")
        return f"{self.model} {number}: {self.why}"

    def _text(self, cause: Cause) -> str:
        evidence = self.evidence[cause]
        match cause:
            case Cause.ERROR:
                return "error above its own history: MAE {value:.3g}, usually {usual:.3g}".format(**evidence)
            case Cause.DRIFT:
                named = evidence["meters"][:_SHOWN]
                text = ", ".join("{asset} {value:.3g}, usually {usual:.3g}".format(**each) for each in named)
                return f"the load of {evidence['count']} meters has changed: {text}"
            case Cause.AGE:
                return "trained {days} days ago, at most {limit} are allowed".format(**evidence)
            case Cause.ASSETS:
                more = " and others" if evidence["count"] > _SHOWN else ""
                return f"{evidence['count']} new meters: {', '.join(evidence['names'][:_SHOWN])}{more}"
            case Cause.REQUEST:
                return f"{evidence['by']} asks: {evidence['reason']}"

    @property
    def outcome(self) -> str:
        """What has become of it, for a reader."""
        match self.status:
            case Status.COMPLETED:
                return f"completed: version {self.new_version} ({self.new_semantic_version}) in Staging"
            case Status.FAILED:
                return f"failed: {self.error}"
            case Status.PROPOSED:
                return "waits for a decision"
        return f"{self.status} by {self.decided_by}" + (f": {self.reason}" if self.reason else "")


_UNTOLD: Final = "status IN ('proposed', 'approved') AND notified_at IS NULL"
_COLUMNS: Final = ", ".join(RetrainRequest.__dataclass_fields__)
_FIND: Final = f"""
SELECT {_COLUMNS} FROM retrain_requests
WHERE tenant_id = %(tenant)s AND (%(model)s::text IS NULL OR model = %(model)s)
    AND (%(status)s::text IS NULL OR status = %(status)s)
ORDER BY proposed_at DESC, request_id LIMIT %(limit)s
"""  # noqa: S608  # constants
_ONE: Final = f"SELECT {_COLUMNS} FROM retrain_requests WHERE tenant_id = %s AND request_id = %s"  # noqa: S608
_IS_COOLING: Final = "status IN ('rejected', 'completed', 'failed') AND ended_at > %(cooled_since)s"
# One open request a model; none while the last one that was decided is young, unless somebody asks.
_PROPOSE: Final = f"""
INSERT INTO retrain_requests (tenant_id, model, version, semantic_version, evidence)
SELECT %(tenant)s, %(model)s, %(version)s, %(semantic_version)s, %(evidence)s
WHERE NOT EXISTS (
    SELECT FROM retrain_requests
    WHERE tenant_id = %(tenant)s AND model = %(model)s AND {_IS_COOLING}
)
ON CONFLICT (tenant_id, model) WHERE status IN ('proposed', 'approved') DO NOTHING
RETURNING {_COLUMNS}
"""  # noqa: S608  # constants
# Nothing can be proposed then; a proposal of another version is withdrawn first.
_HOLDS: Final = f"""
SELECT FROM retrain_requests
WHERE tenant_id = %(tenant)s AND model = %(model)s
    AND (status = 'approved' OR status = 'proposed' AND version = %(version)s OR {_IS_COOLING})
LIMIT 1
"""  # constants
_DECIDE: Final = f"""
UPDATE retrain_requests
SET status = %(status)s, decided_by = %(by)s, decided_at = now(), reason = %(reason)s,
    ended_at = CASE WHEN %(status)s <> 'approved' THEN now() END
WHERE tenant_id = %(tenant)s AND request_id = %(request_id)s AND status = 'proposed'
RETURNING {_COLUMNS}
"""  # noqa: S608  # constants


def find_all(
    connection: psycopg.Connection[Any],
    tenant: str,
    *,
    model: str | None = None,
    status: str | None = None,
    limit: int | None = None,
) -> list[RetrainRequest]:
    """A tenant's requests, newest first."""
    values = {"tenant": tenant, "model": model, "status": status, "limit": limit}
    with connection.cursor(row_factory=class_row(RetrainRequest)) as cursor:
        return cursor.execute(_FIND, values).fetchall()


def find(connection: psycopg.Connection[Any], tenant: str, request_id: UUID) -> RetrainRequest:
    """A request of the tenant.

    Raises:
        NotFoundError: it has none with this id.
    """
    with connection.cursor(row_factory=class_row(RetrainRequest)) as cursor:
        request = cursor.execute(_ONE, [tenant, request_id]).fetchone()
    if request is None:
        raise NotFoundError(
            f"Tenant {tenant} has no request {request_id} to train anew.",
            hint=f"`ai-hub retrain list --tenant {tenant}` shows those there are.",
        )
    return request


def approve(
    connection: psycopg.Connection[Any], tenant: str, request_id: UUID, *, by: str, reason: str | None = None
) -> RetrainRequest:
    """Approve a proposal and put its job into the queue, in the connection's transaction.

    Raises:
        NotFoundError: the tenant has no such request.
        ConflictError: it is decided already.
    """
    request = _decide(connection, tenant, request_id, Status.APPROVED, by=by, reason=reason)
    # the same id: `ai-hub jobs` knows it by that of the request
    arguments = {"model": request.model}
    queue.defer(
        connection,
        queue.NewJob(request_id, KIND, tenant, arguments, queueing_lock=request.model, created_by=by),
    )
    return request


def reject(
    connection: psycopg.Connection[Any], tenant: str, request_id: UUID, *, by: str, reason: str
) -> RetrainRequest:
    """Reject a proposal.

    Raises:
        NotFoundError: the tenant has no such request.
        ConflictError: it is decided already.
    """
    return _decide(connection, tenant, request_id, Status.REJECTED, by=by, reason=reason)


def _decide(
    connection: psycopg.Connection[Any],
    tenant: str,
    request_id: UUID,
    status: Status,
    *,
    by: str,
    reason: str | None,
) -> RetrainRequest:
    values = {"tenant": tenant, "request_id": request_id, "status": status, "by": by, "reason": reason}
    with connection.cursor(row_factory=class_row(RetrainRequest)) as cursor:
        decided = cursor.execute(_DECIDE, values).fetchone()
    if decided is None:
        request = find(connection, tenant, request_id)
        hint = f"`ai-hub jobs cancel {request_id} --tenant {tenant}` ends its job."
        raise ConflictError(
            f"Request {request_id} is {request.status} already.",
            hint=hint if request.status == Status.APPROVED else "Only a proposed one can be decided.",
        )
    return decided


def announce(change: Status, request: RetrainRequest) -> None:
    """Count a change that is committed, and write it to the log: an event in JSON on standard error."""
    _CHANGES.labels(change.value).inc()
    write = event_log().warning if change is Status.PROPOSED else event_log().info
    write(f"model.retraining_{change.value}", **request.as_dict())


@dataclass(frozen=True)
class Waiting:
    """A version in Staging that was trained after what would be proposed for, and so holds it back."""

    tenant: str
    model: str
    version: int
    semantic_version: str | None
    #: what it holds back, the heaviest first
    causes: Sequence[Cause]

    def as_dict(self) -> dict[str, Any]:
        """It for JSON."""
        return asdict(self) | {"causes": [cause.value for cause in self.causes]}

    def __str__(self) -> str:
        """One line."""
        number = f"{self.version}" + (f" ({self.semantic_version})" if self.semantic_version else "")
        return (
            f"{self.model}: nothing is proposed for {', '.join(self.causes)} while version {number}, trained "
            "since, waits in Staging: promote or archive it"
        )


@dataclass
class Proposals:
    """What has come of a look at a tenant's models in production."""

    tenant: str
    proposed: list[RetrainRequest] = field(default_factory=list)
    #: those of `proposed` whose policy is automatic
    approved: list[RetrainRequest] = field(default_factory=list)
    withdrawn: list[RetrainRequest] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)


def propose(
    settings: Settings,
    tenant: str,
    versions: Sequence[ModelVersion],
    *,
    card_of: Callable[[ModelVersion], ModelCard],
    staging: Sequence[ModelVersion] = (),
    now: datetime | None = None,
) -> Proposals:
    """Propose to train those models anew that the rules say it of, and withdraw proposals that are over.

    Args:
        settings: of the database.
        tenant: whose.
        versions: all its versions with a horizon in production.
        card_of: what a version was trained on; asked where there are meters that are younger than it.
        staging: all its versions with a horizon in Staging. One that was trained after its model's in
            production and after what would be proposed for holds that back.
        now: default: the present time.

    Raises:
        AiHubError: what `card_of` says of the first version that it cannot tell of; the rest is done by then.
    """
    now = now or datetime.now(UTC)
    failed: AiHubError | None = None
    candidates = _trained_since(versions, staging)
    with transaction(settings) as connection:
        looks = [
            _look(connection, settings, version, candidates.get(version.model), now)
            for version in sorted(versions, key=lambda each: each.model)
        ]
    for look in looks:
        # the registry is asked between transactions: on the embedded server they hold up all others
        try:
            look.add_new_meters(card_of)
        except AiHubError as error:
            failed = failed or error
    outcome = Proposals(tenant, waiting=[waits for look in looks if (waits := look.waiting)])
    with transaction(settings) as connection:
        outcome.withdrawn = _withdraw(connection, tenant, versions)
        for look in looks:
            if look.evidence:
                _propose(connection, look.version, look.evidence, now, outcome)
    for change in (Status.WITHDRAWN, Status.PROPOSED, Status.APPROVED):
        for request in getattr(outcome, change.value):
            announce(change, request)
    if failed:
        raise failed
    return outcome


def _trained_since(
    versions: Sequence[ModelVersion], staging: Sequence[ModelVersion]
) -> dict[str, ModelVersion]:
    """By model, the newest version in Staging, if it was trained after that in production."""
    registered_at = {version.model: version.registered_at for version in versions}
    return {
        candidate.model: candidate
        for candidate in sorted(staging, key=lambda each: each.version)
        if candidate.model in registered_at and candidate.registered_at > registered_at[candidate.model]
    }


def notify(settings: Settings, tenant: str, tell: Callable[[RetrainRequest], object]) -> None:
    """Tell of open requests that were not told of yet; a repeated call goes on where one has failed.

    Args:
        settings: of the database.
        tenant: whose.
        tell: may be called for the same request again, where it was killed right then.
    """
    query = f"SELECT {_COLUMNS} FROM retrain_requests WHERE tenant_id = %s AND {_UNTOLD}"  # noqa: S608
    with (
        transaction(settings) as connection,
        connection.cursor(row_factory=class_row(RetrainRequest)) as rows,
    ):
        untold = rows.execute(query.encode(), [tenant]).fetchall()
    for request in untold:
        tell(request)
        with transaction(settings) as connection:
            connection.execute(
                "UPDATE retrain_requests SET notified_at = now() WHERE request_id = %s", [request.request_id]
            )


def propose_by_hand(settings: Settings, version: ModelVersion, *, by: str, reason: str) -> RetrainRequest:
    """Propose to train a model anew because somebody asks, whatever the rules and the cool-down say.

    Raises:
        ConflictError: a request about the model is open.
    """
    evidence = {Cause.REQUEST: {"by": by, "reason": reason}}
    outcome = Proposals(version.tenant)
    with transaction(settings) as connection:
        _propose(connection, version, evidence, None, outcome)
    if not outcome.proposed:
        raise ConflictError(
            f"A request to train {version.model} anew is open.",
            hint=f"`ai-hub retrain list --tenant {version.tenant}` shows it.",
        )
    for change in (Status.PROPOSED, Status.APPROVED):
        for request in getattr(outcome, change.value):
            announce(change, request)
    return (outcome.approved or outcome.proposed)[0]


def _propose(
    connection: psycopg.Connection[Any],
    version: ModelVersion,
    evidence: Mapping[Cause, Any],
    now: datetime | None,
    outcome: Proposals,
) -> None:
    """Add what is proposed, and approved at once, to `outcome`; without `now` no cool-down holds."""
    policy = find_policy(connection, version.tenant, version.model)
    values = {
        "tenant": version.tenant,
        "model": version.model,
        "version": version.version,
        "semantic_version": version.semantic_version,
        "evidence": Jsonb(dict(evidence)),
        "cooled_since": now - policy.cooldown_days * _DAY if now else datetime.max.replace(tzinfo=UTC),
    }
    with connection.cursor(row_factory=class_row(RetrainRequest)) as cursor:
        request = cursor.execute(_PROPOSE, values).fetchone()
    if request is None:
        return
    outcome.proposed.append(request)
    if policy.automatic:
        outcome.approved.append(approve(connection, request.tenant_id, request.request_id, by=BY_POLICY))


def _withdraw(
    connection: psycopg.Connection[Any], tenant: str, versions: Sequence[ModelVersion]
) -> list[RetrainRequest]:
    present = {version.model: version.version for version in versions}
    withdrawn = []
    for request in find_all(connection, tenant, status=Status.PROPOSED):
        if present.get(request.model) != request.version:
            reason = f"version {request.version} is no longer in production"
            with suppress(ConflictError):  # decided since it was read
                withdrawn.append(
                    _decide(
                        connection, tenant, request.request_id, Status.WITHDRAWN, by="ai-hub", reason=reason
                    )
                )
    return withdrawn


@dataclass
class _Look:
    """At a version in production: what it is to be trained anew for."""

    version: ModelVersion
    #: in Staging, and trained since
    candidate: ModelVersion | None
    #: younger than it, with their unit
    new_meters: Sequence[tuple[str, str | None]]
    evidence: dict[Cause, Any] = field(default_factory=dict)
    #: causes that the candidate answers
    held: set[Cause] = field(default_factory=set)

    def add_new_meters(self, card_of: Callable[[ModelVersion], ModelCard]) -> None:
        names = _untrained(self.new_meters, card_of(self.version)) if self.new_meters else []
        if names and self.candidate:
            trained = card_of(self.candidate).assets
            names = [name for name in names if name not in trained]
            self.held |= set() if names else {Cause.ASSETS}
        if names:
            self.evidence[Cause.ASSETS] = {"count": len(names), "names": names[:_NAMED]}

    @property
    def waiting(self) -> Waiting | None:
        waits, causes = self.candidate, [cause for cause in Cause if cause in self.held]
        if waits is None or not causes:
            return None
        return Waiting(waits.tenant, waits.model, waits.version, waits.semantic_version, causes)


def _look(
    connection: psycopg.Connection[Any],
    settings: Settings,
    version: ModelVersion,
    candidate: ModelVersion | None,
    now: datetime,
) -> _Look:
    """What the database says; who is a new meter the registry says, too."""
    look = _Look(version, candidate, _new_meters(connection, version))
    policy = find_policy(connection, version.tenant, version.model)
    values: dict[str, Any] = {"tenant": version.tenant, "model": version.model, "version": version.version}
    values["cooled_since"] = now - policy.cooldown_days * _DAY
    of_version = (version.model, version.version, findings.Kind.ERROR)
    for finding in findings.find(connection, version.tenant, only_open=True):
        # one of another version says nothing of this one
        if (finding.model, finding.version, finding.kind) != of_version:
            continue
        if candidate and finding.detected_at and candidate.registered_at > finding.detected_at:
            look.held.add(Cause.ERROR)
            continue
        look.evidence[Cause.ERROR] = {
            "finding_id": str(finding.finding_id),
            "since": finding.since.isoformat(),
            **finding.detail,
        }
        if connection.execute(_HOLDS, values).fetchone() is not None:
            continue  # half a year of readings, for evidence that nobody would see
        if drifted := _drifted(connection, settings, version, finding, now):
            look.evidence[Cause.DRIFT] = {"count": len(drifted), "meters": drifted[:_NAMED]}
    limit = policy.max_age_days
    if (days := (now - version.registered_at) // _DAY) > limit:
        trained_at = version.registered_at.isoformat()
        if candidate and (now - candidate.registered_at) // _DAY <= limit:
            look.held.add(Cause.AGE)
        else:
            look.evidence[Cause.AGE] = {"days": days, "limit": limit, "trained_at": trained_at}
    return look


# Of the meters that the version has forecast: the last week is 0, those before the finding count from 1. Each
# hour counts once, however often it was forecast.
_LEVELS: Final = """
SELECT asset_id, week, avg(load)
FROM (
    SELECT
        asset_id, abs(value) AS load, CASE WHEN hour >= %(recent)s THEN 0
            ELSE ceil(extract(epoch FROM %(since)s::timestamptz - hour) / 604800)::integer END AS week
    FROM hourly_values
    WHERE tenant_id = %(tenant)s AND hour >= %(start)s AND hour < %(end)s
        AND (hour < %(since)s OR hour >= %(recent)s)
        AND asset_id = ANY (ARRAY(
            SELECT DISTINCT scores.asset_id
            FROM forecast_scores AS scores JOIN assets USING (tenant_id, asset_id)
            WHERE tenant_id = %(tenant)s AND model = %(model)s AND version = %(version)s AND role = %(role)s
                AND scores.unit = coalesce(assets.feature_unit, '')
                AND day >= %(recent)s::timestamptz AT TIME ZONE 'UTC'
        ))
) AS hours
GROUP BY asset_id, week HAVING count(load) >= %(fewest)s
"""


def _drifted(
    connection: psycopg.Connection[Any],
    settings: Settings,
    version: ModelVersion,
    finding: ModelFinding,
    now: datetime,
) -> list[dict[str, Any]]:
    """Meters whose mean absolute load of the last week is unlike that of the weeks before a finding."""
    thresholds = Thresholds.of(settings)
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    values = {"tenant": version.tenant, "model": version.model, "version": version.version}
    values |= {"role": Role.LIVE, "fewest": _WHOLE_WEEK}
    values |= {"end": today, "recent": today - _WEEK, "since": finding.since}
    values |= {"start": finding.since - thresholds.weeks * _WEEK}
    levels: dict[str, dict[int, float]] = defaultdict(dict)
    for asset, week, level in connection.execute(_LEVELS, values):
        levels[asset][week] = level
    drifted = []
    for asset, weeks in sorted(levels.items()):
        usual = [level for week, level in weeks.items() if week]
        if 0 not in weeks or len(usual) < thresholds.fewest_weeks:
            continue
        mean = fmean(usual)
        # more than rounding
        limit = max(thresholds.sigmas * stdev(usual), 1e-9 * mean)
        if abs(weeks[0] - mean) > limit:
            drifted.append({"asset": asset, "value": weeks[0], "usual": mean, "limit": limit})
    return drifted


_NEW_METERS: Final = """
SELECT asset_id, feature_unit FROM assets JOIN asset_spans AS spans USING (tenant_id, asset_id)
WHERE tenant_id = %s AND kind = %s AND assets.created_at > %s AND spans.first_hour + %s <= spans.last_hour
ORDER BY asset_id
"""


def new_meters(connection: psycopg.Connection[Any], version: ModelVersion, card: ModelCard) -> list[str]:
    """Meters of a version's kind and unit that came after it, and have some weeks of readings."""
    return _untrained(_new_meters(connection, version), card)


def _untrained(meters: Sequence[tuple[str, str | None]], card: ModelCard) -> list[str]:
    return [asset for asset, unit in meters if unit == card.unit and asset not in card.assets]


def _new_meters(connection: psycopg.Connection[Any], version: ModelVersion) -> list[tuple[str, str | None]]:
    values = [version.tenant, version.tags.get("kind"), version.registered_at, _HISTORY]
    return connection.execute(_NEW_METERS, values).fetchall()
