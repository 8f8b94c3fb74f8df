"""Error texts: exceptions of the libraries that commands use, each as an `AiHubError`."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Final

from ai_hub.errors import AiHubError, BadInputError, ConflictError, ForbiddenError
from ai_hub.servers import NoConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class UnexpectedError(AiHubError):
    """A failure that no table knows: a fault of AI Hub."""

    exit_code = 70

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"Unexpected: {type(error).__name__}: {first_line(error)}",
            hint="AI_HUB_TRACEBACK=1 before the same command shows where; please report it with that.",
        )


class FileError(AiHubError):
    """A file cannot be read or written."""


def explain(error: BaseException) -> AiHubError:
    """`error` as a message and what to do."""
    if isinstance(error, AiHubError) and not isinstance(error, NoConnectionError):
        return error
    # Imported late: only a failure pays for looking at the servers.
    from ai_hub.dev.status import translate, with_diagnosis

    if isinstance(error, NoConnectionError):
        return with_diagnosis(error)
    if (down := translate(error)) is not None:
        return down
    for each in _chain(error):
        for module, name, to in _TABLE:
            # Only a library that is already loaded can have raised it.
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and isinstance(each, kind):
                return to(each)
    return UnexpectedError(error)


def first_line(error: BaseException) -> str:
    """What an exception says, without what libraries add below it."""
    original = getattr(error, "orig", None) or error
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    return str(primary or original).strip().partition("\n")[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        if (original := getattr(following, "orig", None)) is not None:  # SQLAlchemy's wrapper
            yield original
        following = following.__cause__ or following.__context__


def _migrate(error: BaseException) -> AiHubError:
    return ConflictError(
        f"The database lacks what this command needs: {first_line(error)}.", hint="Run `ai-hub migrate`."
    )


def _forbidden(error: BaseException) -> AiHubError:
    return ForbiddenError(
        f"The database login may not do that: {first_line(error)}.",
        hint="See TIMESCALE_DSN and docs/security.md.",
    )


def _value(error: BaseException) -> AiHubError:
    return BadInputError(f"The database takes no such value: {first_line(error)}.")


def _database(error: BaseException) -> AiHubError:
    return AiHubError(f"The database refused: {first_line(error)}.", hint="See `ai-hub status`.")


def _redis(error: BaseException) -> AiHubError:
    return AiHubError(f"Redis refused: {first_line(error)}.", hint="See REDIS_URL and `ai-hub status`.")


def _s3(error: BaseException) -> AiHubError:
    return AiHubError(
        f"The S3 store refused: {first_line(error)}.",
        hint="See MINIO_ENDPOINT_URL, MINIO_ACCESS_KEY, MINIO_SECRET_KEY and the bucket's name.",
    )


def _mlflow(error: BaseException) -> AiHubError:
    return AiHubError(
        f"MLflow refused: {first_line(error)}", hint="See MLFLOW_TRACKING_URI and `ai-hub status`."
    )


def _setting(error: BaseException) -> AiHubError:
    parts = [
        f"{'.'.join(str(part) for part in each['loc']).upper()}: {each['msg']}"
        for each in error.errors(include_input=False)  # type: ignore[attr-defined]  # pydantic's
    ]
    return BadInputError(f"Not usable: {'; '.join(parts)}.", hint="Settings are described in .env.example.")


def _encoding(error: BaseException) -> AiHubError:
    return BadInputError(f"Text that is not valid Unicode: {first_line(error)}.", hint="Use UTF-8.")


def _unregistered(error: BaseException) -> AiHubError:
    return AiHubError(
        first_line(error), hint="`feast … list` shows what is registered; `feast apply` registers."
    )


def _feast(error: BaseException) -> AiHubError:
    return AiHubError(first_line(error))


def _number(error: BaseException) -> AiHubError:
    return BadInputError(f"A number or a time is too large: {first_line(error)}.")


def _memory(error: BaseException) -> AiHubError:
    del error
    return AiHubError("Not enough memory.", hint="Ask for less at once.")


def _sqlite(error: BaseException) -> AiHubError:
    return FileError(
        f"A database file cannot be read or written: {first_line(error)}.",
        hint="Is there room on the disk, and may you write there?",
    )


def _file(error: BaseException) -> AiHubError:
    assert isinstance(error, OSError)  # noqa: S101  # by the table
    place = f"{error.filename}: " if error.filename else ""
    hints = {
        errno.ENOSPC: "Make room and run it again.",
        errno.ENOENT: "Check the path.",
        errno.EACCES: "Check who may read and write it.",
    }
    return FileError(f"{place}{error.strerror or error}.", hint=hints.get(error.errno or 0))


#: By module and class, the narrower first.
_TABLE: Final[tuple[tuple[str, str, Callable[[BaseException], AiHubError]], ...]] = (
    ("psycopg.errors", "UndefinedTable", _migrate),
    ("psycopg.errors", "UndefinedColumn", _migrate),
    ("psycopg.errors", "UndefinedFunction", _migrate),
    ("psycopg.errors", "InvalidSchemaName", _migrate),
    ("psycopg.errors", "InsufficientPrivilege", _forbidden),
    ("psycopg", "DataError", _value),
    ("sqlite3", "OperationalError", _sqlite),
    ("psycopg", "Error", _database),
    ("psycopg2.errors", "UndefinedTable", _migrate),
    ("psycopg2.errors", "InsufficientPrivilege", _forbidden),
    ("psycopg2", "Error", _database),
    ("sqlalchemy.exc", "SQLAlchemyError", _database),
    ("redis.exceptions", "RedisError", _redis),
    ("botocore.exceptions", "BotoCoreError", _s3),
    ("botocore.exceptions", "ClientError", _s3),
    ("mlflow.exceptions", "MlflowException", _mlflow),
    ("feast.errors", "FeastObjectNotFoundException", _unregistered),
    ("feast.errors", "FeastError", _feast),
    ("pydantic", "ValidationError", _setting),
    ("builtins", "UnicodeError", _encoding),
    ("builtins", "OverflowError", _number),
    ("builtins", "MemoryError", _memory),
    ("builtins", "OSError", _file),
)
