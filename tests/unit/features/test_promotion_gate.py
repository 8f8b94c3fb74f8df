from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from feast.infra.registry.sql import SqlRegistry, SqlRegistryConfig

from ai_hub.features.promotion_gate import forget_metrics

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: What a promotion asks Feast's registry for, and what it has to import for that.
_FIRST_PROMOTION = """
import sys
from support.gate_candidates import candidate
from ai_hub.features.promotion_gate import FeatureServiceGate
from mlflow_plugins.web.mount import WarmUp

cold = set(sys.modules)
WarmUp(None).wait()
warm = set(sys.modules)
metadata = {"feature_service": "forecast", "feature_names": ["a"]}
verdict = FeatureServiceGate().check(candidate(metadata=metadata))
assert not verdict.passed
print(len(warm - cold), *sorted(set(sys.modules) - warm))
"""


def _run(code: str, **variables: str) -> str:
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path} | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_first_promotion__imports_nothing_that_warming_up_has_not(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'feast.db'}"
    SqlRegistry(SqlRegistryConfig(path=url), "ai_hub", None)
    # an inherited folder of metrics that is gone: Feast can be imported all the same
    gone = str(tmp_path / "feast_metrics_gone")
    folders = {"PROMETHEUS_MULTIPROC_DIR": gone, "PROMETHEUS_MULTIPROCESS_DIR": gone}
    count, *late = _run(_FIRST_PROMOTION, FEAST_REGISTRY_URI=url, **folders).split()
    assert int(count) > 100
    assert late == []


def test_folder_of_metrics_that_an_operator_set__stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {name: os.environ.get(name) for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")}
    forget_metrics()
    assert all(os.environ.get(name) == folder for name, folder in own.items()), "Feast is imported"
    monkeypatch.delitem(sys.modules, "feast.metrics")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROCESS_DIR", str(tmp_path / "gone"))
    forget_metrics()
    assert [name for name in os.environ if name.startswith("PROMETHEUS_")] == ["PROMETHEUS_MULTIPROC_DIR"]
