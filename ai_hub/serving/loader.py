"""Computations that requests share: one for each row wanted at a time, many assets in one query.

A miss joins the query that is under way for its asset. Or else it joins the one of its tenant and view that
still waits for its turn, so a crowd of misses becomes few queries, and the longer they wait the fewer.

Requests leave when their patience ends; what a query finds after that is still put back into Redis. Half of
the patience is for the turn: a query that begins later would end when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import structlog

from ai_hub.serving import rows
from ai_hub.serving.breaker import UnavailableError
from ai_hub.serving.database import SERVER
from ai_hub.serving.turns import FullError, Patience, Places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.serving.current import Moment
    from ai_hub.serving.database import Connection, Database
    from ai_hub.serving.put_back import Place, PutBack
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
    def __init__(self, view: View, moment: Moment, patience: Patience) -> None:
        self.view = view
        self.moment = moment
        self.patience = patience
        self.answers: dict[str, asyncio.Future[Found]] = {}
        self.places: dict[str, Place] = {}


class Loader:
    """Newest rows from TimescaleDB."""

    def __init__(self, database: Database, put_back: PutBack, *, patience_s: float, may_wait: int) -> None:
        """`patience_s`: how long requests wait, the turn and the query together; `may_wait`: how many do."""
        self._database = database
        self._put_back = put_back
        self._patience_s = patience_s
        self._waiting = Places(may_wait)
        self._open: dict[_What, _Batch] = {}
        self._under_way: dict[tuple[_What, str], asyncio.Future[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(
        self, view: View, tenant: str, moment: Moment, places: Mapping[str, Place | None]
    ) -> list[Found]:
        """What the database knows of each asset at the moment, in their order.

        Where an asset has a place, its row is put there. Requests for the present hour share what is read at
        the time of the first.

        Raises:
            UnavailableError: it cannot be found out.
        """
        is_shared = moment.current_since is not None and not moment.is_given
        # a time that was given is its own key
        key = moment.nanos % view.window - moment.nanos if is_shared else moment.nanos
        what = _What(tenant, view.name, key)
        try:
            with self._waiting.held(tenant):
                futures = [self._join(what, view, moment, *each) for each in places.items()]
                # whoever goes away leaves the query to the others
                _, pending = await asyncio.wait(futures, timeout=self._patience_s)
        except FullError:
            raise UnavailableError(SERVER, "queue_full") from None
        if pending:
            raise UnavailableError(SERVER, "timeout")
        return [future.result() for future in futures]

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(
        self, what: _What, view: View, moment: Moment, asset: str, place: Place | None
    ) -> asyncio.Future[Found]:
        if (under_way := self._under_way.get((what, asset))) is not None:
            return under_way
        batch = self._open.get(what)
        if batch is None or len(batch.answers) >= _MOST or not batch.patience.renew():
            batch = self._open[what] = _Batch(view, moment, Patience(self._patience_s / 2))
            task = asyncio.create_task(self._run(what, batch), name="features")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        # nobody may be left to look at its error
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        batch.answers[asset] = self._under_way[what, asset] = future
        if place is not None:
            batch.places[asset] = place
        return future

    async def _run(self, what: _What, batch: _Batch) -> None:
        failure: BaseException | None = None
        found: dict[str, Found] = {}
        try:
            async with self._database.turn(what.tenant, batch.patience):
                self._close(what, batch)

                async def work(connection: Connection) -> dict[str, Found]:
                    return await rows.newest(
                        connection, batch.view, what.tenant, list(batch.answers), batch.moment.nanos
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
        if failure is None:
            self._put_back(batch.view, what.tenant, batch.moment, found, batch.places)

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
