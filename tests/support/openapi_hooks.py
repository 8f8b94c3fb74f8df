"""What schemathesis is told beyond the schema (loaded by `schemathesis.toml`)."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import schemathesis
from hypothesis import strategies as st

if TYPE_CHECKING:
    from schemathesis import Case, HookContext

_SHORTLY_S = 0.1
_LONGEST_WAIT_S = 300

# JSON Schema cannot say between which years a time lies
schemathesis.openapi.format(
    "date-time",
    st.builds(
        lambda at, zone: f"{at.isoformat()}{zone}",
        st.datetimes(datetime(1970, 1, 3), datetime(2199, 12, 30)),  # noqa: DTZ001
        st.sampled_from(["Z", "+00:00", "+05:30", "-11:00"]),
    ),
)


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """No answer waits for an export; what is no valid wait stays as it is. Bodies meant to be valid are."""
    del context, kwargs
    if _has_both_kinds_of_assets(case):
        # the dictionary's asset was put into a body that has many
        case.body = {name: value for name, value in case.body.items() if name != "asset_ids"}
    if case.operation.path == "/ai/features/export":
        query = case.query if isinstance(case.query, dict) else {}
        with suppress(TypeError, ValueError):
            if _SHORTLY_S < float(query.get("wait_s", 30)) <= _LONGEST_WAIT_S:
                case.query = {**query, "wait_s": _SHORTLY_S}


def _has_both_kinds_of_assets(case: Case) -> bool:
    """Of a request for features that is meant to be valid."""
    if case.operation.path != "/ai/features/get" or not isinstance(case.body, dict):
        return False
    valid = case.meta is not None and case.meta.generation.mode.is_positive
    return valid and all(case.body.get(name) is not None for name in ("asset_id", "asset_ids"))
