from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from mlflow_plugins.web.warm_up import forget_metrics

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_inherited_folder_of_metrics__gone__feast_can_be_imported(tmp_path: Path) -> None:
    code = (
        "from mlflow_plugins.web.warm_up import forget_metrics; forget_metrics(); "
        "from ai_hub.features import registry"
    )
    gone = str(tmp_path / "feast_metrics_gone")
    subprocess.run(
        [sys.executable, "-c", code],
        env={"PROMETHEUS_MULTIPROC_DIR": gone, "PROMETHEUS_MULTIPROCESS_DIR": gone},
        check=True,
    )


def test_folder_of_metrics_that_an_operator_set__stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROCESS_DIR", str(tmp_path / "gone"))
    forget_metrics()
    assert [name for name in os.environ if name.startswith("PROMETHEUS_")] == ["PROMETHEUS_MULTIPROC_DIR"]
