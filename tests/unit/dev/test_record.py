"""The record is replaced whole, and a state folder is never somebody else's."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ai_hub.dev import record
from ai_hub.dev.record import ServiceRecord, StackRecord
from ai_hub.errors import BadInputError, ConflictError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_load__nothing_there__empty(state: Path) -> None:
    del state
    assert record.load() == StackRecord()


def test_save__round_trip(state: Path) -> None:
    record.claim()
    entry = ServiceRecord(port=1, endpoint="x", log=state / "log", pid=2, create_time=3.5)
    written = StackRecord(services={"redis": entry}, credentials={"a": "b"}, env={"C": "d"})
    record.save(written)
    assert record.load() == written
    assert [entry.name for entry in state.iterdir() if entry.name.endswith(".tmp")] == []


def test_load__damaged__named(state: Path) -> None:
    record.claim()
    (state / "stack.json").write_text('{"services": 1}')
    with pytest.raises(BadInputError, match=r"stack\.json is damaged"):
        record.load()


def test_credential__made_once(state: Path) -> None:
    del state
    known = StackRecord()
    assert known.credential("a") == known.credential("a") != known.credential("b")


def test_log_tail__only_the_present_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\nnew 1\nnew 2\n")
    entry = ServiceRecord(port=1, endpoint="x", log=log, log_offset=4)
    assert entry.log_tail() == "new 1\nnew 2"
    assert entry.log_tail(1) == "new 2"


def test_purge__folder_of_somebody_else__refused(state: Path) -> None:
    state.mkdir()
    (state / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError, match="not deleted"):
        record.purge()
    with pytest.raises(ConflictError, match="is not empty"):
        record.claim()


def test_locked__purged_while_waiting__claims_the_folder_anew(state: Path) -> None:
    entered = threading.Event()

    def second() -> None:
        with record.locked(entered.set):
            record.save(StackRecord(env={"by": "second"}))

    with record.locked(lambda: None):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert entered.wait(5)
        record.purge()
        assert not state.exists()
    waiting.join(5)
    assert record.load().env == {"by": "second"}
