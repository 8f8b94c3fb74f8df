"""What is a finding about a model: rules against a slow reading, and faults in generated load."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from ai_hub.forecasting.findings import Kind, Sums, Thresholds, judge, judge_issues

DAY = timedelta(days=1)
FIRST = date(2026, 1, 5)
TODAY = FIRST + 40 * 7 * DAY
RULES = Thresholds()


def days_of(errors: np.ndarray, *, covered: float = 0.8) -> dict[date, Sums]:
    """Scores of days by hourly errors, of which there are 24 a day."""
    return {
        FIRST + number * DAY: Sums(24, float(np.abs(each).sum()), float(each.sum()), 24, 24 * covered)
        for number, each in enumerate(errors.reshape(-1, 24))
    }


def normal(seed: int = 1, weeks: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, weeks * 168)


def kinds(days: dict[date, Sums], today: date = TODAY, **fields: object) -> set[Kind]:
    found = judge("m", {"a": days}, RULES, today=today, settled_before=today - 7 * DAY, **fields)  # type: ignore[arg-type]
    return {kind for kind, each in found.items() if each}


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 2.0])
def test_error__is_a_finding_above_mean_and_four_sigma_of_26_weeks(factor: float) -> None:
    errors = normal()
    errors[-168:] *= factor
    weekly = np.abs(errors).reshape(-1, 168).mean(axis=1)
    before = weekly[-27:-1]
    limit = before.mean() + 4 * before.std(ddof=1)
    found = judge("m", {"a": days_of(errors)}, RULES, today=TODAY, settled_before=TODAY - 7 * DAY)
    finding = found[Kind.ERROR]
    assert (finding is not None) == (weekly[-1] > limit)
    if finding is not None:
        assert finding.detail == pytest.approx({"value": weekly[-1], "usual": before.mean(), "limit": limit})
        assert finding.since == datetime(2026, 10, 5, tzinfo=UTC)


def test_bias_and_coverage__are_findings_of_their_own() -> None:
    shifted = normal()
    shifted[-168:] += 1
    assert kinds(days_of(shifted)) == {Kind.BIAS}
    assert kinds(days_of(normal(), covered=0.6)) == {Kind.COVERAGE}
    assert kinds(days_of(normal(), covered=0.96)) == {Kind.COVERAGE}
    assert kinds(days_of(normal(), covered=0.7)) == set()


def test_weeks__that_are_few_or_of_which_little_was_measured__say_nothing() -> None:
    errors = normal()
    errors[-168:] *= 3
    days = days_of(errors)
    recent = {day: each for day, each in days.items() if day >= TODAY - 8 * 7 * DAY}
    assert Kind.ERROR in kinds(days)
    assert Kind.ERROR not in judge("m", {"a": recent}, RULES, today=TODAY, settled_before=TODAY - 7 * DAY)
    little = {day: each for day, each in days.items() if day < TODAY - 4 * DAY}
    assert Kind.ERROR not in judge("m", {"a": little}, RULES, today=TODAY, settled_before=TODAY - 7 * DAY)
    # two weeks that readings may still correct
    assert judge("m", {"a": days}, RULES, today=TODAY, settled_before=TODAY - 21 * DAY)[Kind.ERROR]


def until(days: dict[date, Sums], end: date) -> dict[date, Sums]:
    return {day: each for day, each in days.items() if day < end}


def test_meters__that_are_late_or_new__do_not_change_the_errors_of_the_others() -> None:
    small, large, late = (days_of(factor * normal(seed)) for seed, factor in ((1, 1), (2, 20), (3, 1)))
    week = TODAY - 7 * DAY
    without_large = {"small": small, "large": until(large, week + 2 * DAY), "third": days_of(normal(4))}
    without_small = {"small": until(small, week), "large": large, "late": until(late, week + 2 * DAY)}
    without_small["other"] = days_of(20 * normal(5))
    new = {day: each for day, each in days_of(20 * normal(6)).items() if day >= week - 14 * DAY}
    for meters in (without_large, without_small, {"small": small, "third": days_of(normal(4)), "new": new}):
        found = judge("m", meters, RULES, today=TODAY, settled_before=week)
        assert (found[Kind.ERROR], found[Kind.BIAS]) == (None, None)
    # the same week with twice the errors of the one that is there
    errors = normal(1)
    errors[-168:] *= 2
    found = judge("m", without_large | {"small": days_of(errors)}, RULES, today=TODAY, settled_before=week)
    (finding,) = (each for each in found.values() if each)
    weekly = np.abs([errors, normal(4)]).reshape(2, 40, 168).mean(axis=(0, 2))
    assert finding.kind is Kind.ERROR
    assert finding.detail["value"] == pytest.approx(weekly[-1])
    assert finding.detail["usual"] == pytest.approx(weekly[-27:-1].mean())
    # one of three
    few = {name: until(days, week) for name, days in without_small.items()} | {"small": days_of(errors)}
    assert not {Kind.ERROR, Kind.BIAS} & set(judge("m", few, RULES, today=TODAY, settled_before=week))


def test_findings__that_nothing_is_left_to_tell_by__are_resolved() -> None:
    opened = dict.fromkeys((Kind.ERROR, Kind.BIAS, Kind.COVERAGE), TODAY - 14 * DAY)
    over = dict.fromkeys(opened)

    def found(days: dict[date, Sums]) -> dict[Kind, object]:
        fields = {"today": TODAY, "settled_before": TODAY - 7 * DAY, "opened": opened}
        return dict(judge("m", {"a": days}, RULES, **fields))  # type: ignore[arg-type]

    days = days_of(normal())
    assert judge("m", {}, RULES, today=TODAY, settled_before=TODAY, opened=opened) == over
    # since two weeks in another unit, and without quantiles
    changed = {day: each._replace(banded=0, covered=0) for day, each in days.items()}
    assert found({day: each for day, each in changed.items() if day >= TODAY - 14 * DAY}) == over
    # nothing measured in the last week: of the four weeks there are bands
    assert set(found(until(days, TODAY - 7 * DAY))) == {Kind.COVERAGE}
    assert judge("m", {}, RULES, today=TODAY, settled_before=TODAY) == {}


def test_fault__that_stays__does_not_become_usual_before_half_a_year() -> None:
    errors = normal(weeks=80)
    errors[40 * 168 :] *= 3
    days = days_of(errors)
    begin = TODAY
    assert Kind.ERROR in kinds(days, begin + 7 * DAY)
    for weeks in (4, 10, 26):
        later = begin + weeks * 7 * DAY
        assert Kind.ERROR not in kinds(days, later), "its own weeks are in what is usual"
        assert Kind.ERROR in kinds(days, later, opened={Kind.ERROR: begin})
    assert Kind.ERROR not in kinds(days, begin + 40 * 7 * DAY, opened={Kind.ERROR: begin})


def test_stale__is_a_model_that_issues_nothing_for_longer_than_usual() -> None:
    newest = datetime(2026, 10, 10, 9, tzinfo=UTC)
    # a day of 25 hours, and an issue that is missing
    issues = [newest, newest - 25 * DAY / 24, *(newest - number * DAY for number in (3, 4, 5))]
    assert judge_issues("m", issues, RULES, now=newest + 1.4 * DAY) == {Kind.STALE: None}
    finding = judge_issues("m", issues, RULES, now=newest + 1.6 * DAY)[Kind.STALE]
    assert finding is not None
    assert (finding.kind, finding.since) == (Kind.STALE, newest)
    assert "nothing issued for 38.4 hours" in str(finding)
    assert judge_issues("m", issues[:3], RULES, now=newest + 9 * DAY) == {}, "few issues do not tell it"


# ---- meters beside each other


def shares_of(seed: int, weeks: int = 30) -> np.ndarray:
    """Errors of each meter and week as shares of its load: weather of the week, and its own."""
    random = np.random.default_rng(seed)
    return 0.2 * random.normal(size=weeks) + 0.02 * random.normal(size=(8, weeks))


def meters_of(shares: np.ndarray) -> dict[str, dict[date, Sums]]:
    """Scores of 24 hours a day, of meters of different size, with these errors."""
    found = {}
    for number, of_meter in enumerate(shares):
        load = 24 * 10.0**number
        each = {}
        for week, share in enumerate(of_meter):
            for day in range(7):
                at = TODAY - (len(of_meter) - week) * 7 * DAY + day * DAY
                each[at] = Sums(24, abs(share) * load, share * load, actual=load)
        found[f"meter-{number}"] = each
    return found


def found_meters(
    meters: dict[str, dict[date, Sums]], **fields: object
) -> dict[str, dict[str, object]] | None:
    """By name; None: nothing is said."""
    judged = judge("m", meters, RULES, today=TODAY, settled_before=TODAY, **fields)  # type: ignore[arg-type]
    if Kind.METERS not in judged:
        return None
    finding = judged[Kind.METERS]
    return {each["asset_id"]: each for each in finding.detail["meters"]} if finding else {}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("change", [0, 0.05, 0.08, -0.08, 0.3])
def test_meters__beyond_their_weeks_before_beside_the_others__are_named(seed: int, change: float) -> None:
    shares = shares_of(seed)
    shares[3, -1] += change
    expected = {}
    for kind, values in (("error", np.abs(shares)), ("bias", shares)):
        for number in range(8):
            beside = [values[number, week] - np.median(values[:, week]) for week in range(3, 30)]
            before, now = beside[:-1], beside[-1]
            high = np.mean(before) + 2.5 * np.std(before, ddof=1)
            low = np.mean(before) - 2.5 * np.std(before, ddof=1)
            if now > high or (kind == "bias" and now < low):
                median = np.median(values[:, -1])
                expected.setdefault(f"meter-{number}", {})[kind] = (
                    values[number, -1],
                    low + median if kind == "bias" else None,
                    high + median,
                )
    found = found_meters(meters_of(shares))
    assert found is not None
    assert found.keys() == expected.keys()
    assert "meter-3" in found or change < 0.3
    for name, each in found.items():
        value, low, high = expected[name][str(each["kind"])]
        assert (each["value"], each["high"]) == pytest.approx((value, high))
        assert each["low"] == (None if low is None else pytest.approx(low))


def test_meters__that_all_err_in_the_same_week__are_none() -> None:
    shares = shares_of(1)
    shares[:, -1] += 0.6
    assert found_meters(meters_of(shares)) == {}


def test_meters__that_are_few_late_or_new__are_not_judged() -> None:
    shares = shares_of(2)
    shares[3, -1] += 0.5
    meters = meters_of(shares)
    assert set(found_meters(meters) or ()) == {"meter-3"}
    six = {name: meters[name] for name in list(meters)[:6]}
    assert set(found_meters(six) or ()) == {"meter-3"}
    five = {name: meters[name] for name in list(meters)[:5]}
    assert found_meters(five) is None
    assert found_meters(five, opened={Kind.METERS: TODAY - 7 * DAY}) == {}
    week = TODAY - 7 * DAY
    late = meters | {"meter-3": until(meters["meter-3"], week + 2 * DAY)}
    assert "meter-3" not in (found_meters(late) or {})
    new = {day: each for day, each in meters["meter-3"].items() if day >= TODAY - 7 * 7 * DAY}
    assert "meter-3" not in (found_meters(meters | {"meter-3": new}) or {})
    # of most nothing was measured this week
    silent = {name: until(days, week) if name != "meter-3" else days for name, days in meters.items()}
    assert found_meters(silent, opened={Kind.METERS: TODAY - 14 * DAY}) is None


def test_meters__that_are_named__are_judged_by_the_weeks_before_the_finding_and_the_others_by_all() -> None:
    shares = shares_of(4)
    for number in (3, 5):
        shares[number, -3:] += 0.3
    shares[5, -1] += 1
    begin = TODAY - 3 * 7 * DAY
    found = found_meters(meters_of(shares), opened={Kind.METERS: begin}, named=["meter-3"])
    assert found is not None
    for name, number, weeks in (("meter-3", 3, range(1, 27)), ("meter-5", 5, range(3, 29))):
        values = np.abs(shares) if found[name]["kind"] == "error" else shares
        beside = [values[number, week] - np.median(values[:, week]) for week in weeks]
        high = np.mean(beside) + 2.5 * np.std(beside, ddof=1) + np.median(values[:, -1])
        assert found[name]["high"] == pytest.approx(high)


def test_meters__of_a_large_model__need_more() -> None:
    """As many of a thousand are found by chance as of twenty."""
    random = np.random.default_rng(5)
    found = {}
    for size in (20, 1000):
        shares = random.normal(0, 0.05, (size, 27))
        shares[0, -1] += 5
        meters = {f"{number}": meters_of(of[None])["meter-0"] for number, of in enumerate(shares)}
        finding = judge("m", meters, RULES, today=TODAY, settled_before=TODAY)[Kind.METERS]
        assert finding is not None
        assert finding.detail["meters"][0]["asset_id"] == "0"
        found[size] = finding.detail
    assert [each["limit"] for each in found.values()] == pytest.approx([2.5, 3.66], abs=0.01)
    assert found[1000]["value"] <= 10


def test_meters__are_said_in_one_line() -> None:
    shares = shares_of(3)
    shares[1:6, -1] = [-0.5, 0.4, 0.6, -0.7, 1.0]
    finding = judge("m", meters_of(shares), RULES, today=TODAY, settled_before=TODAY, version=2)[Kind.METERS]
    assert finding is not None
    assert str(finding) == (
        "m: 5 meters err unlike the others: meter-4 (bias -70% of its load, expected 17% to 26%);"
        " meter-5 (bias 100% of its load, expected 17% to 26%);"
        " meter-1 (bias -50% of its load, expected 16% to 26%); and 2 more (version 2, since 2026-10-05)"
    )


# ---- generated load: daily, weekly and yearly pattern, with days and hours that depend on those before


def load_of(seed: int, days: int) -> np.ndarray:
    random, hours = np.random.default_rng(seed), np.arange(days * 24)
    pattern = 1 + 0.4 * np.sin((hours - 8) / 24 * 2 * np.pi) + 0.2 * np.sin((hours - 3) / 12 * 2 * np.pi)
    pattern *= np.where(hours // 24 % 7 >= 5, 0.75, 1) * (1 + 0.15 * np.cos(hours / 8760 * 2 * np.pi))
    return (
        100
        * pattern
        * (1 + _noise(random, 0.7, 0.05, days).repeat(24) + _noise(random, 0.8, 0.02, hours.size))
    )


def _noise(random: np.random.Generator, memory: float, width: float, count: int) -> np.ndarray:
    found = random.normal(0, width, count)
    for number in range(1, count):
        found[number] += memory * found[number - 1]
    return found


def scores_of(load: np.ndarray) -> dict[date, Sums]:
    """Of a forecast by the same hour of the four last weeks and half of the change of a day two days ago."""
    usual = np.mean([np.roll(load, 168 * weeks) for weeks in range(1, 5)], axis=0)
    trend = np.convolve(load / usual, np.ones(24) / 24)[: load.size]
    error = usual * (0.5 + 0.5 * np.clip(np.roll(trend, 49), 0.5, 2)) - load
    found = {}
    for day in range(70, load.size // 24):
        each = error[day * 24 : day * 24 + 24]
        low, high = np.quantile(error[(day - 30) * 24 : (day - 2) * 24], [0.1, 0.9])
        covered = float(((each >= low) & (each <= high)).sum())
        found[FIRST + day * DAY] = Sums(24, float(np.abs(each).sum()), float(each.sum()), 24, covered)
    return found


FAULTS = {
    "load x 2": lambda load, at: np.append(load[:at], 2 * load[at:]),
    "clock + 6 h": lambda load, at: np.append(load[:at], load[at - 6 : -6]),
    "load x 1.2": lambda load, at: np.append(load[:at], 1.2 * load[at:]),
}


def test_generated_load__rarely_alarms_when_healthy_and_does_with_faults() -> None:
    series, weeks, begin = 10, 75, 40
    alarms = dict.fromkeys(Kind, 0)
    judged = 0
    weeks_until: dict[str, list[int]] = {name: [] for name in FAULTS}
    for seed in range(series):
        load = load_of(seed, weeks * 7)
        healthy = scores_of(load)
        for week in range(38, weeks):
            judged += 1
            for kind in kinds(healthy, FIRST + week * 7 * DAY):
                alarms[kind] += 1
        for name, fault in FAULTS.items():
            days = scores_of(fault(load, begin * 168))
            found = (week for week in range(1, 11) if kinds(days, FIRST + (begin + week) * 7 * DAY))
            weeks_until[name].append(next(found, 99))
    assert alarms[Kind.ERROR] <= 0.04 * judged
    assert alarms[Kind.BIAS] <= 0.04 * judged
    assert alarms[Kind.COVERAGE] <= 0.06 * judged
    assert weeks_until["load x 2"] == [1] * series
    assert weeks_until["clock + 6 h"] == [1] * series
    assert sum(each <= 10 for each in weeks_until["load x 1.2"]) >= 0.8 * series
