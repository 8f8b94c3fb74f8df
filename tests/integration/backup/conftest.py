"""Which drills this machine can do."""

from __future__ import annotations

import os

#: The native drill needs a TimescaleDB that CI does not have; with one, it is part of every run.
collect_ignore = [] if os.environ.get("AI_HUB_TEST_DSN") else ["test_native.py"]
