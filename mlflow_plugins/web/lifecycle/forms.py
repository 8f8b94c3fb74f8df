"""What a form sends, read within limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import Depends, Request

from mlflow_plugins.errors import bad_input
from mlflow_plugins.lifecycle.stages import LONGEST_REASON, checked

ACTIONS: Final = ("promote", "reject", "restore", "rollback")
LONGEST_NAME: Final = 256
_LONGEST_BODY: Final = 100_000
_LARGEST: Final = 2**31 - 1
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Wish:
    """A move somebody asks for, as typed; `seen` is the newest entry of the audit trail on their page."""

    action: str
    version: int
    reason: str
    #: whom they say they are, where the server has no login
    claim: str
    seen: int
    #: the page of candidates it was sent from: those older than this version; 0 for the newest
    page: int = 0

    def check(self) -> None:
        """Refuse what no audit trail could hold.

        Raises:
            MlflowException: 400, with what to do.
        """
        if self.action not in ACTIONS:
            raise bad_input(f"Choose one of {', '.join(ACTIONS)}.")
        if not 0 < self.version <= _LARGEST:
            raise bad_input("Choose a version.")
        checked("The reason", self.reason, LONGEST_REASON)
        self.checked_claim()

    def checked_claim(self) -> str:
        """Whom they say they are.

        Raises:
            MlflowException: 400, no name is that long.
        """
        return checked("The name", self.claim, LONGEST_NAME)


async def _wish(request: Request) -> Wish:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise bad_input(f"The form is larger than {_LONGEST_BODY} bytes. Shorten the reason.")
    fields = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True)

    def text(name: str) -> str:
        return fields.get(name, [""])[0].replace("\r\n", "\n").strip()

    return Wish(
        text("action"),
        _number(text("version")),
        text("reason"),
        text("user"),
        _number(text("seen")),
        _number(text("page")),
    )


Sent = Annotated[Wish, Depends(_wish)]


def _number(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) else 0
