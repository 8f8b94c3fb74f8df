"""A worker gets files of its folders first, and none that waits for an hour's end shortly before it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from support import scheduling

FILES = ("tests/integration/test_a.py", "tests/integration/test_b.py", "tests/unit/test_c.py")


def schedule_of(files: tuple[str, ...], *nodes: Any) -> scheduling.FileScheduling:
    """Without a run of pytest."""
    tests = [f"{file}::test" for file in files]
    schedule = object.__new__(scheduling.FileScheduling)
    schedule.workqueue = OrderedDict((file, {test: False}) for file, test in zip(files, tests, strict=True))
    schedule.assigned_work = {node: {} for node in nodes}
    schedule.registered_collections = dict.fromkeys(nodes, tests)
    return schedule


def new_node(sent: list[int]) -> Any:
    return type("Worker", (), {"send_runtest_some": sent.extend})()


@pytest.mark.parametrize(
    ("left", "order"), [(3599.0, [0, 1, 2]), (200.0, [0, 1, 2]), (119.0, [2, 0, 1]), (0.5, [2, 0, 1])]
)
def test_files__near_an_hours_end__those_that_wait_for_none_first(
    monkeypatch: pytest.MonkeyPatch, left: float, order: list[int]
) -> None:
    monkeypatch.setattr(scheduling, "seconds_left", lambda: left)
    sent: list[int] = []
    node = new_node(sent)
    schedule = schedule_of(FILES, node)
    while schedule.workqueue:
        schedule._assign_work_unit(node)
    assert sent == order


def test_files__of_one_folder__go_to_one_worker_until_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "seconds_left", lambda: 3599.0)
    first: list[int] = []
    second: list[int] = []
    nodes = new_node(first), new_node(second)
    files = tuple(f"tests/{file}" for file in ("a/1", "a/2", "a/3", "b/4", "a/b/5", "a/6", "a/7"))
    schedule = schedule_of(files, *nodes)
    for turn in (0, 1, 0, 1, 0, 1, 0):
        schedule._assign_work_unit(nodes[turn])
    assert (first, second) == ([0, 1, 2, 6], [3, 4, 5])
