"""Files of tests that wait for an hour's end are not begun shortly before it while others are left."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from support import scheduling

FILES = ("tests/integration/test_a.py", "tests/integration/test_b.py", "tests/unit/test_c.py")


@pytest.mark.parametrize(
    ("left", "order"), [(3599.0, [0, 1, 2]), (200.0, [0, 1, 2]), (119.0, [2, 0, 1]), (0.5, [2, 0, 1])]
)
def test_files__near_an_hours_end__those_that_wait_for_none_first(
    monkeypatch: pytest.MonkeyPatch, left: float, order: list[int]
) -> None:
    monkeypatch.setattr(scheduling, "seconds_left", lambda: left)
    sent: list[int] = []
    node: Any = type("Worker", (), {"send_runtest_some": sent.extend})()
    tests = [f"{file}::test" for file in FILES]
    schedule = object.__new__(scheduling.FileScheduling)  # without a run of pytest
    schedule.workqueue = OrderedDict((file, {test: False}) for file, test in zip(FILES, tests, strict=True))
    schedule.assigned_work = {}
    schedule.registered_collections = {node: tests}
    while schedule.workqueue:
        schedule._assign_work_unit(node)
    assert sent == order
