"""Messages that wait in the registry's database: written with what they tell about, there until they arrived.

A row is a message to one receiver. Whoever sends it moves its next attempt into the future first, so that two
servers do not send it at once, and a server that dies with it is followed by another attempt. A message may
arrive twice, under the same delivery id, never not at all.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from mlflow_plugins.database import notifications as table
from mlflow_plugins.notifications import receivers
from mlflow_plugins.notifications.receivers import TEST, Event

if TYPE_CHECKING:
    import threading

    from sqlalchemy.orm import Session

    from mlflow_plugins.users.actor import Actor

#: How long one attempt may take.
LEASE_MS: Final = 180_000
LONGEST_PAUSE_MS: Final = 900_000
_DAY_MS: Final = 24 * 3_600_000
#: A message is given up when it is so old and was tried so often: the server may have been off for days.
GIVE_UP_AFTER_MS: Final = 3 * _DAY_MS
_GIVE_UP_AFTER_ATTEMPTS: Final = 10
#: How long it is kept, whatever became of it; one for a receiver that is set no longer is sent by nobody, and
#: not when that receiver is set again much later.
_KEEP_MS: Final = 30 * _DAY_MS
_WAITING, _FAILED = "waiting", "failed"
#: Set by what is added, of the threads of this process that send.
wakers: Final[set[threading.Event]] = set()


class Message(NamedTuple):
    """An event on its way to a receiver."""

    id: int
    receiver: str
    delivery_id: str
    event: Event
    at_ms: int
    #: before this one
    attempts: int
    next_at_ms: int


def add(session: Session, event: Event) -> None:
    """Write a message for everybody who is told about the event; sent once the transaction has committed."""
    labels = [item.label for item in receivers.current() if item.hears(event.workspace, event.kind)]
    if not labels:
        return
    now = get_current_time_millis()
    rows = [
        {
            "workspace": event.workspace,
            "receiver": label,
            "delivery_id": str(uuid.uuid4()),
            "event": json.dumps(event.as_json(), sort_keys=True),
            "at_ms": now,
            "attempts": 0,
            "next_at_ms": now,
            "state": _WAITING,
        }
        for label in labels
    ]
    session.execute(sa.insert(table), rows)
    sa.event.listen(session, "after_commit", _wake, once=True)


def is_heard(workspace: str, kind: str) -> bool:
    """Whether anybody is told about this."""
    return any(item.hears(workspace, kind) for item in receivers.current())


def due(session: Session, receiver: str) -> Message | None:
    """The message that is due longest; None when there is none."""
    query = (
        sa.select(table)
        .where(_waits_for(receiver), table.c.next_at_ms <= get_current_time_millis())
        .order_by(table.c.next_at_ms, table.c.id)
        .limit(1)
    )
    row = session.execute(query).mappings().first()
    if row is None:
        return None
    values = {name: row[name] for name in Message._fields if name != "event"}
    return Message(**values, event=Event.of_json(json.loads(row["event"])))


def claim(session: Session, message: Message) -> bool:
    """Take a message that is due for one attempt; whether nobody else has."""
    same = sa.and_(table.c.id == message.id, table.c.next_at_ms == message.next_at_ms)
    taken = {"next_at_ms": get_current_time_millis() + LEASE_MS, "attempts": message.attempts + 1}
    result = session.execute(sa.update(table).where(same).values(**taken))
    return bool(cast("sa.CursorResult[Any]", result).rowcount)


def delivered(session: Session, message: Message) -> None:
    """It arrived."""
    session.execute(sa.delete(table).where(table.c.id == message.id))


def postponed(session: Session, message: Message, error: str) -> bool:
    """Try again later, twice as late each time; whether there will be another attempt."""
    now = get_current_time_millis()
    pause = min(1000 << min(message.attempts, 20), LONGEST_PAUSE_MS)
    is_over = now - message.at_ms > GIVE_UP_AFTER_MS and message.attempts >= _GIVE_UP_AFTER_ATTEMPTS
    values = {"next_at_ms": now + pause, "error": error[:200], "state": _FAILED if is_over else _WAITING}
    session.execute(sa.update(table).where(table.c.id == message.id).values(**values))
    return not is_over


def next_at_ms(session: Session, receiver: str) -> int | None:
    """When the next attempt is due (UTC milliseconds); None when nothing waits."""
    query = sa.select(sa.func.min(table.c.next_at_ms))
    return session.scalar(query.where(_waits_for(receiver)))


def overview(session: Session) -> list[dict[str, Any]]:
    """Every receiver with what has not arrived: messages that wait and that were given up, the last error.

    Those that are set no longer are there while anything waits for them.
    """
    found: dict[str, dict[str, Any]] = {
        item.label: {"tenant": item.tenant, "kinds": sorted(item.kinds - {TEST}), "is_set": True}
        for item in receivers.current()
    }
    counts = sa.select(table.c.receiver, table.c.state, sa.func.count()).group_by(
        table.c.receiver, table.c.state
    )
    numbers = {(label, state): count for label, state, count in session.execute(counts)}
    last = sa.select(sa.func.max(table.c.id)).where(table.c.error.is_not(None)).group_by(table.c.receiver)
    errors = sa.select(table.c.receiver, table.c.error).where(table.c.id.in_(last))
    told = {row.receiver: row.error for row in session.execute(errors)}
    for label, _ in numbers:
        found.setdefault(label, {"tenant": None, "kinds": [], "is_set": False})
    return [
        {
            "receiver": label,
            **about,
            **{state: numbers.get((label, state), 0) for state in (_WAITING, _FAILED)},
            "error": told.get(label),
        }
        for label, about in found.items()
    ]


def forget_old(session: Session) -> None:
    """Remove messages of a month ago, which nobody is going to send or look at."""
    session.execute(sa.delete(table).where(~_is_kept()))


def add_test(session: Session, actor: Actor) -> None:
    """Write a message for every receiver that says nothing."""
    now = get_current_time_millis()
    add(
        session,
        Event(
            TEST, DEFAULT_WORKSPACE_NAME, "message", 0, None, actor.name, actor.source, None, now, None, None
        ),
    )


def forget(session: Session, workspace: str) -> None:
    """Remove the messages of a tenant that is removed."""
    session.execute(sa.delete(table).where(table.c.workspace == workspace))


def _waits_for(receiver: str) -> sa.ColumnElement[bool]:
    """Condition: the message is to be sent to the receiver, now or later."""
    return sa.and_(table.c.receiver == receiver, table.c.state == _WAITING, _is_kept())


def _is_kept() -> sa.ColumnElement[bool]:
    return table.c.at_ms >= get_current_time_millis() - _KEEP_MS


def _wake(_: Session) -> None:
    for waker in wakers:
        waker.set()
