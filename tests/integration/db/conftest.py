"""What only several sessions at once can show needs a TimescaleDB that CI does not have."""

from __future__ import annotations

import os

collect_ignore = (
    []
    if os.environ.get("AI_HUB_TEST_DSN")
    else ["test_refresh_beside_policy.py", "test_declared_beside_refresh.py"]
)
