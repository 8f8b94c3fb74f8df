"""A demo that was interrupted while its model was trained anew runs again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest

from ai_hub.dev.demo import drift
from ai_hub.dev.demo.steps import StepFailedError

if TYPE_CHECKING:
    from ai_hub.dev.demo.steps import Steps


class Commands:
    """Stands for `ai-hub`: one request at a time is open, and a check proposes where none is."""

    def __init__(self, *statuses: str) -> None:
        self.requests = {str(uuid4()): status for status in statuses}
        self.console = SimpleNamespace(print=lambda *_, **__: None)

    def begin(self, _: str) -> None: ...

    def end(self, _: str) -> None: ...

    def run(self, *_: str, **__: bool) -> None: ...

    def run_together(self, *_: Any, **__: bool) -> None: ...

    def check(self, *command: str) -> None:
        assert command[:3] == ("ai-hub", "check", "models")
        # of a version that is in production no longer
        self.requests = {
            key: "withdrawn" if status == "proposed" else status for key, status in self.requests.items()
        }
        if "approved" not in self.requests.values():
            self.requests[str(uuid4())] = "proposed"

    def json(self, *command: str) -> Any:
        match command:
            case ("ai-hub", "train", *_):
                return [{"version": 2}]
            case ("ai-hub", "retrain", "list", *_, status):
                return [{"request_id": key} for key, each in self.requests.items() if each == status]
            case ("ai-hub", "retrain", "approve", key, *_):
                self.requests[key] = "approved"
        names = ("new_version", "new_semantic_version", "semantic_version")
        key = command[3]
        return {"request_id": key, "status": self.requests[key], "causes": []} | dict.fromkeys(names)

    def work(self, outcome: str) -> Any:
        """The worker, as `_wait` waits for it."""

        def wait(request_id: UUID) -> Any:
            self.requests[str(request_id)] = outcome
            new_version = 3 if outcome == "completed" else None
            return SimpleNamespace(new_version=new_version, model=drift.MODEL, outcome=outcome)

        return wait


@pytest.mark.parametrize("left", [(), ("proposed",), ("approved",), ("completed", "approved")])
def test_show__runs_again_after_it_was_interrupted(
    left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(*left)
    monkeypatch.setattr(drift, "_wait", commands.work("completed"))
    monkeypatch.setattr(drift, "_issue", lambda _: 70)
    monkeypatch.setattr(drift, "_file", lambda meter, *_: meter)
    done = drift.show(cast("Steps", commands), drift.from_micros(10**15))
    assert done["status"] == "completed"
    assert done["request_id"] == list(commands.requests)[-1]
    assert "approved" not in commands.requests.values()
    # of an earlier demo a training may fail, of this one not
    commands = Commands(*left)
    monkeypatch.setattr(drift, "_wait", commands.work("failed"))
    with pytest.raises(StepFailedError, match="failed"):
        drift.show(cast("Steps", commands), drift.from_micros(10**15))
    assert len(commands.requests) == len(left) + 1
