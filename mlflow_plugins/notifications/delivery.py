"""Sending what waits in the outbox: signed webhooks, chats and e-mail.

Each receiver has a thread, so that none waits for another. Errors quote no address, which may be a secret.
"""

from __future__ import annotations

import json
import logging
import os
import smtplib
import ssl
import threading
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

import requests
from mlflow.utils.time import get_current_time_millis
from mlflow.webhooks.constants import (
    WEBHOOK_DELIVERY_ID_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
    WEBHOOK_TIMESTAMP_HEADER,
)
from mlflow.webhooks.delivery import _generate_hmac_signature  # the one its receivers verify
from mlflow.webhooks.ssrf import SSRFProtectedHTTPAdapter, SSRFProtectionError

from mlflow_plugins.notifications import outbox
from mlflow_plugins.notifications.outbox import JSON, MAIL, Receiver
from mlflow_plugins.settings import RegistrySettings, current_settings
from mlflow_plugins.store.lifecycle_store import opened_store, registry_store

if TYPE_CHECKING:
    from mlflow_plugins.notifications.outbox import Event, Message
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


#: Seconds for the connection and for each answer.
TIMEOUT_S: Final = 10
#: Characters of a message to a chat.
_LONGEST: Final = 10_000
_SMTPS: Final = "smtps"
#: What SMTP servers answer to a client that has to log in.
_LOGIN_FIRST: Final = 530


class DeliveryError(Exception):
    """A message did not arrive; the text has no secrets."""


def send(receiver: Receiver, message: Message) -> None:
    """Send it once.

    Raises:
        DeliveryError: it did not arrive.
    """
    settings = current_settings()
    link = _link(settings.notify_pages_url, message.event)
    if receiver.format == MAIL:
        _mail(settings, receiver.address, message, link)
    else:
        _post(settings, receiver, message, json.dumps(_body(receiver.format, message.event, link)))


def _post(settings: RegistrySettings, receiver: Receiver, message: Message, body: str) -> None:
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        WEBHOOK_DELIVERY_ID_HEADER: message.delivery_id,
        WEBHOOK_TIMESTAMP_HEADER: timestamp,
    }
    if settings.notify_secret:
        secret = settings.notify_secret.get_secret_value()
        signature = _generate_hmac_signature(secret, message.delivery_id, timestamp, body)
        headers[WEBHOOK_SIGNATURE_HEADER] = signature
    with requests.Session() as session:
        # through a proxy nobody would know whose address it is
        session.trust_env = False
        # the rest of what it would have read
        authorities = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        session.verify = authorities or True
        if not receiver.is_allowed:
            session.mount("https://", SSRFProtectedHTTPAdapter())
        try:
            with session.post(
                receiver.address,
                data=body.encode(),
                headers=headers,
                timeout=TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
        except SSRFProtectionError:
            raise DeliveryError("has no public address, and is not in NOTIFY_ALLOWED_HOSTS") from None
        except requests.RequestException as error:
            raise DeliveryError(_said(error)) from None
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise DeliveryError(f"answered {status}")


def _mail(settings: RegistrySettings, mailbox: str, message: Message, link: str | None) -> None:
    parts = urlsplit(settings.require("notify_smtp_url"))
    host, port = parts.hostname or "", parts.port or (465 if parts.scheme == _SMTPS else 25)
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
            if parts.scheme == _SMTPS
            else smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        ) as server:
            server.ehlo()
            if parts.scheme != _SMTPS and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            elif parts.scheme != _SMTPS and parts.password:
                raise DeliveryError("has a mail server that offers no encryption, so no password is sent")
            if parts.password:
                server.login(unquote(parts.username or ""), unquote(parts.password))
            server.send_message(_email(settings.require("notify_sender"), mailbox, message, link))
    except smtplib.SMTPAuthenticationError as error:
        refusal = f"has a mail server that refuses the login of NOTIFY_SMTP_URL ({error.smtp_code})"
        raise DeliveryError(refusal) from None
    except smtplib.SMTPNotSupportedError:
        raise DeliveryError("has a mail server that takes no login: NOTIFY_SMTP_URL needs none") from None
    except smtplib.SMTPResponseException as error:
        asks = error.smtp_code == _LOGIN_FIRST
        answer = "asks for a login, which NOTIFY_SMTP_URL has not" if asks else f"answered {error.smtp_code}"
        raise DeliveryError(f"has a mail server that {answer}") from None
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryError(f"has a mail server that {_said(error)}") from None


def _email(sender: str, mailbox: str, message: Message, link: str | None) -> EmailMessage:
    event = message.event
    email = EmailMessage()
    email["From"], email["To"], email["Subject"] = sender, mailbox, event.headline
    email["Date"] = format_datetime(datetime.now(UTC))
    # the same for every attempt, so that mail programs show one
    email["Message-ID"] = f"<{message.delivery_id}@{make_msgid().rpartition('@')[2]}"
    email["Auto-Submitted"] = "auto-generated"
    email.set_content("\n\n".join([event.headline, *event.lines(), *([link] if link else [])]) + "\n")
    return email


def _body(format_: str, event: Event, link: str | None) -> dict[str, Any]:
    if format_ == JSON:
        # the frame of MLflow's own webhooks
        return {
            "entity": "model_version",
            "action": event.kind,
            "timestamp": event.at,
            "workspace": event.workspace,
            "data": {**event.as_json(), "text": event.headline, "link": link},
        }
    lines = [*event.lines(), *([link] if link else [])]
    if format_ == "teams":
        blocks = [_block(event.headline, weight="Bolder"), *map(_block, lines)]
        content = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": blocks,
        }
        card = {"contentType": "application/vnd.microsoft.card.adaptive", "content": content}
        return {"type": "message", "attachments": [card]}
    bold = "*" if format_ == "slack" else "**"
    text = "\n".join(
        [f"{bold}{_quiet(format_, event.headline)}{bold}", *(_quiet(format_, line) for line in lines)]
    )
    return {"text": text[:_LONGEST]}


def _block(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "TextBlock", "text": text[:_LONGEST], "wrap": True, **more}


def _quiet(format_: str, text: str) -> str:
    """What people wrote calls nobody: neither `<!channel>` in Slack nor `@all` in Mattermost."""
    if format_ == "slack":
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("@", "@\u200b")


def _link(pages: str | None, event: Event) -> str | None:
    """The version's page."""
    if not pages or event.kind == "test":
        return None
    return f"{pages.rstrip('/')}/lifecycle/{quote(event.workspace)}/{quote(event.model)}"


def _said(error: Exception) -> str:
    """What went wrong, in words of ours: those of libraries quote the address."""
    if isinstance(error, requests.Timeout | TimeoutError):
        return f"did not answer within {TIMEOUT_S} s"
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return "has no certificate that is trusted here"
    if isinstance(error, requests.ConnectionError | OSError):
        return "cannot be reached"
    return f"failed ({type(error).__name__})"


#: How long a message may wait that another process has written, or that this one failed to read.
_POLL_S: Final = 5.0
_CLEAN_UP_S: Final = 3600.0
_log: Final = logging.getLogger("ai_hub.notifications")


def start() -> None:
    """Begin to send, and to remove what is old, for as long as this process lives.

    Raises:
        MlflowException: 400, a setting is wrong.
    """
    told = outbox.current_receivers()
    if told:
        _open_stores()
    # messages of receivers that are set no longer are there where nobody is to be told, too
    threading.Thread(target=_clean_up, name="notify-clean-up", daemon=True).start()
    for receiver in told:
        waker = threading.Event()
        outbox.wakers.add(waker)
        threading.Thread(
            target=_run, args=(receiver, waker), name=f"notify-{receiver.label}", daemon=True
        ).start()


def _open_stores() -> None:
    """Open the databases before any thread or request: two at once leave half the tables of a new one."""
    # MLflow's handlers import its whole application, which only a server has
    from mlflow.server.handlers import _get_tracking_store  # noqa: PLC0415

    try:
        _get_tracking_store()
        registry_store()
    except Exception:  # noqa: BLE001 - the database is away; messages wait in it
        _log.warning("Messages wait: the registry's database does not answer.")


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
    pause = 1.0  # what is due from before a restart goes once the server has started
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
            _deliver(store, receiver, message)
    with store.sessions() as session:
        due = outbox.next_at_ms(session, receiver.label)
    if due is None:
        return _POLL_S
    return min(_POLL_S, max(0.05, (due - get_current_time_millis()) / 1000))


def _deliver(store: LifecycleStore, receiver: Receiver, message: outbox.Message) -> None:
    try:
        send(receiver, message)
    except DeliveryError as error:
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
