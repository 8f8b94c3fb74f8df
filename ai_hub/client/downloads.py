"""A file on its way: beside its place until all of it is there, and what was promised."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from ai_hub.client.calls import Download
    from ai_hub.client.options import Options


def request(options: Options, wanted: Download, request_id: str) -> dict[str, Any]:
    """Arguments of `httpx.Client.stream`."""
    return {
        "method": "GET",
        "url": wanted.path,
        "params": wanted.query,
        "headers": {"X-Request-ID": request_id},
        "timeout": options.timeout_s,
        # the S3 store's own address; httpx leaves the key out at another host
        "follow_redirects": True,
    }


@contextmanager
def receiving(wanted: Download, response: httpx.Response) -> Iterator[Callable[[bytes], None]]:
    """A function that takes the file's bytes; at the end of the block the file is there.

    Raises:
        AiHubError: it is shorter or another one than the service has said.
    """
    wanted.to.parent.mkdir(parents=True, exist_ok=True)
    partial = wanted.to.with_name(f".{wanted.to.name}.{secrets.token_hex(4)}.partial")
    digest, size = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal size
        size += len(data)
        digest.update(data)
        file.write(data)

    try:
        with partial.open("xb") as file:
            yield take
        length = response.headers.get("content-length")
        if (length is not None and size != int(length)) or (
            wanted.sha256 is not None and digest.hexdigest() != wanted.sha256
        ):
            raise AiHubError(f"{wanted.to.name} did not come whole.", hint="Fetch it again.")
        partial.replace(wanted.to)
    finally:
        partial.unlink(missing_ok=True)
