"""TimescaleDB: PostgreSQL 17 in WebAssembly, one folder of data."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ai_hub.dev import node
from ai_hub.dev.service import LOOPBACK, Service, Site
from ai_hub.servers import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.dev.service import Say


_EXTENSION = "SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"
_PASSWORD = "timescale_password"  # noqa: S105  # a credential's name, not its value


class TimescaleService(Service):
    """Serves one database, `postgres`; statements of all clients run one after the other."""

    name = "timescaledb"
    title = "TimescaleDB"
    setting = "TIMESCALE_DSN"
    port_field = "timescale_port"
    secrets = (_PASSWORD,)
    start_timeout_s = 120
    #: A running statement cannot be interrupted and a checkpoint follows it.
    stop_grace_s = 30

    def endpoint(self, port: int) -> str:
        """`host:port/database`."""
        return f"{LOOPBACK}:{port}/postgres"

    def exports(self, site: Site) -> dict[str, str]:
        """`TIMESCALE_DSN`."""
        password = site.credentials[_PASSWORD]
        return {"TIMESCALE_DSN": f"postgresql://postgres:{password}@{self.endpoint(site.port)}"}

    def prepare(self, site: Site, say: Say) -> None:
        """Install the Node packages."""
        del site
        node.packages(say)

    def command(self, site: Site, settings: Mapping[str, str]) -> list[str]:
        """Node with our server."""
        del site, settings
        return [str(node.node()), str(node.SOURCES / "server.mjs")]

    def environment(self, site: Site, settings: Mapping[str, str]) -> dict[str, str]:
        """What `server.mjs` reads."""
        del settings
        return {
            "AI_HUB_NODE_ROOT": str(node.packages(lambda _: None)),
            "AI_HUB_DATA": str(site.folder / "data"),
            "AI_HUB_PORT": str(site.port),
            "AI_HUB_PASSWORD": site.credentials[_PASSWORD],
        }

    def check(self, settings: Mapping[str, str], timeout_s: float) -> None:
        """A query runs and the extension is installed, or can be."""
        import psycopg

        dsn = settings[self.setting]
        try:
            # psycopg rounds its own timeout up to two seconds.
            with psycopg.connect(dsn, connect_timeout=max(2, int(timeout_s)), autocommit=True) as connection:
                limit = threading.Timer(timeout_s, connection.cancel)
                limit.start()
                try:
                    found = connection.execute(_EXTENSION).fetchone()
                finally:
                    limit.cancel()
        except (psycopg.errors.QueryCanceled, psycopg.errors.ConnectionTimeout) as error:
            raise NotReadyError(f"no answer within {timeout_s:.0f} s, maybe busy") from error
        except psycopg.Error as error:
            raise NotReadyError(str(error).strip()) from error
        if found == (0,):
            raise NotReadyError("the server has no TimescaleDB extension")
