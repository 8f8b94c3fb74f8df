"""How properties run: `make test` always tries the same few examples, `make test-long` many new ones."""

from __future__ import annotations

import os
import secrets
from typing import Final

from hypothesis import HealthCheck, settings

_LONG: Final = "long"
_TIMES: Final = 20


def register() -> None:
    """Register the profiles and load the short one; `--hypothesis-profile=long` loads the other later."""
    # how fast a machine is at the moment decides nothing
    anywhere = settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        print_blob=True,
    )
    settings.register_profile("short", anywhere, derandomize=True, database=None, max_examples=20)
    settings.register_profile(_LONG, anywhere, max_examples=100 * _TIMES)
    settings.load_profile("short")


def examples(short: int) -> int:
    """Examples to try of a property for which `make test` has time for `short` of them.

    Seeds and deadlines belong to the profile, so a property's own settings name neither.
    """
    return short * (_TIMES if is_long() else 1)


def seed() -> int:
    """Seed for what draws without Hypothesis; `AI_HUB_TEST_SEED` repeats a failure of a long run."""
    value = int(os.environ.get("AI_HUB_TEST_SEED") or (secrets.randbits(32) if is_long() else 0))
    print(f"AI_HUB_TEST_SEED={value}")  # noqa: T201  # pytest shows it with a failure
    return value


def is_long() -> bool:
    """Whether this is a run of `make test-long`."""
    return settings.get_current_profile_name() == _LONG
