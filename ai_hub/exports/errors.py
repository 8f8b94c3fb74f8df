"""What can be wrong with an export."""

from __future__ import annotations

from ai_hub.errors import AiHubError, BadInputError, ConflictError


class OutputPathError(BadInputError):
    """The output path cannot be used."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(
            f"output_path {path!r} {problem}.",
            hint="Name a file below your tenant's folder, such as 'training/2026-10.parquet'.",
        )


class RangeError(BadInputError):
    """The file has no such part."""


class TooManyExportsError(AiHubError):
    """The tenant has as many unfinished exports as it may."""

    retryable = True

    def __init__(self, tenant: str, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"Tenant {tenant} has {limit} unfinished exports, which is the most it may have.",
            hint="Wait for one to finish, or cancel one.",
        )


class PathTakenError(ConflictError):
    """Something else is at the output path."""

    def __init__(self, path: str, by: str) -> None:
        super().__init__(f"output_path {path!r} is taken by {by}.", hint="Choose another output_path.")
