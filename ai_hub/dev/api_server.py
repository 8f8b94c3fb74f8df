"""The REST service with its export worker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ai_hub.dev.mlflow_server import CLIENT_VARIABLES
from ai_hub.dev.service import LOOPBACK, Service, Site
from ai_hub.servers import check_http

if TYPE_CHECKING:
    from collections.abc import Mapping


#: What this service is a client of itself; those of S3 it takes from the MINIO_ settings.
_ITS_OWN = frozenset({"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"})


class ApiService(Service):
    """Features, exports and the registry over HTTP; it finds the other servers when they are up."""

    name = "api"
    title = "REST service"
    setting = "AI_HUB_API_URL"
    port_field = "api_port"
    start_timeout_s = 120
    #: Longer than it gives requests under way.
    stop_grace_s = 30

    def endpoint(self, port: int) -> str:
        """URL."""
        return f"http://{LOOPBACK}:{port}"

    def exports(self, site: Site) -> dict[str, str]:
        """Where clients find it."""
        return {self.setting: self.endpoint(site.port)}

    def command(self, site: Site, settings: Mapping[str, str]) -> list[str]:
        """`ai-hub serve` with one worker."""
        del settings
        return [sys.executable, "-m", "ai_hub.cli", "serve", f"--host={LOOPBACK}", f"--port={site.port}"]

    def environment(self, site: Site, settings: Mapping[str, str]) -> dict[str, str]:
        """All settings as they are here: it runs in another folder."""
        del site
        names = (set(settings) - set(CLIENT_VARIABLES)) | (set(settings) & _ITS_OWN)
        variables = {name: settings[name] for name in names}
        if "://" not in (exports := variables["EXPORT_STORAGE_PATH"]):
            variables["EXPORT_STORAGE_PATH"] = str(Path(exports).resolve())
        return variables

    def check(self, settings: Mapping[str, str], timeout_s: float) -> None:
        """`/health/live`."""
        check_http(f"{settings[self.setting].rstrip('/')}/health/live", timeout_s)
