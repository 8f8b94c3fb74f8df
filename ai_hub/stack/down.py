"""Stop exactly the servers that are recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ai_hub import paths
from ai_hub.stack import processes, record
from ai_hub.stack.processes import Handle
from ai_hub.stack.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai_hub.stack.service import Service


def down(services: Sequence[Service], *, purge: bool, on_wait: Callable[[], None]) -> list[Service]:
    """Stop the recorded processes of `services`; ports and credentials stay for the next `up`.

    With `purge`, everything the stack ever wrote is deleted as well. Returns what was stopped.

    Raises:
        ConflictError: the state folder is not one of ours.
    """
    if not paths.state_dir().exists():
        return []
    with record.locked(on_wait):
        known = record.load()
        wanted = list(SERVICES.values()) if purge else services
        stopped = [
            service
            for service in wanted
            if service.name in known.services and known.services[service.name].pid is not None
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: _stop(service, known.services[service.name]), stopped))
        for service in stopped:
            known.services[service.name].pid = None
        record.save(known)
        if purge:
            record.purge()
    return stopped


def _stop(service: Service, entry: record.ServiceRecord) -> None:
    if entry.pid is not None and entry.create_time is not None:
        processes.stop(Handle(entry.pid, entry.create_time), service.stop_grace_s)
