"""`ai-hub keys`, and what the service makes of the keys."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.service_process import free_port
from support.service_server import running_service
from typer.testing import CliRunner

from ai_hub.access import api_keys
from ai_hub.access.api_keys import digest, parse
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.api import admission
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.errors import BadInputError, ServiceDownError
from ai_hub.settings import ServiceSettings, Settings
from benchmarks.tcp_proxy import proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from support.energy import Energy

_SOON_S = 10
SETS = "/ai/features/sets"


def keys(energy: Energy, *arguments: str) -> Any:
    """What `ai-hub keys` prints, as JSON."""
    done = energy.run("ai-hub", "keys", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_commands__make_list_and_revoke__only_a_hash_is_stored(energy: Energy, tenant: str) -> None:
    made = keys(energy, "create", "forecaster", "-t", tenant, "--role", "viewer", "--expires", "90d")
    text = parse(made["key"])
    assert text is not None
    assert made["tenants"] == [tenant]
    assert {scope.partition(":")[2] for scope in made["scopes"]} == {"read"}
    with connect() as connection:
        row = connection.execute(
            "SELECT sha256, to_jsonb(k)::text FROM api_keys AS k WHERE key_id = %s", [text.key_id]
        ).fetchone()
    assert row is not None
    assert bytes(row[0]) == digest(text.secret)
    assert text.secret not in row[1]

    (listed,) = keys(energy, "list", "-t", tenant)
    assert (listed["key_id"], listed["state"]) == (text.key_id, "active")
    assert text.secret not in str(listed)

    again = energy.run("ai-hub", "keys", "create", "forecaster", "-t", tenant, "--role", "viewer")
    assert again.returncode != 0
    assert f"ai-hub keys revoke {text.key_id}" in again.stderr

    # the whole key, as people paste it
    revoked = energy.run("ai-hub", "keys", "revoke", made["key"])
    assert (revoked.returncode, revoked.stdout.strip()) == (0, f"{text.key_id} (forecaster): revoked")
    once_more = energy.run("ai-hub", "keys", "revoke", text.key_id)
    assert once_more.stdout.strip() == f"{text.key_id} (forecaster): was revoked already"
    # its name is free
    assert (
        keys(energy, "create", "forecaster", "-t", tenant, "--scope", "features:read")["key"] != made["key"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-t", "Ours"), "cannot be a tenant"),
        (("-t", "a"), "cannot be a tenant"),
        (("-t", "ours-"), "cannot be a tenant"),
        (("-t", "ours"), "needs a tenant and a scope"),
        (("-t", "ours", "--role", "viewer", "--expires", "soon"), "is not a period"),
        (("-t", "ours", "--role", "viewer", "--expires", "0d"), "is not a period"),
    ],
    ids=["tenant", "short tenant", "hyphen at the end", "no scope", "period", "no time"],
)
def test_create__bad_input__says_what_to_write(arguments: tuple[str, ...], said: str) -> None:
    failed = CliRunner().invoke(app, ["keys", "create", "x", *arguments]).exception
    assert isinstance(failed, BadInputError)
    assert said in failed.message
    assert failed.hint


@pytest.fixture
def key(energy: Energy, tenant: str) -> str:
    del energy
    return str(api_keys.create("test", [tenant], ALL_SCOPES, created_by="test")[1])


def ask(url: str, key: str, header: str = "X-API-Key") -> httpx.Response:
    value = f"Bearer {key}" if header == "Authorization" else key
    return httpx.get(f"{url}{SETS}", headers={header: value}, timeout=30)


def until(url: str, key: str, status: int) -> httpx.Response:
    """The first answer with this status."""
    deadline = time.monotonic() + _SOON_S
    while (answer := ask(url, key)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return answer


def test_running_service__new_keys_are_known_at_once__revoked_ones_refused_soon(
    energy: Energy, key: str, tenant: str
) -> None:
    del energy
    with running_service(options=ServiceSettings(keys_refresh_s=0.2)) as url:
        assert ask(url, key).status_code == 200
        assert ask(url, key, "Authorization").status_code == 200
        made, text = api_keys.create("later", [tenant], ALL_SCOPES, created_by="test")
        assert ask(url, str(text)).status_code == 200
        api_keys.revoke(made.key_id)
        answer = until(url, str(text), 401)
        assert answer.json()["message"] == "This API key was revoked."
        # right id, wrong secret: as if it were unknown
        wrong = key[:-6] + ("aaaaaa" if not key.endswith("aaaaaa") else "bbbbbb")
        nobody = f"aih_{'q' * 12}_{key[-43:]}"
        answers = [ask(url, each) for each in (wrong, nobody)]
        assert [each.status_code for each in answers] == [401, 401]
        assert answers[0].json()["message"] == answers[1].json()["message"]


@pytest.fixture
def line(energy: Energy) -> Iterator[Any]:
    """A line to the database that can be cut."""
    dsn = energy.environment["TIMESCALE_DSN"]
    port = int(dsn.rpartition(":")[2].partition("/")[0])
    with proxied(port) as proxy:
        yield dsn.replace(f":{port}/", f":{proxy.port}/"), proxy


def test_database_away__keys_known_before_go_on__unknown_ones_wait_for_it(line: Any, key: str) -> None:
    dsn, proxy = line
    options = ServiceSettings(keys_refresh_s=0.2)
    with running_service(Settings(timescale_dsn=dsn, service_timescale_dsn=None), options) as url:
        assert ask(url, key).status_code == 200
        proxy.stall()
        try:
            assert ask(url, key).status_code == 200
        finally:
            proxy.heal()
        assert until(url, key, 200).status_code == 200


def test_database_silent__look_ends_in_time(line: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, proxy = line
    monkeypatch.setattr(api_keys, "_LOAD_TIMEOUT_S", 0.5)

    async def looks() -> float:
        text = parse(key)
        assert text is not None
        keys = api_keys.KeyCache(lambda: dsn, every_s=1)
        await keys.load(text.key_id)
        proxy.stall()
        begun = time.monotonic()
        try:
            with pytest.raises(ServiceDownError):
                await keys.load("q" * 12)
        finally:
            proxy.heal()
            await keys.close()
        assert keys.find(text)[0] is not None
        return time.monotonic() - begun

    # asking the server to end the query would take ten seconds more
    assert asyncio.run(looks()) < 3


def test_database_silent__unknown_keys_take_no_place_of_a_known_one__and_few_of_them_wait(
    line: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, proxy = line
    monkeypatch.setattr(admission, "MAX_WAITING", 2)
    monkeypatch.setattr(api_keys, "_LOAD_TIMEOUT_S", 60.0)  # they wait until the server is healed
    options = ServiceSettings(keys_refresh_s=60, max_in_flight=4, unauthenticated_per_s=4)
    with (
        running_service(Settings(timescale_dsn=dsn, service_timescale_dsn=None), options) as url,
        ThreadPoolExecutor(40) as pool,
    ):
        assert ask(url, key).status_code == 200
        proxy.stall()
        try:
            requests_sent = [pool.submit(ask, url, f"aih_{'z' * 12}_{'y' * 43}") for _ in range(40)]
            answered = list(islice(as_completed(requests_sent, timeout=60), 38))
            statuses = sorted(request.result().status_code for request in answered)
            assert sum(not request.done() for request in requests_sent) == 2
            assert statuses == [429] * statuses.count(429) + [503] * statuses.count(503)
            assert statuses.count(429) >= 6, "they are counted by address before they wait"
            assert statuses.count(503) >= 2, "no more than a few wait"
            assert ask(url, key).status_code == 200
        finally:
            proxy.heal()


def test_database_never_there__503_that_says_so(energy: Energy, key: str) -> None:
    dsn = energy.environment["TIMESCALE_DSN"]
    port = dsn.rpartition(":")[2].partition("/")[0]
    nobody = dsn.replace(f":{port}/", f":{free_port()}/")
    with running_service(Settings(timescale_dsn=nobody, service_timescale_dsn=None)) as url:
        answer = ask(url, key)
    assert answer.status_code == 503
    assert "TimescaleDB" in answer.json()["message"]
    assert answer.json()["hint"]
    password = dsn.partition("@")[0].rpartition(":")[2]
    assert password not in answer.text


def test_many_unknown_keys__share_the_looks_at_the_database(
    energy: Energy, monkeypatch: pytest.MonkeyPatch
) -> None:
    del energy
    loads: list[int] = []
    read_keys = api_keys.KeyCache._read_keys

    async def counted(cache: api_keys.KeyCache, key_ids: Any) -> None:
        if key_ids:
            loads.append(len(key_ids))
        await read_keys(cache, key_ids)

    monkeypatch.setattr(api_keys.KeyCache, "_read_keys", counted)
    with running_service(options=ServiceSettings(unauthenticated_per_s=10_000)) as url:
        answers = []

        def one() -> None:
            answers.append(ask(url, f"aih_{'z' * 12}_{'y' * 43}").status_code)

        threads = [threading.Thread(target=one) for _ in range(60)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert answers == [401] * 60
        assert 0 < len(loads) < 60, "each has a load of its own"


def test_key_cache__many_keys__reads_those_that_come_and_those_again_after_any_change(
    energy: Energy, tenant: str
) -> None:
    dsn = energy.environment["TIMESCALE_DSN"]
    made = [api_keys.create(f"k{number}", [tenant], ALL_SCOPES, created_by="test")[1] for number in range(4)]

    async def main() -> None:
        keys = api_keys.KeyCache(lambda: dsn, every_s=0.05, capacity=3)
        read: list[set[str]] = []
        read_keys = keys._read_keys

        async def noted(key_ids: AbstractSet[str]) -> None:
            read.append(set(key_ids))
            await read_keys(key_ids)

        keys._read_keys = noted  # type: ignore[method-assign]
        await asyncio.gather(*(keys.load(text.key_id) for text in made[:3]), keys.load("z" * 12))
        assert read == [{*(text.key_id for text in made[:3]), "z" * 12}], "one query for all"
        refresh = asyncio.create_task(keys.keep_fresh())
        await asyncio.sleep(0.3)
        read.clear()
        await asyncio.sleep(0.3)
        assert read == [], "nothing has changed"
        # whoever does it, and however
        with connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE key_id = %s", [made[0].key_id])
            connection.execute("DELETE FROM api_keys WHERE key_id = %s", [made[1].key_id])
        await asyncio.sleep(0.5)
        assert [keys.find(text)[1] for text in made[:3]] == ["revoked", "unknown", ""]
        # the one that was used longest ago makes room
        await keys.load(made[3].key_id)
        assert len(keys._entries) == 3
        assert keys.find(made[3])[0] is not None
        refresh.cancel()
        await keys.close()

    asyncio.run(main())
