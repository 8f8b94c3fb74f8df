from __future__ import annotations

import json

import jwt
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.access.api_keys import new_key
from ai_hub.api.logs import MASK, redact, redact_text

#: With a beginning that is in nothing else drawn here.
MARK = "5eCr3t"
SECRETS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=6, max_size=43).map(MARK.__add__)
#: Passwords as people put them into addresses, unquoted characters and all.
PASSWORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/ \\\"'"), min_size=6, max_size=30
).map(MARK.__add__)
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=30)
NAMES = st.sampled_from(
    [
        *(
            "password",
            "POSTGRES_PASSWORD",
            "MINIO_SECRET_KEY",
            "api_key",
            "X-API-Key",
            "Authorization",
            "token",
        ),
        *("aws_access_key_id", "access_token", "TIMESCALE_DSN", "clientSecret", "Set-Cookie", "private_key"),
    ]
)


@given(WORDS, WORDS)
def test_redact_text__api_key_anywhere__keeps_its_id_only(before: str, after: str) -> None:
    key = new_key()
    shown = redact_text(f"{before} {key} {after}")
    assert key.secret not in shown
    assert f"aih_{key.key_id}_{MASK}" in shown or key.key_id not in shown


@given(PASSWORDS, WORDS, st.sampled_from(["postgresql", "postgresql+psycopg", "redis", "https", "s3"]))
def test_redact_text__password_in_an_address__is_masked(password: str, before: str, scheme: str) -> None:
    shown = redact_text(f"{before} {scheme}://ai_hub:{password}@db.example:5432/ai_hub failed")
    assert MARK not in shown


@given(SECRETS, NAMES, st.sampled_from(["{}={}", "{}: {}", '"{}": "{}"', "{} = '{}'"]), WORDS)
def test_redact_text__named_secret__is_masked(secret: str, name: str, form: str, before: str) -> None:
    assert MARK not in redact_text(f"{before} {form.format(name, secret)}, next")


def test_redact_text__token__is_masked() -> None:
    token = jwt.encode({"sub": "anna"}, "x" * 32, "HS256")
    shown = redact_text(f"got Bearer {token} from anna")
    assert not any(part in shown for part in token.split("."))
    assert "from anna" in shown


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@given(NESTED, SECRETS, NAMES)
def test_redact__secret_at_any_depth__is_masked_and_the_rest_can_be_written(
    noise: object, secret: str, name: str
) -> None:
    inner: object = {name: secret, "noise": noise, "url": f"redis://:{secret}@host/0"}
    for _ in range(8):
        inner = [inner, {"deeper": inner}]
        shown = json.dumps(redact(None, "info", {"event": "x", "field": inner}))
        assert MARK not in shown


@pytest.mark.parametrize(
    "text",
    [
        "GET /ai/features/sets 200 in 3 ms",
        "Tenant city-works has no asset meter-0815.",
        "https://example.org/a?b=c#d",
        "monkey=banana; keyboard: qwerty",
    ],
)
def test_redact_text__nothing_secret__stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text


def test_redact__in_structlog__masks_what_an_exception_says() -> None:
    lines: list[str] = []
    logger = structlog.wrap_logger(
        structlog.PrintLogger(),
        processors=[
            structlog.processors.dict_tracebacks,
            redact,
            lambda _l, _m, event: (
                lines.append(json.dumps(event)) or (_ for _ in ()).throw(structlog.DropEvent)
            ),
        ],
    )
    password = f"{MARK}-hunter2"
    try:
        raise OSError(f"cannot reach postgresql://ai_hub:{password}@db/ai_hub")  # noqa: TRY301
    except OSError:
        logger.exception("failed")
    assert "OSError" in lines[0]
    assert MARK not in lines[0]
