"""Events that people hear of, who hears of which by the settings, and the messages that wait for them.

A row of the database is a message to one receiver, written with what it tells about and there until it has
arrived. Whoever sends it moves its next attempt into the future first, so that two servers do not send it at
once, and a server that dies with it is followed by another attempt. A message may arrive twice, under the
same delivery id, never not at all.

Addresses may be secrets, so only labels are logged or kept. `NOTIFY_RECEIVERS` has one receiver after
another, with spaces or line ends between:

    [TENANT=][slack+|teams+|mattermost+]http(s)://…[#KIND,KIND]      [TENANT=]mailto:NAME@HOST[#KIND,KIND]
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import uuid
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import urldefrag, urlsplit

import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

from mlflow_plugins.database import notifications as table
from mlflow_plugins.errors import bad_input
from mlflow_plugins.lifecycle import rules
from mlflow_plugins.settings import current_settings

if TYPE_CHECKING:
    import threading

    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import Transition
    from mlflow_plugins.users.permissions import Actor


PROMOTION: Final = "promotion"
ROLLBACK: Final = "rollback"
REFUSAL: Final = "refusal"
REQUEST: Final = "request"
RETRAINING: Final = "retraining"
ARCHIVAL: Final = "archival"
DELETION: Final = "deletion"
TEST: Final = "test"
#: Each kind in words, before the name of the user. A new kind is a line here, and a call of `add`.
KINDS: Final = {
    PROMOTION: "is in Production, promoted by",
    ROLLBACK: "is back in Production, rolled back by",
    REFUSAL: "is not promoted, refused to",
    REQUEST: "shall go to Production, asks",
    RETRAINING: "should be trained anew, proposes",
    ARCHIVAL: "left Production without a successor, archived by",
    DELETION: "left Production without a successor, deleted by",
    TEST: "is nothing but a test by",
}


@dataclass(frozen=True)
class Event:
    """Something about a version; `at_ms` is UTC milliseconds."""

    kind: str
    workspace: str
    model: str
    version: int
    semantic_version: str | None
    actor: str
    actor_source: str
    reason: str | None
    at_ms: int
    from_stage: str | None = None
    to_stage: str | None = rules.PRODUCTION
    #: why it was refused
    message: str | None = None
    #: versions that were archived for it
    displaced: list[int] = field(default_factory=list)
    #: of the gates, as in the audit trail
    evidence: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_move(cls, workspace: str, own: Transition, displaced: list[Transition]) -> Event | None:
        """The event of a version's move into Production, or out of it without a successor; else None."""
        if (kind := _KINDS_OF_MOVES.get((own.from_stage, own.to_stage))) is None:
            return None
        return cls(
            kind=kind,
            workspace=workspace,
            model=own.name,
            version=own.version,
            semantic_version=own.semantic_version,
            actor=own.actor,
            actor_source=own.actor_source,
            reason=own.reason,
            at_ms=own.at_ms,
            from_stage=own.from_stage,
            to_stage=own.to_stage,
            displaced=[row.version for row in displaced],
            evidence=own.evidence,
        )

    @property
    def label(self) -> str:
        """The version as people write it."""
        number = f" ({self.semantic_version})" if self.semantic_version else ""
        # a test is about no version
        return f"{self.model} {self.version}{number}" if self.version else f"This {self.model}"

    @property
    def headline(self) -> str:
        """One line: what happened, where, and who did it."""
        who = self.actor if self.actor_source in {"authenticated", "delegated"} else f"{self.actor} (claimed)"
        happened = KINDS.get(self.kind, f"({self.kind})")
        return " ".join(f"[{self.workspace}] {self.label} {happened} {who}".split())

    def lines(self) -> list[str]:
        """Everything else, a paragraph each."""
        gates = self.evidence.get("gates")
        told = [f"{name}: {_text(found)}" for name, found in gates.items()] if isinstance(gates, dict) else []
        displaced = ", ".join(map(str, self.displaced))
        return [
            f"Why: {self.reason or 'no reason was given'}",
            *([self.message] if self.message else []),
            *([f"Archived for it: version {displaced}"] if displaced else []),
            *([f"Gate {line}" for line in told] if not self.message else []),
        ]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Event:
        """What `as_json` gave, perhaps of a release with more fields."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    @property
    def at(self) -> str:
        """ISO 8601, UTC."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC).isoformat(timespec="milliseconds")


_KINDS_OF_MOVES: Final[dict[tuple[str | None, str], str]] = {
    (rules.STAGING, rules.PRODUCTION): PROMOTION,
    (rules.ARCHIVED, rules.PRODUCTION): ROLLBACK,
    (rules.PRODUCTION, rules.ARCHIVED): ARCHIVAL,
    (rules.PRODUCTION, rules.DELETED): DELETION,
}


def _text(found: Any) -> str:
    """What a gate said, and the metrics it saw."""
    if not isinstance(found, dict):
        return str(found)
    metrics = found.get("metrics")
    values = metrics.items() if isinstance(metrics, dict) else ()
    told = ", ".join(f"{name} {value:.6g}" for name, value in values if isinstance(value, int | float))
    return f"{found.get('text', '')} {told}".strip()


JSON: Final = "json"
MAIL: Final = "mail"
CHATS: Final = ("slack", "teams", "mattermost")
_ENTRY: Final = re.compile(r"(?:([a-z0-9][a-z0-9-]*)=)?(?:(slack|teams|mattermost)\+)?((https?|mailto):\S+)")


@dataclass(frozen=True)
class Receiver:
    """One receiver; it hears of `tenant` only, or of all where that is None."""

    tenant: str | None
    #: `json`, `mail`, or a chat's
    format: str
    address: str = field(repr=False)
    kinds: frozenset[str]
    #: may be reached by http, and at an address that is not public
    is_allowed: bool

    @property
    def label(self) -> str:
        """Tells it from others without telling its address; stays the same as long as that does."""
        digest = hashlib.sha256(f"{self.tenant} {self.format} {self.address}".encode()).hexdigest()[:8]
        host = self.address.rpartition("@")[2] if self.format == MAIL else urlsplit(self.address).hostname
        return f"{self.format}:{host}:{digest}"[:80]

    def hears(self, workspace: str, kind: str) -> bool:
        """Whether it is told about this."""
        return kind == TEST or (self.tenant in {None, workspace} and kind in self.kinds)


def current_receivers() -> tuple[Receiver, ...]:
    """The receivers of this server.

    Raises:
        MlflowException: 400, a setting is wrong.
    """
    settings = current_settings()
    text = settings.notify_receivers.get_secret_value() if settings.notify_receivers else ""
    mail = settings.notify_smtp_url is not None and settings.notify_sender is not None
    return _parsed(text, settings.notify_allowed_hosts, mail)


@lru_cache(maxsize=4)
def _parsed(text: str, allowed: str, mail: bool) -> tuple[Receiver, ...]:
    found = [
        _receiver(entry, number, allowed.replace(",", " ").split())
        for number, entry in enumerate(text.split(), 1)
    ]
    if not mail and any(receiver.format == MAIL for receiver in found):
        raise bad_input(
            "NOTIFY_RECEIVERS has a mailto: address, so NOTIFY_SMTP_URL and NOTIFY_SENDER must be set."
        )
    labels = [receiver.label for receiver in found]
    for number, label in enumerate(labels, 1):
        if label in labels[: number - 1]:
            raise _wrong(number, "is there twice")
    return tuple(found)


def _receiver(entry: str, number: int, allowed: list[str]) -> Receiver:
    entry, _, fragment = entry.partition("#")
    kinds = frozenset(filter(None, fragment.split(","))) or frozenset(KINDS)
    if unknown := sorted(kinds - KINDS.keys()):
        raise _wrong(number, f"knows no {unknown[0]!r}; there are {', '.join(sorted(KINDS.keys() - {TEST}))}")
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise _wrong(number, "is none of [TENANT=]https://…, [TENANT=]slack+https://… and [TENANT=]mailto:…")
    tenant, chat, address, scheme = match.groups()
    if scheme == "mailto":
        if chat or "@" not in address:
            raise _wrong(number, "names no mailbox")
        return Receiver(tenant, MAIL, address.removeprefix("mailto:"), kinds, is_allowed=True)
    host = _host(address)
    if not host:
        raise _wrong(number, "names no host")
    is_allowed = any(_covers(item, host) for item in allowed)
    if scheme == "http" and not is_allowed:
        raise _wrong(
            number, f"leads to {host} without encryption. Use https, or add {host} to NOTIFY_ALLOWED_HOSTS"
        )
    return Receiver(tenant, chat or JSON, urldefrag(address).url, kinds, is_allowed)


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _covers(item: str, host: str) -> bool:
    """Whether a name is allowed, or an address by its network."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(item, strict=False)
    except ValueError:
        return item.lower() == host.lower()


def _wrong(number: int, what: str) -> Exception:
    return bad_input(f"Receiver {number} of NOTIFY_RECEIVERS {what}.")


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
    labels = [item.label for item in current_receivers() if item.hears(event.workspace, event.kind)]
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
    return any(item.hears(workspace, kind) for item in current_receivers())


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
        for item in current_receivers()
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
