"""The gates that come with the registry; others join by the entry point group `ai_hub.promotion_gates`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mlflow_plugins.gates import comparison
from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused
from mlflow_plugins.registration.model_metadata import is_finite
from mlflow_plugins.users.permissions import REASON_TAG, UNKNOWN

if TYPE_CHECKING:
    from mlflow_plugins.gates.gate import Candidate, VersionInfo


class ManifestGate(Gate):
    """Every file has the SHA-256 that the version's manifest says, and none is missing or added."""

    name: ClassVar[str] = "manifest"
    on_rollback: ClassVar[bool] = True

    required: bool = Field(
        default=False,
        description="also refuse versions without a manifest, which were registered before this registry",
    )
    rehash: bool = Field(
        default=False,
        description="hash every file also where the store's listing is that of the registration",
    )

    def check(self, candidate: Candidate) -> Verdict:
        """Compare the folder's listing, or hash every file."""
        evidence = candidate.verify(rehash=self.rehash)
        if evidence is not None:
            return passed(f"All {evidence['file_count']} files are as they were registered.", **evidence)
        found = f"Version {candidate.version} has no manifest, so its files cannot be checked."
        if self.required:
            return refused(found, "Register the model anew from its run.", manifest="none")
        return passed(found, manifest="none")


#: The longest reason that the audit trail keeps.
_LONGEST_REASON: Final = 5000
_GIVE_A_REASON: Final = (
    f"Promote with --reason or the field reason; in MLflow's pages, set the version's tag {REASON_TAG} first."
)


class ReasonGate(Gate):
    """The promotion says why, for those who read the audit trail later."""

    name: ClassVar[str] = "reason"
    on_rollback: ClassVar[bool] = True

    min_length: int = Field(
        default=10,
        ge=1,
        le=_LONGEST_REASON,
        description="characters it has at least, runs of blanks counting as one",
    )

    def check(self, candidate: Candidate) -> Verdict:
        """Measure the reason."""
        reason = " ".join((candidate.reason or "").split())
        if not reason:
            return refused("No reason was given.", _GIVE_A_REASON, length=0)
        if len(reason) < self.min_length:
            characters = "1 character" if len(reason) == 1 else f"{len(reason)} characters"
            found = f"The reason {reason!r} has {characters}; it takes {self.min_length}."
            return refused(found, _GIVE_A_REASON, length=len(reason))
        return passed("A reason was given.", length=len(reason))


class SignatureGate(Gate):
    """The model was logged with a signature."""

    name: ClassVar[str] = "signature"

    outputs: bool = Field(default=True, description="the signature also says what the model returns")

    def check(self, candidate: Candidate) -> Verdict:
        """Look for both halves."""
        signature = candidate.info.signature
        wanted = ["inputs", "outputs"] if self.outputs else ["inputs"]
        if lacking := [half for half in wanted if not signature.get(half)]:
            found = f"Its signature lacks {' and '.join(lacking)}." if signature else "It has no signature."
            return refused(
                found,
                "Log the model with signature=mlflow.models.infer_signature(inputs, predictions), "
                "and register it anew.",
                lacking=lacking,
            )
        columns = {half: len(signature[half]) for half in wanted}
        return passed(
            "Its signature says what it takes" + (" and returns." if self.outputs else "."), **columns
        )


class ApproverGate(Gate):
    """Who promotes a version neither registered it nor ran its training.

    Not asked of a rollback: that version was approved when it was promoted.
    """

    name: ClassVar[str] = "approver_is_not_author"

    authenticated: bool = Field(
        default=False,
        description="who promotes must be logged in, here or at a service that may speak for its own "
        "callers; a name that only the client claims is refused",
    )

    def check(self, candidate: Candidate) -> Verdict:
        """Compare names, whatever their case."""
        actor = candidate.actor
        authors = sorted(candidate.authors)
        evidence = {"authors": authors, "approver": actor.name, "approver_source": actor.source}
        if actor == UNKNOWN:
            return refused(
                "Nobody knows who asks.", "Log in, or promote with the ai-hub command.", **evidence
            )
        if self.authenticated and actor.source == "claimed":
            return refused(f"{actor.name} is only claimed to ask.", "Log in to the registry.", **evidence)
        if not authors:
            return refused(
                "Nobody knows who made this version.",
                "Register it anew as a user with a name, from a run that has one.",
                **evidence,
            )
        if _plain(actor.name) in map(_plain, authors):
            return refused(
                f"{actor.name} made this version.",
                f"Somebody else than {' and '.join(authors)} must promote it.",
                **evidence,
            )
        return passed(f"{actor.name} promotes what {' and '.join(authors)} made.", **evidence)


def _plain(name: str) -> str:
    return name.strip().casefold()


_HOUR_MS: Final = 3_600_000
_YEAR_H: Final = 8760


class TimeInStagingGate(Gate):
    """The version has been in Staging for some hours, since it was registered or restored last."""

    name: ClassVar[str] = "time_in_staging"

    hours: float = Field(default=24, gt=0, le=_YEAR_H, description="hours in Staging at least")

    def check(self, candidate: Candidate) -> Verdict:
        """Compare with the audit trail's time of entry."""
        entered = candidate.staged_at_ms
        if entered is None:
            return refused(
                "It is not recorded since when the version has been in Staging.",
                "Move it to Archived and back to Staging; its time counts from then.",
            )
        ready = entered + round(self.hours * _HOUR_MS)
        waited = (candidate.now_ms - entered) / _HOUR_MS
        evidence = {"hours_in_staging": round(waited, 3), "entered_at_ms": entered}
        since = f"In Staging for {waited:.1f} h"
        if candidate.now_ms < ready:
            # the next full second, so that the time named is not too early
            when = datetime.fromtimestamp(-(-ready // 1000), UTC)
            return refused(
                f"{since} of {self.hours:g} h.", f"Promote after {when:%Y-%m-%d %H:%M:%S} UTC.", **evidence
            )
        return passed(f"{since}.", **evidence)


class Bounds(BaseModel):
    """What a metric may be, both ends included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float | None = Field(default=None, allow_inf_nan=False, description="at least this")
    max: float | None = Field(default=None, allow_inf_nan=False, description="at most this")

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so that no value could pass")
        return self

    def miss(self, value: float) -> str | None:
        """How `value` misses them; None when it does not."""
        if self.min is not None and exact(value) < exact(self.min):
            return f"below the least allowed, {shown(self.min)}"
        if self.max is not None and exact(value) > exact(self.max):
            return f"above the most allowed, {shown(self.max)}"
        return None


class RequiredMetricsGate(Gate):
    """Named metrics were recorded, as finite numbers within their bounds."""

    name: ClassVar[str] = "required_metrics"

    metrics: dict[str, Bounds] = Field(
        min_length=1, description="metrics by name, each with min and max; or a list of names alone"
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _names_alone(cls, given: Any) -> Any:
        return {name: {} for name in given} if isinstance(given, list) else given

    def judged_metrics(self) -> list[str]:
        """All that must be there."""
        return list(self.metrics)

    def check(self, candidate: Candidate) -> Verdict:
        """Look at each."""
        problems: list[str] = []
        failed: list[str] = []
        values: dict[str, float | None] = {}
        for metric, bounds in self.metrics.items():
            value = value_of(candidate.info, metric)
            values[metric] = None if isinstance(value, str) else value
            if isinstance(value, str):
                problems.append(value)
                failed.append(metric)
            elif miss := bounds.miss(value):
                problems.append(f"Metric {metric} is {shown(value)}, {miss}.")
                failed.append(metric)
        if problems:
            return refused(" ".join(problems), way_out(candidate.info, *failed), metrics=values)
        return passed("Every required metric is there and within its bounds.", metrics=values)


class NotWorseGate(Gate):
    """A metric is not worse than production's by more than a percentage of production's absolute value."""

    name: ClassVar[str] = "not_worse_than_production"

    metric: str = Field(min_length=1, description="name of the metric")
    better: Literal["lower", "higher"] = Field(description="which direction is better: lower or higher")
    max_worse_percent: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="how much worse it may be, in % of production's value",
    )

    def judged_metrics(self) -> list[str]:
        """The one that is compared."""
        return [self.metric]

    def check(self, candidate: Candidate) -> Verdict:
        """Compare the metrics of both."""
        value = value_of(candidate.info, self.metric)
        if isinstance(value, str):
            return refused(value, way_out(candidate.info, self.metric), metric=self.metric)
        evidence = {"metric": self.metric, "value": value, "max_worse_percent": self.max_worse_percent}
        production = candidate.production
        if production is None:
            text = f"{self.metric} is {shown(value)}; nothing is in Production to compare it with."
            return passed(text, **evidence, production_version=None)
        evidence |= {"production_version": production.version}
        theirs = value_of(production, self.metric)
        if isinstance(theirs, str):
            or_else = f"{way_out(production, self.metric)} Or turn this gate off for the model until then."
            return refused(theirs, or_else, **evidence)
        return self._compare(value, theirs, str(production), {**evidence, "production_value": theirs})

    def _compare(self, value: float, theirs: float, whose: str, evidence: dict[str, object]) -> Verdict:
        loss = exact(value) - exact(theirs) if self.better == "lower" else exact(theirs) - exact(value)
        allowed = abs(exact(theirs)) * exact(self.max_worse_percent) / 100
        percent = _percent(loss, theirs)
        compared = f"{self.metric} is {shown(value)}, that of {whose} in Production is {shown(theirs)}: "
        if loss > 0:
            compared += "worse" if percent is None else f"{percent:.3g} % worse"
        else:
            compared += "not worse"
        if loss <= allowed:
            return passed(f"{compared}.", **evidence, worse_percent=percent)
        return refused(
            f"{compared}, and {self.max_worse_percent:g} % is allowed ({self.better} is better).",
            "Promote a better version, or have the policy allow more for this model.",
            **evidence,
            worse_percent=percent,
        )


class BeatsProductionGate(Gate):
    """Over past weeks that neither was trained on, it errs less than the version in Production.

    `ai-hub compare` makes the comparison, once for each pair of versions.
    """

    name: ClassVar[str] = "beats_production"

    weeks: int = Field(default=26, ge=4, description="weeks of replay at least")
    max_p: float = Field(default=0.01, gt=0, lt=1, description="one-sided p of the test on weeks is below")
    min_gain_percent: float = Field(
        default=2, ge=0, allow_inf_nan=False, description="how much smaller its MAE is at least, in %"
    )
    max_group_worse_percent: float = Field(
        default=5,
        ge=0,
        allow_inf_nan=False,
        description="how much worse it may be for one group of leads or of meters, in %",
    )
    shadow_days: int = Field(
        default=0, ge=0, description="days of live forecasts in shadow that its replay must equal; 0: none"
    )

    def check(self, candidate: Candidate) -> Verdict:
        """Judge what the comparison has found."""
        production = candidate.production
        if production is None:
            return passed("Nothing is in Production to compare it with.", production_version=None)
        command = (
            f"Run `ai-hub compare {candidate.model} --tenant {candidate.tenant} "
            f"--version {candidate.version} --weeks {self.weeks}"
            + (f" --shadow-days {self.shadow_days}`" if self.shadow_days else "`")
        )
        if candidate.comparison is None:
            return refused(
                f"It was not compared with {production} in Production.",
                f"{command}.",
                production_version=production.version,
            )
        pair = comparison.Pair(candidate.tenant, candidate.model, candidate.version, production.version)
        record = comparison.read_record(candidate.comparison, pair)
        if isinstance(record, str):
            return refused(
                f"What was noted of its comparison with {production} does not count. {record}",
                "Register the model anew, and compare that version.",
                production_version=production.version,
            )
        evidence = {"production_version": production.version, "comparison": record.model_dump(mode="json")}
        if problems := self._problems(record):
            return refused(
                f"{record}. {' '.join(problems)}",
                "There is one look at each pair of versions: train a better one, and compare that.",
                **evidence,
            )
        return passed(f"{record}.", **evidence)

    def _problems(self, record: comparison.Record) -> list[str]:
        """What falls short of the settings."""
        found = []
        if record.weeks < self.weeks:
            found.append(f"It takes {self.weeks} weeks.")
        if record.p >= self.max_p:
            found.append(f"That may be chance: p is not below {self.max_p:g}.")
        if exact(record.gain_percent) < exact(self.min_gain_percent):
            found.append(f"It takes a gain of {self.min_gain_percent:g} %.")
        worst = min(record.groups, key=record.groups.__getitem__, default=None)
        if worst is not None and exact(-record.groups[worst]) > exact(self.max_group_worse_percent):
            found.append(
                f"Its MAE is {-record.groups[worst]:.3g} % more for {worst}, and "
                f"{self.max_group_worse_percent:g} % is allowed."
            )
        if self.shadow_days:
            shadow = record.shadow
            problem = (
                shadow.problem(self.shadow_days) if shadow else "It was compared without days in shadow."
            )
            found += [problem] if problem else []
        return found


def _percent(loss: Fraction, theirs: float) -> float | None:
    """`loss` in per cent of production's value; negative for a gain, None of a zero."""
    if theirs == 0:
        return None
    percent = 100 * loss / abs(exact(theirs))
    largest = sys.float_info.max
    return float(max(min(percent, exact(largest)), exact(-largest)))


def value_of(info: VersionInfo, metric: str) -> float | str:
    """The metric's value; a sentence when there is none to compare."""
    if metric not in info.metrics:
        known = ", ".join(sorted(info.metrics)) or "no metrics"
        return f"Metric {metric} of {info} was not recorded; it has {known}."
    value = info.metrics[metric]
    if value is None or not is_finite(value):
        return f"Metric {metric} of {info} is not a finite number."
    return value


def way_out(info: VersionInfo, *metrics: str) -> str:
    """What would help a version whose metrics are missing, no numbers or not good enough."""
    if any(metric in info.metrics for metric in metrics):
        return "Register a version from a run that recorded better ones; those of this one stay."
    if info.run_id is None:
        return "It has no run to log that to: register the model anew from a run that has it."
    return f"Log it to run {info.run_id}; it counts as soon as it is there."


def exact(value: float) -> Fraction:
    """The decimal number people read, so that a limit they can reckon is met exactly."""
    return Fraction(str(value))


def shown(value: float) -> str:
    """As people read it; the evidence has every digit."""
    return f"{value:.6g}"
