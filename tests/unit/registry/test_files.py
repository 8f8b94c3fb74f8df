"""Files of versions, and what is asked of the registry, where something of the caller's is missing."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime

import pytest

from ai_hub import registry
from ai_hub.errors import BadInputError

#: As where MLflow is not installed.
WITHOUT_MLFLOW = """
import sys
sys.modules["mlflow"] = None
from ai_hub.registry.loading import repository
with repository("s3://models/demand/v1.0.0", "acme"):
    pass
"""


def test_files_that_the_server_does_not_hand_out__without_mlflow__say_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MLFLOW], check=False, capture_output=True, text=True, timeout=60
    )
    *_, error, hint = done.stderr.splitlines()
    assert error == (
        "ai_hub.errors.AiHubError: The registry's server does not hand out the files at "
        "s3://models/demand/v1.0.0, and MLflow, which can read them, is not installed."
    )
    assert hint.startswith("Run `pip install 'ai-hub[server]'`")


def test_production_at__a_time_without_a_zone__is_refused_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(BadInputError, match="2026-11-30T12:00:00 has no time zone"):
        registry.production_at("acme", "demand", datetime(2026, 11, 30, 12))  # noqa: DTZ001  # on purpose
