"""Day-ahead forecasts of measured load beside naive ones and OpenSTEF's, on the same issues.

    [AI_HUB_BENCH_DSN=postgresql://…] python -m benchmarks.public_load --load FILE [--openstef PYTHON]

FILE is CSV with the columns `timestamp` (starts of hours), `temperature`, and one for each meter; or
`--demo TENANT` takes the electricity meters of the demo. The product's own commands ingest it and run the
backtest, in a database that is dropped at the end. `--openstef` names a Python that has
openstef-models[lgbm,xgb-cpu] 4 and pyarrow: OpenSTEF needs another Python than the product.
docs/benchmarks/day-ahead.md says where to get such data, and what came of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ai_hub.dev.demo import data as demo
from ai_hub.errors import BadInputError
from ai_hub.forecasting.calibration import bucket_names, buckets_of
from ai_hub.forecasting.issues import HOUR, IssueRule, instant, issue_times, parse_duration
from benchmarks import servers
from benchmarks.service_site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TENANT: Final = "bench"
STATION: Final = "station"
TEMPERATURE: Final = "temperature"
#: Temperatures count as forecast so long before their hour: further than any issue looks.
_FORECAST_AHEAD: Final = timedelta(days=8)
#: How far a day-ahead model looks, as its features do.
_LEADS: Final = 48
_OPENSTEF: Final = Path(__file__).with_name("public_load_openstef.py")


@dataclass(frozen=True)
class Plan:
    """What is forecast, and when."""

    rule: IssueRule
    #: how long after its end the value of an hour is known
    late: timedelta
    weeks: int
    test_weeks: int
    refit_weeks: int


def read_load(file: Path, timezone: str, temperature_unit: str) -> pd.DataFrame:
    """Hours in UTC, a column a meter, and the temperature in °C.

    Raises:
        BadInputError: a column is missing, or an hour is there twice.
    """
    frame = pd.read_csv(file, parse_dates=["timestamp"])
    if TEMPERATURE not in frame or len(frame.columns) < 3:  # noqa: PLR2004  # and a meter
        raise BadInputError(
            f"{file} has the columns {', '.join(frame.columns)}.",
            hint="It needs `timestamp`, `temperature` and one for each meter.",
        )
    at = frame.pop("timestamp").dt
    # a file of local hours has 24 a day, of which one does not exist in spring
    hours = at.tz_convert("UTC") if at.tz else at.tz_localize(timezone, ambiguous=False, nonexistent="NaT")
    frame.index = pd.DatetimeIndex(hours).tz_convert("UTC")
    frame = frame[frame.index.notna()]
    if frame.index.has_duplicates:
        raise BadInputError(f"{file} has hours twice.", hint="Give each hour once.")
    if temperature_unit == "F":
        frame[TEMPERATURE] = (frame[TEMPERATURE] - 32) / 1.8
    return frame.asfreq("h")


def read_demo(tenant: str, folder: Path) -> tuple[pd.DataFrame, str]:
    """The same of a tenant's electricity meters in the demo, and their time zone.

    Raises:
        BadInputError: there is no such tenant.
    """
    of_tenant = [each for each in demo.prepare(folder) if each.tenant == tenant]
    if not of_tenant:
        raise BadInputError(f"The demo has no tenant {tenant}.", hint="Take illinois or uk-home.")
    series = [each for each in of_tenant if each.kind in {"weather", "electricity"}]
    columns = {}
    for each in series:
        values = pd.read_csv(each.file, parse_dates=["timestamp"], index_col="timestamp").iloc[:, 0]
        is_weather = each.role == "weather"
        if is_weather and each.unit == "F":
            values = (values - 32) / 1.8
        columns[TEMPERATURE if is_weather else each.asset] = values
    return pd.DataFrame(columns).tz_convert("UTC").asfreq("h"), series[0].timezone


def ingest(site: Site, load: pd.DataFrame, plan: Plan, tenant: str = TENANT) -> None:
    """Bring the meters in as a user does, with the temperature as a forecast that came true."""
    add = ("asset", "add", "--tenant", tenant, "--timezone", plan.rule.zone)
    site.run("ai-hub", *add, STATION, "--kind", "weather")
    meters = [str(name) for name in load if name != TEMPERATURE]
    late = ("--available-after", f"{plan.late // HOUR}h")
    for meter in meters:
        of_meter = ("--kind", "electricity", "--unit", "kW", "--weather-from", STATION, *late)
        site.run("ai-hub", *add, meter, *of_meter)
    weather = pd.DataFrame(
        {
            "timestamp": load.index,
            "available_at": load.index - pd.Timedelta(_FORECAST_AHEAD),
            TEMPERATURE: load[TEMPERATURE].to_numpy(),
        }
    ).dropna()
    weather.to_csv(site.folder / "weather.csv", index=False)
    site.run("ai-hub", "ingest", "weather", "weather.csv", "--tenant", tenant, "--asset", STATION)
    _by_hour(load, "asset_id", "value").to_csv(site.folder / "readings.csv", index=False)
    site.run("ai-hub", "ingest", "readings", "readings.csv", "--tenant", tenant)


def _by_hour(load: pd.DataFrame, asset: str, value: str) -> pd.DataFrame:
    """A row for each meter and hour that has a value."""
    meters = load.drop(columns=TEMPERATURE).rename_axis("timestamp").reset_index()
    return meters.melt("timestamp", var_name=asset, value_name=value).dropna()


def backtest(site: Site, plan: Plan, point: str, *flags: str, tenant: str = TENANT) -> dict[str, Any]:
    """What `ai-hub backtest` says."""
    options = {
        "--tenant": tenant,
        "--horizon": f"{_LEADS}h",
        "--issue": str(plan.rule),
        "--weeks": str(plan.weeks),
        "--test-weeks": str(plan.test_weeks),
        "--refit-weeks": str(plan.refit_weeks),
        "--point": point,
    }
    arguments = [text for option in options.items() for text in option]
    found: list[dict[str, Any]] = json.loads(
        site.run("ai-hub", "backtest", *arguments, *flags, "--no-log", "--json")
    )
    return found[0]


def openstef(python: Path, folder: Path, load: pd.DataFrame, plan: Plan, model: str) -> pd.DataFrame:
    """OpenSTEF's forecasts of the tested days, by meter and hour: q10, q50, q90.

    Raises:
        RuntimeError: it failed.
    """
    load.to_csv(folder / "load.csv", index_label="timestamp")
    issues = _issues(load, plan)
    content = {
        "model": model,
        "timezone": plan.rule.zone,
        "late_hours": plan.late // HOUR,
        "lead_hours": max((last - at) // HOUR for at, _, last in issues),
        "fits": _fits(issues, plan, _end(load)),
    }
    (folder / "openstef.json").write_text(json.dumps(content))
    process = subprocess.run(
        [str(python), str(_OPENSTEF), str(folder)], check=False, capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(f"{_OPENSTEF.name}: {process.stderr or process.stdout}")
    return pd.read_csv(folder / "openstef.csv", parse_dates=["timestamp"])


def _issues(load: pd.DataFrame, plan: Plan) -> list[tuple[datetime, datetime, datetime]]:
    """All issues of the backtest, with begin and end of their day of delivery."""
    end = _end(load)
    issues = issue_times(end - timedelta(weeks=plan.weeks), end, HOUR, plan.rule)
    return [(at, *plan.rule.delivery(at)) for at in issues]


def _end(load: pd.DataFrame) -> datetime:
    last: pd.Timestamp = load.drop(columns=TEMPERATURE).dropna(how="all").index[-1]
    return last.to_pydatetime() + HOUR


def _fits(
    issues: Sequence[tuple[datetime, datetime, datetime]], plan: Plan, end: datetime
) -> list[dict[str, str]]:
    """When models are fitted, to which history, and the targets of the issues until the next fit."""
    found = []
    at = end - timedelta(weeks=plan.test_weeks)
    while at < end:
        until = at + timedelta(weeks=plan.refit_weeks)
        if chosen := [each for each in issues if at <= each[0] < until]:
            times = {"start": issues[0][0], "at": at, "first": chosen[0][1], "last": min(chosen[-1][2], end)}
            found.append({name: f"{time}" for name, time in times.items()})
        at = until
    return found


def score(
    forecasts: pd.DataFrame, load: pd.DataFrame, plan: Plan, expected: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Scores by lead of another forecaster, over the targets of `expected` by lead, those of the product.

    Raises:
        RuntimeError: the targets are others.
    """
    both = forecasts.merge(_by_hour(load, "asset", "actual"), on=["asset", "timestamp"])
    tested = instant(_end(load) - timedelta(weeks=plan.test_weeks))
    times = both["timestamp"].to_numpy("datetime64[us]")
    lead = np.full(len(both), -1)
    for at, first, last in _issues(load, plan):
        if instant(at) >= tested:
            delivered = (times >= instant(first)) & (times < instant(last))
            lead[delivered] = (times[delivered] - instant(at)) // np.timedelta64(HOUR)
    both, lead = both[lead >= 0], lead[lead >= 0]
    names = np.array(bucket_names(_LEADS, HOUR))[buckets_of(_LEADS, HOUR)[lead]]
    found = {name: _scores(both[names == name]) for name in sorted(set(names))}
    found["all"] = _scores(both) | {"mean_over_meters": _over_meters(both)}
    counts = {name: each["n"] for name, each in found.items()}
    if counts != (wanted := {name: each["model"]["n"] for name, each in expected.items()}):
        raise RuntimeError(f"forecasts of other targets: {counts} in place of {wanted}")
    return found


def _scores(of: pd.DataFrame) -> dict[str, float]:
    error = of["q50"] - of["actual"]
    size = of["actual"].abs().mean()
    covered = (of["q10"] <= of["actual"]) & (of["actual"] <= of["q90"])
    return {
        "n": len(of),
        "mae": error.abs().mean(),
        "mae_over_mean": error.abs().mean() / size,
        "bias": error.mean(),
        "coverage": covered.mean(),
        "width": (of["q90"] - of["q10"]).mean(),
    }


def _over_meters(of: pd.DataFrame) -> float:
    return float(np.mean([_scores(each)["mae_over_mean"] for _, each in of.groupby("asset")]))


def table(title: str, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: a line a forecaster; MAE over mean by lead, and of all leads bias, coverage and width."""
    leads = [lead for lead in next(iter(rows.values())) if lead != "all"]
    lines = [
        f"| {title} | {' | '.join(leads)} | all | mean over meters | bias | covered | width |",
        "|---" + "|---:" * (len(leads) + 5) + "|",
    ]
    for name, scores in rows.items():
        every = scores["all"]
        mean = every["mae"] / every["mae_over_mean"]
        shares = [scores[lead]["mae_over_mean"] for lead in (*leads, "all")]
        cells = [_percent(each) for each in (*shares, every["mean_over_meters"])]
        cells.append(f"{every['bias'] / mean:+.1%}")
        cells += [_percent(every[each]) if each in every else "" for each in ("coverage",)]
        cells.append(_percent(every["width"] / mean) if "width" in every else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def of_backtest(found: Mapping[str, Any], name: str) -> dict[str, dict[str, float]]:
    """Scores by lead of the model or a naive forecast in what `ai-hub backtest --json` says."""
    every = [each[name]["mae_over_mean"] for each in found["by_asset"].values()]
    by_lead = {lead: each[name] for lead, each in found["by_lead"].items()}
    return {**by_lead, "all": found["overall"][name] | {"mean_over_meters": float(np.mean(every))}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is said of every file of load, and of every run."""
    parser.add_argument("--timezone", default="America/New_York", help="of the file and of the issues")
    parser.add_argument("--temperature-unit", choices=("C", "F"), default="F", help="of the file")
    parser.add_argument("--server", choices=servers.available(), default=servers.available()[-1])
    parser.add_argument("--output", type=Path, help="write what was measured to this JSON file")


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.public_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--load", type=Path, help="CSV file of hours")
    source.add_argument("--demo", help="tenant of the demo: illinois or uk-home")
    add_arguments(parser)
    parser.add_argument("--issue", default="D-1 10:00", help="when forecasts are issued, without a zone")
    parser.add_argument("--late", default="48h", help="how late the value of an hour is known, or 0h")
    parser.add_argument("--weeks", type=int, default=104, help="history, with the tested weeks")
    parser.add_argument("--test-weeks", type=int, default=52)
    parser.add_argument("--refit-weeks", type=int, default=13)
    parser.add_argument("--point", choices=("median", "mean"), action="append", help="may be repeated")
    parser.add_argument("--openstef", type=Path, help="a Python that has OpenSTEF 4")
    parser.add_argument("--openstef-model", choices=("lgbm", "xgboost", "gblinear"), action="append")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    servers.clean_up_when_terminated()
    with tempfile.TemporaryDirectory(prefix="day-ahead-") as name:
        folder = Path(name)
        if options.demo:
            load, zone = read_demo(options.demo, folder / "demo")
        else:
            zone = options.timezone
            load = read_load(options.load, zone, options.temperature_unit)
        plan = Plan(
            IssueRule.parse(f"{options.issue} {zone}"),
            parse_duration(options.late, "--late") if options.late != "0h" else timedelta(0),
            options.weeks,
            options.test_weeks,
            options.refit_weeks,
        )
        found = _product(folder, load, plan, options.point or ["median"], options.server)
        first = next(iter(found.values()))
        rows = {f"AI Hub, {point}": of_backtest(each, "model") for point, each in found.items()}
        rows |= {name: of_backtest(first, name) for name in ("last known day", "last known week")}
        if options.openstef:
            expected = first["by_lead"] | {"all": first["overall"]}
            for model in options.openstef_model or ["lgbm"]:
                forecasts = openstef(options.openstef, folder, load, plan, model)
                rows[f"OpenSTEF, {model}"] = score(forecasts, load, plan, expected)
    print(f"{first['issues']:,} issues from {first['first_issue']} to {first['last_issue']}, {plan.rule},")
    print(f"actual values {plan.late // HOUR} hours late, fitted every {plan.refit_weeks} weeks\n")
    print(table("MAE over mean by lead", rows))
    if options.output:
        options.output.write_text(json.dumps({"at": f"{datetime.now(UTC)}", "rows": rows}, indent=1))


def _product(
    folder: Path, load: pd.DataFrame, plan: Plan, points: Sequence[str], server: str
) -> dict[str, dict[str, Any]]:
    """What the backtest says, by point forecast."""
    with servers.databases(server, ("day_ahead",)) as databases, servers.valkey() as valkey:
        dsn = databases["day_ahead"].dsn
        site = Site(folder, {"TIMESCALE_DSN": dsn, "REDIS_URL": f"redis://{servers.HOST}:{valkey.port}/0"})
        ingest(site, load, plan)
        site.run("ai-hub", "refresh")
        site.apply()
        return {point: backtest(site, plan, point) for point in points}


if __name__ == "__main__":
    main()
