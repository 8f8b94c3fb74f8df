"""Start the servers together, wait until each works, undo everything if one does not; stop them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ai_hub import paths
from ai_hub.dev import processes, record
from ai_hub.dev.mlflow_server import CLIENT_VARIABLES
from ai_hub.dev.processes import Handle
from ai_hub.dev.service import LOOPBACK
from ai_hub.dev.services import (
    SERVICES,
    assign_ports,
    outside_address,
    record_settings,
    recorded_services,
    recorded_site,
)
from ai_hub.errors import AiHubError
from ai_hub.servers import NotReadyError, connection_error
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ai_hub.dev.service import Service


_CHECK_TIMEOUT_S = 5.0
_POLL_S = 0.1


class StartFailedError(AiHubError):
    """A server of the stack did not start."""

    exit_code = 3


class Progress(Protocol):
    """Where `up` tells how far each server is."""

    def __call__(self, service: Service, text: str, *, done: bool = False) -> None:
        """`service` has reached the stage `text`; `done` when nothing more follows."""


@dataclass
class _Start:
    """One call of `up`."""

    record: record.StackRecord
    progress: Progress
    started: dict[str, Handle] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    writing: threading.Lock = field(default_factory=threading.Lock)


def up(services: Sequence[Service], progress: Progress) -> dict[str, Handle]:
    """Bring `services` to work and return the processes this call started, by name.

    Running ones are left alone, dead ones are started again, outside servers are only checked.

    Raises:
        StartFailedError: a server does not work; what this call started is stopped again.
    """
    with record.locked(lambda: progress(services[0], "waiting for another `ai-hub up` or `down`")):
        stack = record.load()
        outside = {service.name for service in services if outside_address(service, stack) is not None}
        for service in services:
            if service.name not in outside and recorded_handle(stack, service) is None:
                _sweep(stack, service)
                assign_ports(service, stack)
        record_settings(stack, recorded_services(stack))
        record.save(stack)
        settings = Settings().environment()
        start = _Start(stack, progress)
        try:
            _run_all(start, services, outside, settings)
        except BaseException:
            start.cancelled.set()
            _undo(start.started)
            raise
        return start.started


def undo(started: Mapping[str, Handle]) -> list[Service]:
    """Stop processes that `up` returned; returns the services still recorded as running until now."""
    with record.locked(lambda: None):
        return _undo(started)


def _undo(started: Mapping[str, Handle]) -> list[Service]:
    stack = record.load()
    undone = [
        SERVICES[name]
        for name, handle in started.items()
        if name in stack.services and stack.services[name].pid == handle.pid
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda item: processes.stop(item[1], SERVICES[item[0]].stop_grace_s), started.items()))
    for service in undone:
        stack.services[service.name].pid = None
    record.save(stack)
    return undone


def _sweep(stack: record.StackRecord, service: Service) -> None:
    """End what a server that died left behind; its children would keep its ports."""
    entry = stack.services.get(service.name)
    if entry is not None and entry.pid is not None and entry.create_time is not None:
        processes.stop(Handle(entry.pid, entry.create_time), service.stop_grace_s)


def recorded_handle(stack: record.StackRecord, service: Service) -> Handle | None:
    """The recorded process of `service` if it still runs."""
    entry = stack.services.get(service.name)
    if entry is None or entry.pid is None or entry.create_time is None:
        return None
    handle = Handle(entry.pid, entry.create_time)
    return handle if processes.is_alive(handle) else None


def _run_all(
    start: _Start, services: Sequence[Service], outside: set[str], settings: Mapping[str, str]
) -> None:
    with ThreadPoolExecutor(max_workers=len(services)) as pool:
        futures: dict[Future[None], Service] = {}
        for service in services:
            run = _check_outside if service.name in outside else _ensure
            futures[pool.submit(run, start, service, settings)] = service
        try:
            wait(futures, return_when="FIRST_EXCEPTION")
        finally:
            start.cancelled.set()
    failures = [(service, future.exception()) for future, service in futures.items()]
    texts = []
    for service, error in failures:
        if isinstance(error, (NotReadyError, AiHubError)):
            texts.append(f"{service.title} {error}")
        elif error is not None:
            raise error
    if texts:
        raise StartFailedError("\n".join(texts), hint="What this command had started was stopped again.")


def _check_outside(start: _Start, service: Service, settings: Mapping[str, str]) -> None:
    try:
        service.check(settings, _CHECK_TIMEOUT_S)
    except NotReadyError as error:
        start.progress(service, "does not answer", done=True)
        raise NotReadyError(
            f"was not started, because {service.setting} names an outside server that does not work: "
            f"{error}\n"
            f"If the value is left from an earlier stack, run `unset {service.setting}` and try again."
        ) from error
    start.progress(service, "outside server works", done=True)


def _ensure(start: _Start, service: Service, settings: Mapping[str, str]) -> None:
    entry = start.record.services[service.name]
    handle = recorded_handle(start.record, service)
    try:
        if handle is None:
            began = time.monotonic()
            handle = _spawn(start, service, settings)
            _wait(start, service, handle, settings)
            service.finish(settings)
            text = f"ready at {entry.endpoint} after {time.monotonic() - began:.1f} s"
        else:
            _wait(start, service, handle, settings)
            text = f"already running at {entry.endpoint}"
    except NotReadyError as error:
        start.progress(service, "failed", done=True)
        raise NotReadyError(
            f"{error}\nLast lines of {entry.log}:\n{entry.log_tail() or '(empty)'}"
        ) from error
    start.progress(service, text, done=True)


def _spawn(start: _Start, service: Service, settings: Mapping[str, str]) -> Handle:
    def say(text: str) -> None:
        start.progress(service, text)

    entry = start.record.services[service.name]
    site = recorded_site(service, start.record)
    say("preparing")
    service.prepare(site, say)
    base = {name: value for name, value in os.environ.items() if name not in CLIENT_VARIABLES}
    # A relative folder would mean another one in the server's own working folder.
    base["AI_HUB_STATE_DIR"] = str(paths.state_dir())
    entry.log_offset = processes.rotate(entry.log)
    # Recorded before anything else can go wrong, so that `down` finds it.
    with start.writing:
        if start.cancelled.is_set():
            raise NotReadyError("was not started, because another server failed")
        handle = processes.spawn(
            service.command(site, settings),
            folder=site.folder,
            log=entry.log,
            environment=base | service.environment(site, settings),
        )
        start.started[service.name] = handle
        entry.pid, entry.create_time = handle.pid, handle.create_time
        record.save(start.record)
    say("starting")
    return handle


def _wait(start: _Start, service: Service, handle: Handle, settings: Mapping[str, str]) -> None:
    entry = start.record.services[service.name]
    deadline = time.monotonic() + service.start_timeout_s
    reason = "its port is closed"
    while time.monotonic() < deadline:
        if not processes.is_alive(handle):
            raise NotReadyError("ended before it was ready")
        if start.cancelled.is_set():
            raise NotReadyError("was given up, because another server failed")
        if connection_error(LOOPBACK, entry.port, _POLL_S) is None:
            try:
                service.check(settings, _CHECK_TIMEOUT_S)
            except NotReadyError as error:
                reason = str(error)
            else:
                return
        time.sleep(_POLL_S)
    raise NotReadyError(f"was not ready after {service.start_timeout_s:.0f} s: {reason}")


def down(services: Sequence[Service], *, purge: bool, on_wait: Callable[[], None]) -> list[Service]:
    """Stop the recorded processes of `services`; ports and credentials stay for the next `up`.

    With `purge`, everything the stack ever wrote is deleted as well. Returns what was stopped.

    Raises:
        ConflictError: the state folder is not one of ours.
    """
    if not paths.state_dir().exists():
        return []
    with record.locked(on_wait):
        stack = record.load()
        wanted = list(SERVICES.values()) if purge else services
        stopped = [
            service
            for service in wanted
            if service.name in stack.services and stack.services[service.name].pid is not None
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: _stop(service, stack.services[service.name]), stopped))
        for service in stopped:
            stack.services[service.name].pid = None
        record.save(stack)
        if purge:
            record.purge()
    return stopped


def _stop(service: Service, entry: record.ServiceRecord) -> None:
    if entry.pid is not None and entry.create_time is not None:
        processes.stop(Handle(entry.pid, entry.create_time), service.stop_grace_s)
