"""Sending one message: a signed webhook, a chat or e-mail. Errors quote no address, which may be a secret."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

import requests
from mlflow.webhooks.constants import (
    WEBHOOK_DELIVERY_ID_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
    WEBHOOK_TIMESTAMP_HEADER,
)
from mlflow.webhooks.delivery import _generate_hmac_signature  # the one its receivers verify
from mlflow.webhooks.ssrf import SSRFProtectedHTTPAdapter, SSRFProtectionError

from mlflow_plugins.notifications.receivers import JSON, MAIL, Receiver
from mlflow_plugins.settings import RegistrySettings

if TYPE_CHECKING:
    from mlflow_plugins.notifications.event import Event
    from mlflow_plugins.notifications.outbox import Message

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
    settings = RegistrySettings()
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
