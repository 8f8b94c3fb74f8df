"""Gate `feature_service`: what the model needs is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mlflow_plugins.gates.gate import Gate, Verdict, passed, refused

if TYPE_CHECKING:
    from mlflow_plugins.gates.candidacy import Candidacy


class FeatureServiceGate(Gate):
    """Feast's registry has the feature service the model was trained on, with every feature it takes."""

    name: ClassVar[str] = "feature_service"

    def check(self, candidacy: Candidacy) -> Verdict:
        """Ask Feast's registry, past its cache.

        Raises:
            AiHubError: the registry is not configured or does not answer.
        """
        # importing Feast takes seconds, which only promotions under such a policy pay
        from ai_hub.features.registry import find_service  # noqa: PLC0415

        metadata = candidacy.facts.metadata
        wanted = metadata.get("feature_service")
        names = metadata.get("feature_names") or []
        again = "and register the model anew."
        if not wanted:
            return refused("It names no feature service.", f"Set the run's tag feature_service, {again}")
        if not names:
            found = "It has no signature, so it does not say which features it takes."
            return refused(found, f"Log the model with a signature, {again}", service=wanted)
        service = find_service(wanted)
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
