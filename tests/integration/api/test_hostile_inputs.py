"""Each hostile request gets its 4xx with a readable body, and changes nothing that is stored."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from support.city_works import TENANT
from support.hostile_inputs import HOSTILE
from support.hostile_requests import MODEL_ID, Hostile, ask, upload
from support.hostile_world import Answer, Record, credentials_of, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.city_works import CityWorks

_AT_LEAST = 100
_CREATED = 201
_CONFLICT = 409
_SOON_S = 10


class World:
    """The service, what may be sent to it, and what is stored behind it."""

    def __init__(self, works: CityWorks) -> None:
        self.works = works
        self.credentials = credentials_of(works)
        self.record = Record(works)
        self.before = self.record.all()

    def send(self, hostile: Hostile) -> Answer:
        return exchange(self.works.address, hostile.request, self.credentials)


@pytest.fixture(scope="module")
def world(city_works: CityWorks) -> Iterator[World]:
    folder = city_works.exports / TENANT
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").symlink_to("/etc")
    tenant, name, version = MODEL_ID.split(":")
    request = upload(tenant_id=tenant, model_name=name, version=version)
    made = exchange(city_works.address, request, {"good": city_works.key})
    assert made.status in {_CREATED, _CONFLICT}, made.body
    world = World(city_works)
    yield world
    after = world.record.all()
    world.record.close()
    changed = {name for name in world.before | after if world.before.get(name) != after.get(name)}
    assert changed == set()


def test_table__is_long__and_each_id_is_its_own() -> None:
    assert len(HOSTILE) >= _AT_LEAST
    assert len({each.id for each in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("hostile", HOSTILE, ids=[each.id for each in HOSTILE])
def test_hostile_request__is_refused__and_writes_nothing(world: World, hostile: Hostile) -> None:
    before = world.record.writes()
    answer = world.send(hostile)
    assert answer.status == hostile.status, answer
    problem = json.loads(answer.body)
    assert problem["message"]
    assert problem["hint"]
    assert answer.headers["content-type"] == "application/json"
    assert not re.search(rb"Traceback|File \\?\"|psycopg|sqlalchemy", answer.body)
    assert "set-cookie" not in answer.headers
    assert world.record.writes() == before


def test_head__is_answered_and_the_connection_goes_on(world: World) -> None:
    parts = urlsplit(world.works.address)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        for method, path in (
            *(("HEAD", "/docs"), ("HEAD", "/ai/features/sets"), ("HEAD", "/none")),
            ("GET", "/health/live"),
        ):
            connection.request(method, path)
            with connection.getresponse() as answer:
                body = answer.read()
            assert (answer.status == 200) == (method == "GET"), (path, answer.status)
            assert bool(body) == (method == "GET")
    finally:
        connection.close()


def test_partial_requests__left_hanging__hold_up_nobody(world: World) -> None:
    parts = urlsplit(world.works.address)
    beginnings = (
        b"POST /ai/feat",
        b"GET / HTTP/1.1\r\nX-A: b\r\n",
        ask("/ai/features/get", b"{", method="POST", key=world.works.key, Content_Length="900"),
    )
    with ExitStack() as stack, world.works.client() as client:
        for beginning in beginnings * 20:
            hanging = stack.enter_context(socket.create_connection((parts.hostname, parts.port), 10))
            hanging.sendall(beginning)
        started = time.monotonic()
        answers = [
            client.get("/ai/features/sets"),
            client.post("/ai/features/get", json={"tenant_id": TENANT, "asset_id": "meter-008"}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert time.monotonic() - started < _SOON_S
