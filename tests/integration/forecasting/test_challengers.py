"""`ai-hub compare`: a version in Staging beside the one in production, over weeks neither was trained on."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from support.comparisons import record
from support.day_ahead import register_day_ahead
from support.energy import add_meter
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.forecasting import challengers, production
from ai_hub.forecasting.challengers import compare_with_production
from ai_hub.forecasting.comparison import compare
from ai_hub.forecasting.day_ahead import fit
from ai_hub.forecasting.day_ahead_training import Horizon, read
from ai_hub.forecasting.issues import HOUR, IssueRows, IssueRule, instants
from ai_hub.forecasting.production import Issuer
from ai_hub.forecasting.train import TrainingPlan
from ai_hub.registry.versions import get_version, set_tag
from ai_hub.settings import Settings
from mlflow_plugins.gates.comparison import Plan, Record, plan_tag, record_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.energy import Energy

DAY, WEEK = timedelta(days=1), timedelta(weeks=1)
METERS = ("1", "11")
WEEKS = 5
#: of what versions say they were trained on
TRAINED = 8 * WEEK
#: of the models
HORIZON = 2 * DAY


@pytest.fixture(scope="module")
def tenant(energy: Energy) -> str:
    """Two meters with a year's third of readings."""
    name = f"rivals-{secrets.token_hex(4)}"
    for number, meter in enumerate(METERS):
        add_meter(name, meter, "UTC", energy.now, weeks=16, level=2.0 + 4 * number, seed=number)
    refresh()
    return name


def a_pair(
    energy: Energy, tenant: str, *, seen: bool, weeks: int = WEEKS, challenger: Sequence[str] = METERS
) -> str:
    """A model with version 1 in production and 2 in Staging, which was trained on the newest weeks.

    Version 1 is of chance, and says that it was trained on them, too (`seen`), or on those before the newest
    `weeks`. Version 2 is of the meters of `challenger`.
    """
    model = f"ahead-{secrets.token_hex(4)}"
    end = energy.now if seen else energy.now - weeks * WEEK - HORIZON
    register_day_ahead(tenant, METERS, model=model, trained=(end - TRAINED, end))
    registry.promote(tenant, model, version="1", reason="test")
    register_day_ahead(tenant, challenger, model=model, seed=1, trained=(energy.now - TRAINED, energy.now))
    return model


def look(tenant: str, model: str, **options: Any) -> Record | Plan:
    return compare_with_production(Settings(), tenant, model, "latest", **{"weeks": WEEKS, **options})


def same_the_slow_way(energy: Energy, found: Record) -> pd.DataFrame:
    """Check what was found of a version that was fitted anew; returns the means of the weeks that count."""
    tenant, model, first = found.tenant, found.model, found.challenger.trained_until
    assert tenant is not None
    assert model is not None
    assert first == found.start - HORIZON
    plan = TrainingPlan(tenant, "day_ahead", "electricity", METERS, model, weeks=16, until=energy.now)
    rows = read(energy.store, plan, Horizon(length=48 * timedelta(hours=1)), lambda _: None).rows
    assert rows.actual is not None
    start, at = (np.datetime64(each.replace(tzinfo=None), "us") for each in (found.start, first))
    known = rows.actual.copy()
    for row in range(len(rows)):
        for lead in range(rows.leads):
            if rows.ends[row, lead] > at:
                known[row, lead] = np.nan
    since = at - np.timedelta64(TRAINED)
    before, after = rows.issued_at < at, rows.take(rows.issued_at >= at)
    recipe = production.load(get_version(tenant, model, str(found.challenger.version))).model.recipe
    challenger = fit(replace(rows, actual=known).take(before & (rows.issued_at >= since)), recipe)
    stands = production.load(get_version(tenant, model, str(found.production.version))).model
    assert after.actual is not None
    frame = pd.DataFrame(
        [
            {
                "week": (after.starts[row, lead] - start) // np.timedelta64(7, "D"),
                "meter": after.assets[row],
                "ours": abs(mine - after.actual[row, lead]),
                "theirs": abs(other - after.actual[row, lead]),
            }
            for row, (mine_of, other_of) in enumerate(
                zip(challenger.forecast(after).values, stands.forecast(after).values, strict=True)
            )
            for lead, (mine, other) in enumerate(zip(mine_of, other_of, strict=True))
        ]
    )
    frame = frame[(frame["week"] >= 0) & (frame["week"] < (found.end - found.start) // WEEK)]
    whole = frame.groupby("week").size()
    frame = frame.dropna()
    kept = [week for week, count in frame.groupby("week").size().items() if count >= whole[week] / 2]
    frame = frame[frame["week"].isin(kept)]
    assert found.targets == len(frame)
    means = frame.groupby("week")[["ours", "theirs"]].mean()
    assert found.challenger_mae == pytest.approx(means["ours"].mean(), rel=1e-9)
    assert found.production_mae == pytest.approx(means["theirs"].mean(), rel=1e-9)
    assert found.gain_percent == pytest.approx(100 * (1 - means["ours"].mean() / means["theirs"].mean()))
    for meter, part in frame.groupby("meter"):
        gain = 100 * (1 - part["ours"].sum() / part["theirs"].sum())
        assert found.groups[f"meter {meter}"] == pytest.approx(gain)
    return means


def test_a_version_that_has_seen_the_weeks_is_fitted_anew_before_them(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False)
    result = CliRunner().invoke(
        app, ["compare", model, "--tenant", tenant, "--weeks", str(WEEKS), "--json"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found = Record.model_validate_json(result.stdout)
    start = energy.now - WEEKS * WEEK
    first = start - HORIZON
    assert (found.start, found.end, found.weeks, found.assets, found.unit) == (
        start,
        energy.now,
        WEEKS,
        2,
        "kW",
    )
    ours, theirs = found.challenger, found.production
    assert (ours.version, ours.is_registered) == (2, False)
    assert first - TRAINED <= ours.trained_from < first - TRAINED + DAY
    assert ours.trained_until == first
    assert (theirs.version, theirs.is_registered) == (1, True)
    assert (theirs.trained_from, theirs.trained_until) == (first - TRAINED, first)
    # with two issues for each hour, as they look two days ahead and are daily
    assert found.targets == pytest.approx(2 * len(METERS) * WEEKS * 168, rel=0.02)
    means = same_the_slow_way(energy, found)
    assert (len(means), found.left_out, found.missed) == (WEEKS, {}, 0)
    assert [name for name in found.groups if name.startswith("lead")] == [
        *("lead 0-6 h", "lead 6-12 h", "lead 12-24 h", "lead 24-36 h", "lead 36-48 h")
    ]
    assert (found.gain_percent > 20, found.p < 0.01, found.shadow) == (True, True, None)
    # the registry keeps it
    assert get_version(tenant, model, "2").tags[record_tag(1)] == found.model_dump_json()
    shown = CliRunner().invoke(app, ["compare", model, "--tenant", tenant], catch_exceptions=False)
    assert "its recipe fitted anew before the weeks" in shown.output
    assert f"{found.gain_percent:.3g} %" in shown.output


def test_weeks_with_gaps_are_left_out_and_others_are_looked_for_further_back(
    energy: Energy, tenant: str
) -> None:
    own = f"{tenant}-gaps"
    for number, meter in enumerate(METERS):
        add_meter(own, meter, "UTC", energy.now, weeks=18, level=2.0 + 4 * number, seed=number)
    gone = [(energy.now - 4 * WEEK + DAY, energy.now - 2 * WEEK - 2 * DAY)]  # of the third week back little
    gone += [(energy.now - WEEK, energy.now - WEEK + 2 * DAY)]
    with connect() as connection:
        for first, last in gone:
            connection.execute(
                'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" >= %s AND "timestamp" < %s',
                [own, first, last],
            )
    refresh()
    model = a_pair(energy, own, seen=False, weeks=7)
    # of the seven that production has not seen
    with pytest.raises(ConflictError, match="has the recipe") as refused:
        look(own, model, weeks=6)
    assert "Take --weeks 5, all after the training" in str(refused.value.hint)
    found = look(own, model)
    assert isinstance(found, Record)
    assert (found.start, found.end, found.weeks) == (energy.now - 7 * WEEK, energy.now, WEEKS)
    # the fourth week back has a day, the third two
    days = [f"{energy.now - back * WEEK:%Y-%m-%d}" for back in (4, 3)]
    assert list(found.left_out) == days
    for why in found.left_out.values():
        compared, measured = map(int, re.findall(r"(\d+)%", why))
        assert 5 < compared <= measured < 40
    assert len(same_the_slow_way(energy, found)) == WEEKS
    assert f"{days[0]}: " in found.facts()["Left out"]


@pytest.mark.parametrize("days", [1, 4, 7, 14])
def test_weeks_are_whole_however_far_a_model_looks_ahead(days: int) -> None:
    start = datetime(2026, 6, 1, 5, tzinfo=UTC)
    end = start + 4 * WEEK
    issues = instants(start - days * DAY + number * DAY for number in range(days + 4 * 7))
    values = np.ones((len(issues), days * 24))
    rows = IssueRows("t", np.array(["m"] * len(issues)), issues, HOUR, {}, {"x": values})
    week = challengers._weeks(rows, start, end, None)
    assert np.bincount(week[week >= 0]).tolist() == [days * 168] * 4
    rule = IssueRule.parse("D-1 05:00")
    delivered = challengers._weeks(rows, start, end, rule)
    slow = [
        (issue, lead)
        for issue in range(len(issues))
        for lead in range(days * 24)
        if start <= start + (issue - days) * DAY + lead * HOUR < end
        and (start + (issue - days) * DAY + lead * HOUR).date() == (start + (issue - days) * DAY).date() + DAY
    ]
    assert [(int(issue), int(lead)) for issue, lead in np.argwhere(delivered >= 0)] == slow


def test_two_versions_of_one_recipe_that_have_seen_the_weeks_are_not_looked_at(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_pair(energy, tenant, seen=True)
    with monkeypatch.context() as patch:
        patch.setattr(challengers, "_replay", lambda *_: pytest.fail("looked"))
        for days in (0, 14):
            with pytest.raises(ConflictError, match="has the recipe of the one in production") as refused:
                look(tenant, model, shadow_days=days)
            unseen = energy.now + HORIZON + 8 * WEEK + DAY
            assert f"from {unseen:%Y-%m-%d} on take --weeks 8" in str(refused.value.hint)
            assert not [tag for tag in get_version(tenant, model, "2").tags if "comparison" in tag]
    # a look at weeks after both trainings can be planned
    planned = look(tenant, model, shadow_days=40)
    assert isinstance(planned, Plan)
    # fewer weeks are after the training of the one in production
    model = a_pair(energy, tenant, seen=False)
    with pytest.raises(ConflictError, match="has the recipe") as refused:
        look(tenant, model, weeks=6)
    assert "Take --weeks 5, all after the training" in str(refused.value.hint)
    # one that looks further ahead has another recipe
    further = register_day_ahead(
        tenant, METERS, model=model, leads=72, trained=(energy.now - TRAINED, energy.now)
    )
    both = challengers._versions(*(get_version(tenant, model, str(each)) for each in (further, 1)))
    challengers._check_recipes(both, energy.now - 6 * WEEK, energy.now)


def test_two_versions_that_are_fitted_to_the_same_are_not_looked_at(energy: Energy, tenant: str) -> None:
    """Trained on 30 and 40 weeks they say; there are 16."""
    model = f"ahead-{secrets.token_hex(4)}"
    for weeks in (30, 40):
        register_day_ahead(tenant, METERS, model=model, trained=(energy.now - weeks * WEEK, energy.now))
    registry.promote(tenant, model, version="1", reason="test")
    with pytest.raises(ConflictError, match="forecast the same for every target"):
        look(tenant, model, weeks=4)
    assert record_tag(1) not in get_version(tenant, model, "2").tags


def test_two_versions_of_one_recipe_meet_in_weeks_that_neither_has_seen(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"ahead-{secrets.token_hex(4)}"
    for seed in (0, 1):
        end = energy.now - 4 * WEEK - HORIZON - (1 - seed) * DAY
        register_day_ahead(tenant, METERS, model=model, seed=seed, trained=(end - TRAINED, end))
        registry.promote(tenant, model, version="1", reason="test") if not seed else None
    first: list[Record | Plan] = []

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(challengers, "compare", compare)
        first.append(look(tenant, model, weeks=4))
        return compare(*arguments)

    # of two looks at once the first stays
    monkeypatch.setattr(challengers, "compare", meanwhile)
    with pytest.raises(ConflictError, match=r"Another look at version 2 .* was noted meanwhile"):
        look(tenant, model, weeks=4)
    (found,) = first
    assert isinstance(found, Record)
    assert (found.challenger.is_registered, found.production.is_registered) == (True, True)
    # there is one look
    monkeypatch.setattr(challengers, "_replay", lambda *_: pytest.fail("looked again"))
    assert look(tenant, model) == found
    assert look(tenant, model, weeks=12, now=found.looked_at + DAY) == found
    with pytest.raises(ConflictError, match="one look at two versions"):
        set_tag(get_version(tenant, model, "2"), record_tag(1), "{}")


def test_the_weeks_of_a_planned_look_are_those_of_its_plan(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False, weeks=5)
    at = energy.now - 3 * DAY + HOUR / 2
    look(tenant, model, weeks=4, shadow_days=1, now=at - DAY)
    with pytest.raises(ConflictError, match="was planned with --weeks 4 --shadow-days 1"):
        look(tenant, model, weeks=3, shadow_days=1, now=energy.now + DAY)
    found = look(tenant, model, weeks=4, shadow_days=1, now=energy.now + DAY)
    assert isinstance(found, Record)
    # whole hours, three days before the newest one
    assert (found.start, found.end) == (energy.now - 3 * DAY - 4 * WEEK, energy.now - 3 * DAY)


def test_a_plan_takes_weeks_that_there_will_be_and_fewer_if_they_do_not_come(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[tuple[datetime, datetime]] = []

    def looked(_settings: Any, _both: Any, span: tuple[datetime, datetime], _on_step: Any) -> Any:
        spans.append(span)
        raise LookupError

    monkeypatch.setattr(challengers, "_replay", looked)
    model = a_pair(energy, tenant, seen=False)
    register_day_ahead(tenant, METERS, model=model, trained=(energy.now - 10 * WEEK, energy.now))
    # 16 weeks were measured, and two are to come
    with pytest.raises(BadInputError, match=r"18 have at least 50% .*measured or still to come; it takes 19"):
        look(tenant, model, weeks=19, shadow_days=14, now=energy.now)
    assert plan_tag(1) not in get_version(tenant, model, "3").tags
    planned = look(tenant, model, weeks=18, shadow_days=14, now=energy.now)
    assert look(tenant, model, weeks=18, shadow_days=14, now=energy.now) == planned
    # they have not come
    then = energy.now + 2 * WEEK
    with pytest.raises(BadInputError, match="16 have at least 50% of their hours measured; it takes 18"):
        look(tenant, model, weeks=18, shadow_days=14, now=then)
    # as many as there are, and neither more nor fewer
    for weeks, days, at in (
        (19, 14, then),
        (17, 14, then),
        (15, 14, then),
        (16, 7, then),
        (16, 14, then - HOUR),
    ):
        with pytest.raises(ConflictError, match="was planned with --weeks 18 --shadow-days 14"):
            look(tenant, model, weeks=weeks, shadow_days=days, now=at)
    assert spans == []
    with pytest.raises(LookupError):
        look(tenant, model, weeks=16, shadow_days=14, now=then)
    assert spans == [(energy.now - 16 * WEEK, energy.now)]


def test_a_challenger_that_forecasts_less_is_refused_or_it_is_said(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_pair(energy, tenant, seen=False, weeks=4, challenger=METERS[:1])
    with pytest.raises(ConflictError, match=rf"Of 2 meters .* does not forecast 1 \({METERS[1]}\)"):
        look(tenant, model)
    register_day_ahead(tenant, METERS, model=model, leads=24, trained=(energy.now - TRAINED, energy.now))
    with pytest.raises(ConflictError, match="looks 24 h ahead, that in production 48 h"):
        look(tenant, model)
    # of two in a hundred hours it has none, then of one in 200
    latest = register_day_ahead(tenant, METERS, model=model, trained=(energy.now - TRAINED, energy.now))
    replayed = challengers._replay(
        Settings(), challengers._versions(*(get_version(tenant, model, str(each)) for each in (latest, 1))),
        (energy.now - 4 * WEEK, energy.now), lambda _: None,
    )  # fmt: skip
    asked = np.flatnonzero((replayed.week >= 0) & np.isfinite(replayed.production))

    def lacking(each: int) -> Any:
        errors = replayed.challenger.copy()
        errors.reshape(-1)[asked[::each]] = np.nan
        return replayed._replace(challenger=errors)

    monkeypatch.setattr(challengers, "_replay", lambda *_: lacking(50))
    with pytest.raises(ConflictError, match=r"does not forecast \d+ \(2.0%\); 1% is allowed"):
        look(tenant, model, weeks=4)
    monkeypatch.setattr(challengers, "_replay", lambda *_: lacking(200))
    found = look(tenant, model, weeks=4)
    assert isinstance(found, Record)
    assert found.missed == len(asked[::200])
    assert found.targets == len(asked) - found.missed
    assert found.facts()[f"Not forecast by version {latest}"] == f"{found.missed} targets"


def test_a_look_after_days_in_shadow_is_planned_first(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False)
    begin = datetime.now(UTC) - DAY
    planned = look(tenant, model, shadow_days=1, now=begin)
    assert planned == Plan(planned_at=begin, look_at=begin + DAY, weeks=WEEKS, shadow_days=1)
    assert get_version(tenant, model, "2").tags[plan_tag(1)] == planned.model_dump_json()
    with pytest.raises(ConflictError, match=f"planned with --weeks {WEEKS} --shadow-days 1"):
        look(tenant, model)
    assert look(tenant, model, shadow_days=1, now=begin + DAY / 2) == planned
    assert record_tag(1) not in get_version(tenant, model, "2").tags
    assert len(Issuer(Settings(), [tenant], [model], shadow=True).issue_now().runs) == 2
    found = look(tenant, model, shadow_days=1, now=begin + DAY)
    assert isinstance(found, Record)
    assert found.shadow is not None
    assert found.shadow.model_dump() == {
        "days": 1,
        "issues": 1,
        "shadowed": 1,
        "replayed": 1,
        "differing": 0,
        "changed": 0,
    }
    assert (found.planned_at, found.looked_at) == (begin, begin + DAY)


# a look after days in shadow is tried above, always
@pytest.mark.long
def test_forecasts_in_shadow_that_were_not_made_are_missed(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False)
    begin = datetime.now(UTC) - DAY
    look(tenant, model, shadow_days=1, now=begin)
    Issuer(Settings(), [tenant], [model]).issue_now()
    # of another version, of some meters
    register_day_ahead(tenant, METERS, model=model, seed=2)
    registry.promote(tenant, model, version="2", stage="archived", reason="test")
    Issuer(Settings(), [tenant], [model], shadow=True).issue_now()
    registry.promote(tenant, model, version="2", stage="staging", reason="test")
    Issuer(Settings(), [tenant], [model], [METERS[0]], shadow=True).issue_now()
    found = compare_with_production(
        Settings(), tenant, model, "2", weeks=WEEKS, shadow_days=1, now=begin + DAY
    )
    assert isinstance(found, Record)
    assert found.shadow is not None
    assert (found.shadow.issues, found.shadow.shadowed, found.shadow.replayed) == (1, 0, 0)


def test_what_cannot_be_compared_is_refused(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False)
    recent, early = ((end - TRAINED, end) for end in (energy.now, energy.now - 20 * WEEK))
    untold = register_day_ahead(tenant, METERS, model=model)
    in_mw = register_day_ahead(tenant, METERS, model=model, unit="MW", trained=recent)
    archived = register_day_ahead(tenant, METERS, model=model, trained=recent)
    registry.promote(tenant, model, version=str(archived), stage="archived", reason="test")
    unreadable = register_day_ahead(tenant, METERS, model=model, trained=recent)
    set_tag(get_version(tenant, model, str(unreadable)), record_tag(1), "{}")
    of_another = register_day_ahead(tenant, METERS, model=model, trained=recent)
    set_tag(get_version(tenant, model, str(of_another)), record_tag(1), record().model_dump_json())
    for number, says in (
        (archived, "is in Archived"),
        (untold, "does not say what it was trained on"),
        (in_mw, "have different units: MW and kW"),
        (unreadable, "cannot be read"),
        (of_another, "It is of versions 2 and 1 of demand"),
    ):
        for days in (0, 14):
            with pytest.raises((BadInputError, ConflictError), match=says):
                compare_with_production(Settings(), tenant, model, str(number), weeks=WEEKS, shadow_days=days)
        tags = get_version(tenant, model, str(number)).tags
        assert plan_tag(1) not in tags
        assert number in {unreadable, of_another} or record_tag(1) not in tags
    # of the weeks 16 were measured
    both = [register_day_ahead(tenant, METERS, model=model, seed=each, trained=early) for each in (1, 2)]
    registry.promote(tenant, model, version=str(both[0]), reason="test")
    with pytest.raises(BadInputError, match=r"Of the 40 weeks before .*, 16 have at least 50% .*it takes 20"):
        look(tenant, model, weeks=20)
    assert record_tag(both[0]) not in get_version(tenant, model, str(both[1])).tags


def test_models_of_another_tenant_cannot_be_compared(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False)
    registry.ensure_tenant(energy.twin)
    with pytest.raises(NotFoundError):
        compare_with_production(Settings(), energy.twin, model, "latest", weeks=WEEKS)
    # nor a version with that of another tenant
    register_day_ahead(energy.twin, ["1"], model=model, trained=(energy.now - TRAINED, energy.now))
    with pytest.raises(NotFoundError, match="is in Production"):
        compare_with_production(Settings(), energy.twin, model, "latest", weeks=WEEKS)
    assert record_tag(1) not in get_version(tenant, model, "2").tags
