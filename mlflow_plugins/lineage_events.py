"""OpenLineage events of training, promotion and forecasts, for a catalogue such as Marquez.

Off, and nothing is imported, unless OpenLineage's own client is configured by variables of the environment. A
thread sends events behind the work: a receiver that is slow or down costs the work nothing, and a process
that ends at most `EXIT_S`, beside the import of the client. Events that are lost are counted in the log.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.metadata import version as installed
from importlib.util import find_spec
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Variables that say where events go.
_SWITCHES: Final = (
    "OPENLINEAGE_URL",
    "OPENLINEAGE_CONFIG",
    "OPENLINEAGE__TRANSPORT",
    "OPENLINEAGE__TRANSPORT__TYPE",
)
#: Events that wait at most.
QUEUE_LENGTH: Final = 1000
#: After an event that could not be sent, those of so many seconds are dropped.
COOLDOWN_S: Final = 60.0
#: A process that ends waits so long for events that are not sent yet.
EXIT_S: Final = 2.0

_log: Final = logging.getLogger(__name__)
_starting: Final = threading.Lock()


@dataclass(frozen=True)
class LineageDataset:
    """Feature rows, a model's version or forecasts; of feature rows, the version is their `known_at`."""

    name: str
    version: str | None = None


def model_version(model: str, version: int, semantic_version: str | None) -> LineageDataset:
    """A version of the registry."""
    return LineageDataset(f"models/{model}/{version}", semantic_version)


@dataclass
class LineageRun:
    """A run of a job of a tenant, whose datasets are added while it goes on."""

    tenant: str
    job: str
    inputs: list[LineageDataset] = field(default_factory=list)
    outputs: list[LineageDataset] = field(default_factory=list)
    #: the times that it is about, such as a training window
    start: datetime | None = None
    end: datetime | None = None
    #: nothing has come of it, and nothing is sent, if START was not
    is_void: bool = False
    #: class of the exception that ended it
    error: str | None = None
    run_id: UUID = field(default_factory=uuid4)


def is_on() -> bool:
    """Whether OpenLineage's client is configured."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    return any(os.environ.get(name) for name in _SWITCHES)


@contextmanager
def lineage_run(tenant: str, job: str, *, at_once: bool = True) -> Iterator[LineageRun]:
    """Send START, and at the block's end COMPLETE, or FAIL with the class of the exception that it raises.

    Texts of exceptions are not sent, as they may have addresses and passwords.

    Args:
        tenant: whose.
        job: what is done.
        at_once: send START when the block begins; else only with its end, and not where the run is void.
    """
    run = LineageRun(tenant, job)
    began = datetime.now(UTC)
    if at_once:
        _send(run, "START", began)
    try:
        yield run
    except BaseException as error:
        run.error = type(error).__name__
        run.outputs = []  # it was to make them
        raise
    finally:
        if at_once or not run.is_void:
            if not at_once:
                _send(run, "START", began)
            _send(run, "FAIL" if run.error else "COMPLETE", datetime.now(UTC))


def flush(timeout_s: float) -> bool:
    """Wait until every event is sent or lost; False: some are neither after `timeout_s`."""
    return not is_on() or (sender := _the_sender()) is None or sender.flush(timeout_s)


def finish() -> None:
    """Send what waits and count what is lost, as at the end of a process; for one that a signal ends."""
    if _sender.cache_info().currsize and (sender := _the_sender()) is not None:
        sender.finish()


def _send(run: LineageRun, state: str, at: datetime) -> None:
    if is_on() and (sender := _the_sender()) is not None:
        # the run changes while the event waits
        sender.put(_Event(at, state, replace(run, inputs=[*run.inputs], outputs=[*run.outputs])))


@dataclass(frozen=True)
class _Event:
    at: datetime
    state: str
    run: LineageRun


class _Sender:
    """A queue of events, and the thread that sends them."""

    def __init__(self) -> None:
        #: a number: the client is to be closed, until this time of the monotonic clock
        self._queue: Queue[_Event | float] = Queue(QUEUE_LENGTH)
        self._lost = 0
        self._client: Any = None
        self._is_closed = False
        # the client needs it, and a process that ends can no longer import it
        import_module("concurrent.futures.thread")
        threading.Thread(target=self._send_all, name="lineage events", daemon=True).start()
        atexit.register(self.finish)

    def put(self, event: _Event) -> None:
        try:
            self._queue.put_nowait(event)
        except Full:
            self._lost += 1

    def flush(self, timeout_s: float) -> bool:
        done = self._queue.all_tasks_done
        with done:
            return done.wait_for(lambda: not self._queue.unfinished_tasks, timeout_s)

    def finish(self) -> None:
        atexit.unregister(self.finish)
        if self._queue.unfinished_tasks:
            with suppress(Exception):  # the thread says it
                _import_client()  # on a machine with much to do it takes longer than `EXIT_S`
        until = time.monotonic() + EXIT_S
        is_queue_empty = self.flush(EXIT_S)
        lost = self._lost + self._queue.unfinished_tasks
        if is_queue_empty:
            self._queue.put(until)
            self.flush(until - time.monotonic())
        if lost := lost + self._unsent():
            _log.warning("%d lineage events were lost: the receiver did not take them in time.", lost)
        elif self._client is not None and not self._is_closed:
            _log.warning("OpenLineage's client was not done in time: it may have lost lineage events.")

    def _unsent(self) -> int:
        """Events that the transport `async_http` has taken into a queue of its own, and has not sent."""
        if self._client is None:
            return 0
        stats: dict[str, int] = getattr(self._client.transport, "get_stats", dict)()
        return stats.get("pending", 0) + stats.get("failed", 0)

    def _send_all(self) -> None:
        rests_until = 0.0
        while True:
            event = self._queue.get()
            try:
                if isinstance(event, float):
                    if self._client is not None:
                        self._is_closed = self._client.close(max(0.0, event - time.monotonic()))
                elif time.monotonic() < rests_until:
                    self._lost += 1
                else:
                    self._client = self._client or _client()
                    self._client.emit(_run_event(event))
            except Exception as error:  # noqa: BLE001  # whatever a transport raises, the work goes on
                self._lost += 1
                rests_until = time.monotonic() + COOLDOWN_S
                _log.warning(
                    "A lineage event could not be sent (%s); those of the next %.0f s are dropped, too. "
                    "%d are lost so far.",
                    type(error).__name__,  # its text may have the receiver's address with a password
                    COOLDOWN_S,
                    self._lost,
                )
            finally:
                self._queue.task_done()


def _the_sender() -> _Sender | None:
    with _starting:  # two threads would start two
        return _sender()


@cache
def _sender() -> _Sender | None:
    """The process's sender; None: the client is not installed, which is said once."""
    if find_spec("openlineage") is None:
        _log.error(
            "OpenLineage is configured, but its client is not installed: no lineage events are sent. "
            "Install the extra `lineage` (pip install 'ai-hub[lineage]'), or set OPENLINEAGE_DISABLED=true."
        )
        return None
    return _Sender()


# threads do not survive a fork
os.register_at_fork(after_in_child=_sender.cache_clear)
os.register_at_fork(
    before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release
)


class _WithoutValues(logging.Handler):
    """Says what OpenLineage's client logs without the values, which may be addresses and keys."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        _log.log(record.levelno, "OpenLineage's client: %s%s", text, f" ({error.__name__})" if error else "")


def _import_client() -> tuple[Any, Any, Any]:
    names = ("openlineage.client", "openlineage.client.event_v2", "openlineage.client.facet_v2")
    client, events, facets = map(import_module, names)
    return client, events, facets


def _client() -> Any:
    if not os.environ.get("OPENLINEAGE_CLIENT_LOGGING"):
        logger = logging.getLogger("openlineage")
        logger.handlers, logger.propagate = [_WithoutValues(logging.WARNING)], False
        # of the transport `async_http`
        logging.getLogger("httpx2").setLevel(logging.WARNING)
    client = _import_client()[0].OpenLineageClient()
    # on demand it sends the address of the git repository, with the password where that has one
    client.config.facets.source_code_location.disabled = True
    return client


def _run_event(event: _Event) -> Any:
    _, v2, facets = _import_client()
    run = event.run
    namespace = f"{os.environ.get('OPENLINEAGE_NAMESPACE') or 'ai-hub'}/{run.tenant}"

    def of_dataset(dataset: LineageDataset) -> dict[str, Any]:
        if dataset.version is None:
            return {}
        return {"version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version)}

    of_run = {}
    if run.start is not None and run.end is not None:
        of_run["nominalTime"] = facets.nominal_time_run.NominalTimeRunFacet(
            run.start.isoformat(), run.end.isoformat()
        )
    if run.error is not None and event.state == "FAIL":
        of_run["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(run.error, "PYTHON")
    return v2.RunEvent(
        eventType=v2.RunState[event.state],
        eventTime=event.at.isoformat(),
        run=v2.Run(str(run.run_id), of_run),
        job=v2.Job(namespace, run.job),
        inputs=[v2.InputDataset(namespace, each.name, facets=of_dataset(each)) for each in run.inputs],
        outputs=[v2.OutputDataset(namespace, each.name, facets=of_dataset(each)) for each in run.outputs],
        producer=f"urn:ai-hub:{installed('ai-hub')}",
    )
