"""Values that JSON has no form for, as the endpoint sends them."""

from __future__ import annotations

import orjson
import pytest

from ai_hub.features.online import rows


def test_bytes__are_sent_in_base64__and_nothing_else_is_guessed() -> None:
    assert orjson.loads(orjson.dumps({"code": b"\x00\xff"}, default=rows._base64)) == {"code": "AP8="}
    with pytest.raises(TypeError, match="object"):
        orjson.dumps({"code": object()}, default=rows._base64)
