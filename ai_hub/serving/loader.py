"""Computations that requests share: one for each row wanted at a time, many assets in one query.

A miss joins the query that is under way for its asset. Or else it joins the one of its tenant and view that
still waits for its turn, so a crowd of misses becomes few queries, and the longer they wait the fewer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import structlog

from ai_hub.serving import rows
from ai_hub.serving.breaker import UnavailableError
from ai_hub.serving.database import SERVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.serving.database import Connection, Database
    from ai_hub.serving.query import View
    from ai_hub.serving.rows import Found

_log = structlog.get_logger(__name__)
_MOST = 1000
_LINGERS_S = 0.5


class _What(NamedTuple):
    """Rows that one query can read: of a tenant and a view, wanted for the same hour or time."""

    tenant: str
    view: str
    key: int


class _Batch:
    def __init__(self, view: View, at: int) -> None:
        self.view = view
        self.at = at
        self.answers: dict[str, asyncio.Future[Found]] = {}


class Loader:
    """Newest rows from TimescaleDB."""

    def __init__(self, database: Database, patience_s: float) -> None:
        """`patience_s`: how long a request waits, its turn and the query together."""
        self._database = database
        self._patience_s = patience_s
        self._open: dict[_What, _Batch] = {}
        self._under_way: dict[tuple[_What, str], asyncio.Future[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self, view: View, tenant: str, assets: Sequence[str], *, at: int, key: int) -> list[Found]:
        """What the database knows of the assets, each asset in its place; `at` in nanoseconds.

        Requests with the same `key` share what is read at the time of the first.

        Raises:
            UnavailableError: it cannot be found out.
        """
        what = _What(tenant, view.name, key)
        futures = [self._join(what, view, asset, at) for asset in assets]
        # whoever goes away leaves the query to the others
        _, pending = await asyncio.wait(futures, timeout=self._patience_s)
        if pending:
            raise UnavailableError(SERVER, "timeout")
        return [future.result() for future in futures]

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(self, what: _What, view: View, asset: str, at: int) -> asyncio.Future[Found]:
        if (under_way := self._under_way.get((what, asset))) is not None:
            return under_way
        batch = self._open.get(what)
        if batch is None or len(batch.answers) >= _MOST:
            batch = self._open[what] = _Batch(view, at)
            task = asyncio.create_task(self._run(what, batch), name="features")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        # nobody may be left to look at its error
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        batch.answers[asset] = self._under_way[what, asset] = future
        return future

    async def _run(self, what: _What, batch: _Batch) -> None:
        failure: BaseException | None = None
        found: dict[str, Found] = {}
        try:
            async with self._database.turn():
                self._close(what, batch)

                async def work(connection: Connection) -> dict[str, Found]:
                    return await rows.newest(
                        connection, batch.view, what.tenant, list(batch.answers), batch.at
                    )

                found = await self._database.run(what.tenant, work)
        except psycopg.Error as error:
            # the view's source is wrong: what is in Redis is all there is
            _log.exception("feature_view_not_read", view=what.view)
            failure = UnavailableError(SERVER, "query_failed")
            failure.__cause__ = error
        except (UnavailableError, asyncio.CancelledError) as error:
            failure = error if isinstance(error, UnavailableError) else UnavailableError(SERVER, "stopped")
        except Exception:  # noqa: BLE001  # whatever it is, whoever waits gets an answer
            _log.exception("feature_rows_not_read", view=what.view)
            failure = UnavailableError(SERVER, "query_failed")
        finally:
            self._close(what, batch)
            self._end(what, batch, found, failure)

    def _end(
        self, what: _What, batch: _Batch, found: dict[str, Found], failure: BaseException | None
    ) -> None:
        for asset, future in batch.answers.items():
            if failure is not None:
                self._under_way.pop((what, asset), None)
                future.set_exception(failure)
            else:
                future.set_result(found[asset])
                # who looked into Redis before the row was put back asks here after the query has ended
                asyncio.get_running_loop().call_later(_LINGERS_S, self._under_way.pop, (what, asset), None)

    def _close(self, what: _What, batch: _Batch) -> None:
        if self._open.get(what) is batch:
            del self._open[what]
