"""Gate `feature_service` of the registry: what a model needs is served."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from ai_hub.errors import AiHubError
from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from mlflow_plugins.gates.gate import Candidate

#: Where prometheus-client shares numbers between processes. Feast sets both in whatever imports it, and
#: removes the folder when that process ends; whoever inherits them can then import Feast no more.
_METRICS: Final = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")


class FeatureServiceGate(Gate):
    """Feast's registry has the feature service the model was trained on, with every feature it takes."""

    name: ClassVar[str] = "feature_service"

    @classmethod
    def warm_up(cls) -> None:
        """Import Feast, which takes seconds, unhindered by variables of a process that has ended."""
        from ai_hub.imports import skip_type_checks  # noqa: PLC0415

        forget_metrics()
        skip_type_checks()  # two thirds of the import; this server reads what others have declared
        from ai_hub.features.store import find_service  # noqa: PLC0415

        find_service("")

    def check(self, candidate: Candidate) -> Verdict:
        """Ask Feast's registry, past its cache."""
        # importing Feast takes seconds, which only promotions under such a policy pay
        from ai_hub.features.store import find_service  # noqa: PLC0415

        metadata = candidate.info.metadata
        wanted = metadata.get("feature_service")
        names = metadata.get("feature_names") or []
        again = "and register the model anew."
        if not wanted:
            return refused("It names no feature service.", f"Set the run's tag feature_service, {again}")
        if not names:
            found = "It has no signature, so it does not say which features it takes."
            return refused(found, f"Log the model with a signature, {again}", service=wanted)
        try:
            service = find_service(wanted)
        except AiHubError as error:  # the registry is not configured, or does not answer
            return refused(error.message, error.hint or "", service=wanted)
        if service is None:
            return refused(
                f"Feast has no feature service {wanted}.",
                "Have it back by `feast apply`, or train on one of `feast feature-services list`.",
                service=wanted,
            )
        evidence = {"service": wanted, "features": sorted(names)}
        if lacking := sorted(set(names) - service.columns):
            return refused(
                f"Feature service {wanted} does not serve {', '.join(lacking)}, which the model takes.",
                "Put them back by `feast apply`, or train on what it serves now.",
                **evidence,
                lacking=lacking,
            )
        return passed(f"Feature service {wanted} serves all {len(names)} features.", **evidence)


def forget_metrics() -> None:
    """Unset inherited folders of metrics that are gone, or that are another process's of Feast."""
    if "feast.metrics" in sys.modules:  # they are this one's, and its metrics count in them
        return
    for name in _METRICS:
        folder = os.environ.get(name)
        if folder and (not Path(folder).is_dir() or Path(folder).name.startswith("feast_metrics_")):
            del os.environ[name]
