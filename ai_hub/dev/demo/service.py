"""The demo's visit to the REST service: features, a prediction and an export, with a key of one tenant."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from ai_hub.client import Client
from ai_hub.errors import ForbiddenError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.dev.demo.steps import Steps


_WEEK = timedelta(weeks=1)
_SHOWN = 4


def ask(
    steps: Steps, *, tenant: str, other_tenant: str, model: str, assets: Sequence[str], hour: datetime
) -> None:
    """Ask for features of `assets`, predict with the production version of `model`, export a week.

    Raises:
        StepFailedError: no key could be made.
        AiHubError: the service refuses what it should not.
    """
    steps.begin("Ask the REST service, with a key of one tenant")
    key = steps.json(
        *("ai-hub", "keys", "create", f"demo-{uuid4().hex[:8]}"),
        *("--tenant", tenant, "--role", "engineer", "--expires", "1d"),
    )["key"]
    service = Settings().require("ai_hub_api_url")
    say = steps.console.print
    with Client(service, api_key=key, tenant=tenant) as client:
        for each in client.features(list(assets), "forecast_basic").results:
            values = ", ".join(
                f"{name} {_short(value)}" for name, value in list(each.features.items())[:_SHOWN]
            )
            say(f"POST /ai/features/get    {each.asset_id} from {each.source}: {values}, …", highlight=False)
        for prediction in client.predict(model, list(assets)):
            say(
                f"{model} {prediction.semantic_version}: {prediction.asset_id} {prediction.value:.3f} "
                f"for the hour from {prediction.hour:%H:%M} UTC",
                highlight=False,
            )
        job = client.export("forecast_advanced", hour - _WEEK, hour)
        say(f"POST /ai/features/export {job.message} {job.storage_path}", soft_wrap=True, highlight=False)
    with Client(service, api_key=key, tenant=other_tenant) as client:
        try:
            client.feature_sets()
            client.features(assets[0])
        except ForbiddenError as error:
            say(f"with the same key, for {other_tenant}: {error.message}", style="yellow", highlight=False)
        else:
            raise AssertionError(f"a key of {tenant} opened {other_tenant}")
    steps.end(
        f"features, {len(assets)} predictions and {job.row_count:,} exported rows; {other_tenant} refused"
    )


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
