"""Sends what waits in the outbox: a thread for each receiver, so that none waits for another."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.notifications import delivery, outbox, receivers
from mlflow_plugins.store.current import opened_store, registry_store

if TYPE_CHECKING:
    from mlflow_plugins.notifications.receivers import Receiver
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

#: How long a message may wait that another process has written, or that this one failed to read.
_POLL_S: Final = 5.0
_CLEAN_UP_S: Final = 3600.0
_log: Final = logging.getLogger("ai_hub.notifications")


def start() -> None:
    """Begin to send, and to remove what is old, for as long as this process lives.

    Raises:
        MlflowException: 400, a setting is wrong.
    """
    told = receivers.current()
    # messages of receivers that are set no longer are there where nobody is to be told, too
    threading.Thread(target=_clean_up, name="notify-clean-up", daemon=True).start()
    for receiver in told:
        waker = threading.Event()
        outbox.wakers.add(waker)
        threading.Thread(
            target=_run, args=(receiver, waker), name=f"notify-{receiver.label}", daemon=True
        ).start()


def _clean_up() -> None:
    pause = _POLL_S
    while True:
        time.sleep(pause)
        pause = _CLEAN_UP_S if _forget_old() else _POLL_S


def _forget_old() -> bool:
    """Remove what is old, where a request has opened the registry; whether that was so."""
    store = opened_store()
    if store is None:
        return False
    try:
        with store.transaction() as session:
            outbox.forget_old(session)
    except Exception:  # noqa: BLE001 - the database is away; nothing waits for this
        _log.warning("Old messages stay for an hour: the registry's database does not answer.")
    return True


def _run(receiver: Receiver, waker: threading.Event) -> None:
    pause = 1.0  # the server is still starting
    while True:
        waker.wait(pause)
        waker.clear()
        try:
            pause = _send_due(registry_store(), receiver)
        except Exception:  # noqa: BLE001 - the database is away; messages wait in it
            _log.warning("Messages to %s wait: the registry's database does not answer.", receiver.label)
            pause = _POLL_S


def _send_due(store: LifecycleStore, receiver: Receiver) -> float:
    """Send all that is due; returns the seconds until more may be."""
    while True:
        with store.sessions() as session:
            message = outbox.due(session, receiver.label)
        if message is None:
            break
        with store.transaction() as session:
            is_mine = outbox.claim(session, message)
        if is_mine:
            _send(store, receiver, message)
    with store.sessions() as session:
        due = outbox.next_at_ms(session, receiver.label)
    if due is None:
        return _POLL_S
    return min(_POLL_S, max(0.05, (due - get_current_time_millis()) / 1000))


def _send(store: LifecycleStore, receiver: Receiver, message: outbox.Message) -> None:
    try:
        delivery.send(receiver, message)
    except delivery.DeliveryError as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001 - its text may quote the address
        why = f"failed ({type(error).__name__})"
    else:
        with store.transaction() as session:
            outbox.delivered(session, message)
        return
    with store.transaction() as session:
        goes_on = outbox.postponed(session, message, why)
    what = f"{message.event.kind} of {message.event.label} ({message.event.workspace})"
    if not goes_on:
        _log.error("%s %s. The message about the %s is given up.", receiver.label, why, what)
    elif message.attempts == 0:
        _log.warning("%s %s. The message about the %s is tried again.", receiver.label, why, what)
