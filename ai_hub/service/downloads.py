"""Files as responses: from disk, as an address of the S3 store, or passed on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.exports.files import Opened

MEDIA_TYPE: Final = "application/vnd.apache.parquet"
_CHUNK: Final = 1 << 20
_PARTIAL, _NOT_MODIFIED = 206, 304


def response(found: Opened, if_none_match: str | None) -> Response:
    """The file, or that the caller has it."""
    headers = {
        "ETag": found.etag,
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(found.name)}",
        # whoever has a key may keep it, but no proxy
        "Cache-Control": "private",
    }
    known = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    if found.etag in known or "*" in known:
        _close(found.answer)
        return Response(status_code=_NOT_MODIFIED, headers=headers)
    if found.local is not None:
        # which answers Range by itself
        return FileResponse(found.local, headers=headers, media_type=MEDIA_TYPE)
    if found.url is not None:
        return RedirectResponse(found.url, headers={"Cache-Control": "no-store"})
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(found.answer["ContentLength"])}
    part = found.answer.get("ContentRange")
    if part is not None:
        headers["Content-Range"] = part
    status = 200 if part is None else _PARTIAL
    return StreamingResponse(_chunks(found.answer), status, headers, MEDIA_TYPE)


def _chunks(answer: Any) -> Iterator[bytes]:
    try:
        yield from answer["Body"].iter_chunks(_CHUNK)
    finally:
        _close(answer)


def _close(answer: Any) -> None:
    if answer is not None:
        answer["Body"].close()
