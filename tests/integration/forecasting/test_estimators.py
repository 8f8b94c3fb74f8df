"""A model of another package's estimator: trained, promoted, issued and made again as any other."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from support import city_estimators
from support.day_ahead import client_of_its_own
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.errors import AiHubError, BadInputError
from ai_hub.forecasting import log, production

if TYPE_CHECKING:
    from pathlib import Path

    from support.energy import Energy

MODEL = "city-trees"
METERS = ["1", "11"]


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["forecast", *arguments])
    if isinstance(result.exception, AiHubError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the package."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    city_estimators.write(folder)
    return folder


@pytest.fixture(scope="module")
def trained(energy: Energy, site: Path) -> dict[str, Any]:
    """Summary of `ai-hub train --estimator trees`; its model is in production."""
    meters = [option for meter in METERS for option in ("--asset", meter)]
    command = ["train", "--tenant", energy.main, "--weeks", "6", "--holdout-weeks", "1", *meters]
    command += ["--estimator", "trees", "--model", MODEL]
    with client_of_its_own(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
        sys.modules.pop("city_estimators", None)
    assert done.exit_code == 0, done.output
    registry.promote(energy.main, MODEL, reason="test")
    (summary,) = json.loads(done.stdout)
    return dict(summary)


def test_train__is_scored_with_conformal_bands(trained: dict[str, Any]) -> None:
    assert (trained["estimator"], trained["point"], trained["horizon_hours"]) == ("trees", None, 48)
    assert trained["overall"]["improvement"] > 0.05
    assert 0.6 < trained["overall"]["model"]["coverage"] < 0.95


def test_forecast__is_issued_logged_and_made_again(
    energy: Energy, trained: dict[str, Any], site: Path, tmp_path: Path
) -> None:
    del trained
    with pytest.raises(BadInputError, match="There is no estimator trees; there are lightgbm"):
        call("run", "--tenant", energy.main, "--model", MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        (issued,) = json.loads(call("run", "--tenant", energy.main, "--model", MODEL, "--json"))
        again = json.loads(call("replay", issued["run"], "--tenant", energy.main, "--json"))
        (version,) = (each for each in production.production_versions(energy.main) if each.model == MODEL)
        loaded = production.load(version)
    assert (again["rows"], again["differing"]) == (96, 0)
    with connect() as connection:
        run = log.find_run(connection, energy.main, UUID(issued["run"]))
        rows = log.read_rows(connection, run)
    features = production.read_rows(energy.store, loaded, METERS, run.issued_at)
    expected = loaded.model.forecast(features)
    np.testing.assert_array_equal([row.value for row in rows], expected.values.ravel())
    assert all(row.q10 < row.q50 < row.q90 for row in rows if row.q10)
    requirements = (registry.download_version(version, tmp_path) / "requirements.txt").read_text()
    assert "city-estimators==1.2" in requirements
