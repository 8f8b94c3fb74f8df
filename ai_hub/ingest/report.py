"""Report of an ingest, as counts and as lines of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pandas as pd

from ai_hub.ingest.findings import SUSPECTS, Finding
from ai_hub.ingest.options import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ai_hub.ingest.options import Options
    from ai_hub.ingest.pipeline import Preview


@dataclass
class Report:
    """Result of an ingest: `rows` is the sum of the five counts after it."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicates: int = 0
    rejected: int = 0
    #: Rows without a value, such as N/A; not included in `rows`.
    missing: int = 0
    #: What was detected in the file.
    understood: list[str] = field(default_factory=list)
    #: Number of rejected rows by reason, the most frequent first.
    reasons: dict[str, int] = field(default_factory=dict)
    reject_file: str | None = None
    #: Assets registered by this run.
    new_assets: list[str] = field(default_factory=list)
    #: Assets of this file without a unit.
    without_unit: list[str] = field(default_factory=list)
    #: Inferred intervals of assets that had none, in seconds.
    intervals: dict[str, int] = field(default_factory=dict)
    #: New findings, by asset.
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    #: Resolved findings, such as gaps that these rows filled.
    resolved: list[tuple[str, Finding]] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Number of rows whose values are in the table now."""
        return self.inserted + self.updated + self.unchanged + self.duplicates

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        lists = {
            name: [{"asset_id": asset_id, **one.as_dict()} for asset_id, one in getattr(self, name)]
            for name in ("findings", "resolved")
        }
        return asdict(self) | lists


_FAULTS = {
    "fell": "register fell {move}: what was counted is not known (changed meter? a new round needs --digits)",
    "back": "register rose {move}, where it was before it fell: not counted",
    "falls": "register rose {move} and fell again: not counted",
    "capacity": "register rose {move}, more than the asset's capacity allows: not counted",
    "digits": "register went {move}, which has more digits than it can show (see --digits)",
}
#: Largest number of new assets, or findings of one kind, that are listed by name.
NAMED = 5


def report_lines(report: Report, options: Options) -> Iterator[str]:
    """A report as a few lines of text, independent of the size of the file."""
    for note in report.understood:
        yield f"Read as: {note}"
    yield (
        f"{report.rows:,} rows: {report.inserted:,} inserted, {report.updated:,} updated,"
        f" {report.unchanged:,} unchanged, {report.duplicates:,} duplicate, {report.rejected:,} rejected"
    )
    if report.missing:
        yield f"  {report.missing:,} more without a value"
    for reason, count in report.reasons.items():
        yield f"  rejected {count:,}: {reason}"
    if report.reject_file:
        yield f"Rejected rows are in {report.reject_file}, and with `ai-hub ingest quarantine`"
    yield from check_lines(report.findings, report.resolved)
    if new := report.new_assets:
        more = f" and {len(new) - NAMED}" if len(new) > NAMED else ""
        yield (
            f"Registered {len(new)} new asset(s) in zone {options.timezone or 'UTC'}:"
            f" {', '.join(new[:NAMED])}{more}. Say what they are with `ai-hub asset add --kind …`."
        )
    if report.intervals:
        counts = Counter(report.intervals.values())
        lengths = ", ".join(f"{_interval(seconds)} ({count} asset(s))" for seconds, count in counts.items())
        yield f"Interval of a reading, inferred from the steps of the file: {lengths}"
    if without_unit := report.without_unit:
        more = f" and {len(without_unit) - NAMED}" if len(without_unit) > NAMED else ""
        yield (
            f"Nothing says what the readings of {', '.join(without_unit[:NAMED])}{more} are:"
            " features average them as they are. For energy or power say --unit kWh or kW."
        )


def check_lines(new: Sequence[tuple[str, Finding]], resolved: Sequence[tuple[str, Finding]]) -> Iterator[str]:
    """New and resolved findings as lines of text."""
    yield from _findings_lines(new)
    if resolved:
        yield f"No longer so: {_counts(resolved)}"


def preview_lines(preview: Preview) -> Iterator[str]:
    """The report of a dry run as lines of text."""
    report = preview.report
    for note in report.understood:
        yield f"Read as: {note}"
    yield (
        f"{report.rows:,} rows: {report.inserted:,} would be stored, {report.duplicates:,} duplicate,"
        f" {report.rejected:,} rejected, {report.missing:,} more without a value. Nothing is written."
    )
    for reason, count in report.reasons.items():
        yield f"  rejected {count:,}: {reason}"
    for line, reason, text in preview.rejected:
        yield f"  line {line}: {text} ({reason})"
    yield from _preview_notes(report)


def preview_table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The first rows of a dry run: asset, interval in UTC and in local time, and measures."""
    table = []
    for row in rows.to_dict("records"):
        start = row["timestamp"]
        length = row.get("interval_seconds")
        end = None if length is None or pd.isna(length) else start + pd.Timedelta(seconds=int(length))
        times = {"start_utc": start.isoformat(), "end_utc": None if end is None else end.isoformat()}
        zone = row["timezone"]
        local = {
            "start_local": start.tz_convert(ZoneInfo(zone)).isoformat(),
            "end_local": None if end is None else end.tz_convert(ZoneInfo(zone)).isoformat(),
        }
        others = {
            str(name): None
            if pd.isna(value)
            else value.isoformat()
            if isinstance(value, pd.Timestamp)
            else value
            for name, value in row.items()
            if name not in {"asset_id", "timestamp", "interval_seconds", "timezone", "capacity"}
        }
        table.append({"asset_id": row["asset_id"], **times, **local, "timezone": zone, **others})
    return table


def preview_row_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rows of `preview_table` as lines of text."""
    if rows:
        yield "First rows as understood:"
    times = ("asset_id", "start_utc", "end_utc", "start_local", "end_local", "timezone")
    for row in rows:
        utc, local = (_span(row[f"start_{kind}"], row[f"end_{kind}"]) for kind in ("utc", "local"))
        others = ", ".join(
            f"{name} {value}" for name, value in row.items() if name not in times and value not in {None, ""}
        )
        yield f"  {row['asset_id']}: {utc}, in {row['timezone']} {local}: {others}"


def _span(start: str, end: str | None) -> str:
    begin = start.replace("T", " ").replace("+00:00", "Z")
    if end is None:
        return begin
    return f"{begin} to {end.replace('T', ' ').replace('+00:00', 'Z')[11:]}"


def _preview_notes(report: Report) -> Iterator[str]:
    if report.intervals:
        counts = Counter(report.intervals.values())
        lengths = ", ".join(f"{_interval(seconds)} ({count} asset(s))" for seconds, count in counts.items())
        yield f"Interval of a reading, inferred from the steps of the file: {lengths}"


def describe(finding: Finding) -> str:
    """A finding in one sentence, without its asset."""
    detail = finding.detail
    first, last = _time(finding.first), _time(finding.last)
    match finding.kind:
        case FindingKind.GAP if detail["missing"] is None:
            return f"no reading between {first} and {last}, far longer than usual"
        case FindingKind.GAP:
            every = f"one every {_interval(detail['interval_seconds'])}"
            return f"{detail['missing']:,} missing between {first} and {last} ({every})"
        case FindingKind.STUCK:
            return f"{detail['readings']:,} readings of {detail['value']:g} from {first} to {last}"
        case FindingKind.SKIPPED_HOUR:
            does_not = (
                f"{detail['local_from']} to {detail['local_until'][-5:]} {detail['zone']} never occurred"
            )
            return f"{does_not}: {_row_counts(finding, 'claim it')}"
        case FindingKind.REPEATED_HOUR:
            twice = f"{detail['local_from']} to {detail['local_until'][-5:]} {detail['zone']} occurred twice"
            return f"{twice}: {_row_counts(finding, 'in it')}"
        case _:
            return _describe_meaning(finding)


def _describe_meaning(finding: Finding) -> str:
    """A finding about registers and intervals in one sentence."""
    detail = finding.detail
    first, last = _time(finding.first), _time(finding.last)
    match finding.kind:
        case FindingKind.REGISTER_FAULT:
            move = f"from {detail['before']:.15g} to {detail['after']:.15g} between {first} and {last}"
            return _FAULTS[detail["reason"]].format(move=move)
        case FindingKind.REGISTER_GAP:
            return (
                f"{detail['amount']:.15g} in the {detail['hours']:g} h from {first} to {last} is not spread"
                " over them; for a register that is read so seldom say `ai-hub asset add ASSET --interval 1d`"
            )
        case FindingKind.LOOKS_LIKE_REGISTER:
            return (
                f"never falls from {detail['from']:.15g} at {first} to {detail['to']:.15g} at {last}:"
                " if it is a register, say `ai-hub asset add ASSET --reading register`"
            )
        case FindingKind.UNKNOWN_INTERVAL:
            return (
                f"amounts from {first} to {last} do not say their interval and have no value:"
                " say it with `ai-hub asset add ASSET --interval 15m`"
            )
        case kind:
            return _describe_suspect(finding) if kind in SUSPECTS else _describe_feature(finding)


_SUSPECT_WORDS = {
    FindingKind.ERROR_CODE: "{readings} readings such as {value:.15g}, an error code, {during}",
    FindingKind.COPIED: "{readings} readings {during} are those from {source} on",
    FindingKind.UNIT_JUMP: "{readings} readings {during} are about {factor} times the usual: another unit?",
    FindingKind.CLOCK_SHIFT: "the daily profile {during} is {hours} than in the weeks before",
    FindingKind.MIDNIGHT_SUN: "{readings} readings up to {value:g} {during}, while it was dark",
    FindingKind.NEGATIVE: "{readings} readings such as {value:g} {during}, of a meter that is not negative",
    FindingKind.RAMP: "{readings} readings such as {value:g} {during}, far from those next to them",
    FindingKind.FROZEN_WEATHER: "temperature {value:g} in {readings} rows {during}",
}


def _describe_suspect(finding: Finding) -> str:
    """A finding about readings that are probably wrong in one sentence."""
    detail = dict(finding.detail)
    words = {
        "value": detail.get("value"),
        "readings": f"{detail.get('readings', 0):,}",
        "during": f"from {_time(finding.first)} to {_time(finding.last)}",
    }
    if source := detail.get("copy_of"):
        words["source"] = _time(datetime.fromisoformat(source))
    if factor := detail.get("factor"):
        words["factor"] = f"{factor:g}" if factor > 1 else f"1/{1 / factor:.0f}"
    if hours := detail.get("hours"):
        words["hours"] = f"{abs(hours)} h {'later' if hours > 0 else 'earlier'}"
    return _SUSPECT_WORDS[finding.kind].format(**words)


def _describe_feature(finding: Finding) -> str:
    """A finding about a feature in one sentence."""
    detail = finding.detail
    first, last = _time(finding.first), _time(finding.last)
    if finding.kind is FindingKind.FEATURE_STALE:
        return (
            f"{finding.subject} has had no value since {first}, for more than {detail['max_age_hours']:g} h"
        )
    rows = f"{finding.subject}: {detail['rows']:,} of {detail['checked']:,} rows"
    if finding.kind is FindingKind.FEATURE_SKEW:
        return (
            f"{rows} were served with other values than history has, such as {detail['online']} instead of"
            f" {detail['offline']}, from {first} to {last}"
        )
    if finding.kind is FindingKind.FEATURE_NULLS:
        return f"{rows} have no value, more than {detail['allowed']:.0%}, from {first} to {last}"
    return f"{rows} are {detail['limit']}, such as {detail['example']}, from {first} to {last}"


def _findings_lines(findings: Sequence[tuple[str, Finding]]) -> Iterator[str]:
    if not findings:
        return
    yield f"Found for the first time: {_counts(findings)}"
    for kind in FindingKind:
        of_kind = [(asset_id, finding) for asset_id, finding in findings if finding.kind is kind]
        for asset_id, finding in of_kind if len(of_kind) <= NAMED else ():
            yield f"  {kind} {asset_id}: {describe(finding)}"
        if len(of_kind) > NAMED:
            asset_id, finding = max(of_kind, key=lambda item: item[1].last - item[1].first)
            missing = (
                sum(finding.detail["missing"] or 0 for _, finding in of_kind)
                if kind is FindingKind.GAP
                else 0
            )
            total = f", {missing:,} readings missing" if missing else ""
            yield (
                f"  {kind} {len(of_kind):,} times in {len({name for name, _ in of_kind}):,} asset(s){total};"
                f" the longest: {asset_id}, {describe(finding)}"
            )
    if any(finding.kind in SUSPECTS for _, finding in findings):
        yield "Features use such readings unless `ai-hub ingest quality --found leave-out` says otherwise."
    yield "All of them: `ai-hub ingest findings`"


def _counts(findings: Sequence[tuple[str, Finding]]) -> str:
    counts = Counter(finding.kind for _, finding in findings)
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in FindingKind if counts[kind])


def _row_counts(finding: Finding, what: str) -> str:
    rows, rejected = finding.detail["rows"], finding.detail["rejected"]
    if not rows:
        return f"no rows {what}"
    return f"{rows:,} row(s) {what}, {f'{rejected:,}' if rejected else 'none'} rejected"


def _interval(seconds: int) -> str:
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def _time(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M" + (":%S" if instant.second else "") + "Z")
