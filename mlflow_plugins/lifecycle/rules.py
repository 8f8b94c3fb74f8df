"""The life of a model version: which stage may follow which. Pure rules, no database.

registered ──► Staging ──► Production ──► Archived
                  │  ▲                       │  │
                  │  └────── restore ────────┘  │
                  └──────► Archived             └─► Production (rollback only)
"""

from __future__ import annotations

from typing import Final

# MLflow's names of its stages, written here because clients import these rules without MLflow.
NONE: Final = "None"
STAGING: Final = "Staging"
PRODUCTION: Final = "Production"
ARCHIVED: Final = "Archived"

#: What the audit trail calls the end of a version's life.
DELETED: Final = "Deleted"

#: Stages that may follow each stage. `None` is the stage of versions registered before this plugin.
ALLOWED: Final[dict[str, frozenset[str]]] = {
    NONE: frozenset({STAGING, ARCHIVED}),
    STAGING: frozenset({PRODUCTION, ARCHIVED}),
    PRODUCTION: frozenset({ARCHIVED}),
    ARCHIVED: frozenset({STAGING}),
}

#: Allowed besides `ALLOWED`, for a version that was in production before.
ROLLBACK: Final = (ARCHIVED, PRODUCTION)

#: Aliases that stand for a stage; setting one is the transition.
ALIAS_STAGES: Final = {"production": PRODUCTION, "staging": STAGING, "archived": ARCHIVED}

#: What MLflow's column of version numbers holds.
LARGEST_VERSION: Final = 2**31 - 1

_FORCE: Final = "`ai-hub delete --force`"

_WAY_OUT: Final = {
    (NONE, PRODUCTION): "Move it to Staging first.",
    (PRODUCTION, STAGING): "Move it to Archived (promoting another version does that too), "
    "then restore it to Staging.",
    (ARCHIVED, PRODUCTION): "It was never in Production, so this is no rollback: restore it to Staging, "
    "then promote it.",
}


def refusal(current: str, target: str, *, was_in_production: bool) -> str | None:
    """Why a version may not move from stage `current` to `target`; None when it may."""
    if target in ALLOWED.get(current, ()) or (was_in_production and (current, target) == ROLLBACK):
        return None
    if current == target:
        return f"It is in {current} already. {_next_steps(current, was_in_production=was_in_production)}"
    way_out = _WAY_OUT.get((current, target)) or _next_steps(current, was_in_production=was_in_production)
    return f"{current} → {target} is not allowed. {way_out}"


def refusal_to_delete(current: str) -> str | None:
    """Why a version in stage `current` may not be deleted unless forced; None when it may."""
    if current == ARCHIVED:
        return None
    if current == PRODUCTION:
        way_out = "Promote another version, which archives this one, then delete it"
    else:
        way_out = "Archive it first"
    return f"It is in {current}; only archived versions can be deleted. {way_out}, or force it: {_FORCE}."


def is_too_large(version: int | str) -> bool:
    """Whether it is a number that no version has."""
    digits = str(version).lstrip("0")
    return digits.isdecimal() and (len(digits) > len(str(LARGEST_VERSION)) or int(digits) > LARGEST_VERSION)


def _next_steps(current: str, *, was_in_production: bool) -> str:
    following = sorted(ALLOWED.get(current, ()))
    if was_in_production and current == ROLLBACK[0]:
        following.append(f"{ROLLBACK[1]} (rollback)")
    return f"From {current} it can move to {' or '.join(following)}." if following else ""
