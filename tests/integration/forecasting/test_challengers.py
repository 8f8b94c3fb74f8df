"""`ai-hub compare`: a version in Staging beside the one in production, over weeks neither was trained on."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from support.day_ahead import register_day_ahead
from support.energy import add_meter
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli.main import app
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.forecasting import challengers, production
from ai_hub.forecasting.challengers import compare_with_production
from ai_hub.forecasting.day_ahead import fit
from ai_hub.forecasting.day_ahead_training import Horizon, read
from ai_hub.forecasting.production import Issuer
from ai_hub.forecasting.train import TrainingPlan
from ai_hub.registry.versions import get_version, set_tag
from ai_hub.settings import Settings
from mlflow_plugins.gates.comparison import Plan, Record, plan_tag, record_tag

if TYPE_CHECKING:
    from support.energy import Energy

DAY, WEEK = timedelta(days=1), timedelta(weeks=1)
METERS = ("1", "11")
WEEKS = 5
#: of what versions say they were trained on
TRAINED = 8 * WEEK


@pytest.fixture(scope="module")
def tenant(energy: Energy) -> str:
    """Two meters with a year's third of readings."""
    name = f"rivals-{secrets.token_hex(4)}"
    for number, meter in enumerate(METERS):
        add_meter(name, meter, "UTC", energy.now, weeks=16, level=2.0 + 4 * number, seed=number)
    refresh()
    return name


def a_pair(energy: Energy, tenant: str, *, seen: bool) -> str:
    """A model with version 1 in production and 2 in Staging, which was trained on the newest weeks.

    Version 1 is of chance, and says that it was trained on them, too (`seen`), or on earlier ones.
    """
    model = f"ahead-{secrets.token_hex(4)}"
    end = energy.now if seen else energy.now - WEEKS * WEEK
    register_day_ahead(tenant, METERS, model=model, trained=(end - TRAINED, end))
    registry.promote(tenant, model, version="1", reason="test")
    register_day_ahead(tenant, METERS, model=model, seed=1, trained=(energy.now - TRAINED, energy.now))
    return model


def look(tenant: str, model: str, **options: Any) -> Record | Plan:
    return compare_with_production(Settings(), tenant, model, "latest", **{"weeks": WEEKS, **options})


def test_a_version_that_has_seen_the_weeks_is_fitted_anew_before_them(energy: Energy, tenant: str) -> None:
    model = a_pair(energy, tenant, seen=False)
    result = CliRunner().invoke(
        app, ["compare", model, "--tenant", tenant, "--weeks", str(WEEKS), "--json"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found = Record.model_validate_json(result.stdout)
    start = energy.now - WEEKS * WEEK
    assert (found.start, found.end, found.weeks, found.assets, found.unit) == (
        start,
        energy.now,
        WEEKS,
        2,
        "kW",
    )
    ours, theirs = found.challenger, found.production
    assert (ours.version, ours.is_registered) == (2, False)
    assert start - TRAINED <= ours.trained_from < start - TRAINED + DAY
    assert ours.trained_until == start
    assert (theirs.version, theirs.is_registered) == (1, True)
    assert (theirs.trained_from, theirs.trained_until) == (start - TRAINED, start)
    # the same the slow way
    plan = TrainingPlan(tenant, "day_ahead", "electricity", METERS, model, weeks=13, until=energy.now)
    rows = read(energy.store, plan, Horizon(length=48 * timedelta(hours=1)), lambda _: None).rows
    assert rows.actual is not None
    at = np.datetime64(start.replace(tzinfo=None), "us")
    known = rows.actual.copy()
    for row in range(len(rows)):
        for lead in range(rows.leads):
            if rows.ends[row, lead] > at:
                known[row, lead] = np.nan
    before = rows.issued_at < at
    recipe = production.load(get_version(tenant, model, "2")).model.recipe
    challenger = fit(replace(rows, actual=known).take(before), recipe)
    stands = production.load(get_version(tenant, model, "1")).model
    after = rows.take(~before)
    assert after.actual is not None
    frame = pd.DataFrame(
        [
            {
                "week": (after.starts[row, lead] - at) // np.timedelta64(7, "D"),
                "meter": after.assets[row],
                "ours": abs(mine - after.actual[row, lead]),
                "theirs": abs(other - after.actual[row, lead]),
            }
            for row, (mine_of, other_of) in enumerate(
                zip(challenger.forecast(after).values, stands.forecast(after).values, strict=True)
            )
            for lead, (mine, other) in enumerate(zip(mine_of, other_of, strict=True))
        ]
    ).dropna()
    assert found.targets == len(frame)
    means = frame.groupby("week")[["ours", "theirs"]].mean()
    assert found.challenger_mae == pytest.approx(means["ours"].mean(), rel=1e-9)
    assert found.production_mae == pytest.approx(means["theirs"].mean(), rel=1e-9)
    assert found.gain_percent == pytest.approx(100 * (1 - means["ours"].mean() / means["theirs"].mean()))
    for meter, part in frame.groupby("meter"):
        gain = 100 * (1 - part["ours"].sum() / part["theirs"].sum())
        assert found.groups[f"meter {meter}"] == pytest.approx(gain)
    assert [name for name in found.groups if name.startswith("lead")] == [
        *("lead 0-6 h", "lead 6-12 h", "lead 12-24 h", "lead 24-36 h", "lead 36-48 h")
    ]
    assert (found.gain_percent > 20, found.p < 0.01, found.shadow) == (True, True, None)
    # the registry keeps it
    assert get_version(tenant, model, "2").tags[record_tag(1)] == found.model_dump_json()
    shown = CliRunner().invoke(app, ["compare", model, "--tenant", tenant], catch_exceptions=False)
    assert "its recipe fitted anew before the weeks" in shown.output
    assert f"{found.gain_percent:.3g} %" in shown.output


def test_two_versions_of_one_recipe_that_have_seen_the_weeks_are_the_same(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_pair(energy, tenant, seen=True)
    found = look(tenant, model)
    assert isinstance(found, Record)
    assert (found.challenger.is_registered, found.production.is_registered) == (False, False)
    assert (found.gain_percent, found.interval_percent, found.p) == (0, (0, 0), pytest.approx(0.5))
    # there is one look
    monkeypatch.setattr(challengers, "_replay", lambda *_: pytest.fail("looked again"))
    assert look(tenant, model) == found
    assert look(tenant, model, weeks=12, now=found.looked_at + DAY) == found
    with pytest.raises(ConflictError, match="one look at two versions"):
        set_tag(get_version(tenant, model, "2"), record_tag(1), "{}")


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
    for number, says in (
        (archived, "is in Archived"),
        (untold, "does not say what it was trained on"),
        (in_mw, "have different units: MW and kW"),
        (unreadable, "cannot be read"),
    ):
        for days in (0, 14):
            with pytest.raises((BadInputError, ConflictError), match=says):
                compare_with_production(Settings(), tenant, model, str(number), weeks=WEEKS, shadow_days=days)
        tags = get_version(tenant, model, str(number)).tags
        assert plan_tag(1) not in tags
        assert number == unreadable or record_tag(1) not in tags
    # in the first of 20 weeks nothing was measured
    both = [register_day_ahead(tenant, METERS, model=model, seed=each, trained=early) for each in (1, 2)]
    registry.promote(tenant, model, version=str(both[0]), reason="test")
    with pytest.raises(BadInputError, match=r"Of the 20 weeks .* have enough to compare"):
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
