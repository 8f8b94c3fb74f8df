"""The state folder and its record: processes, ports, credentials, and the settings that lead to them."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from ai_hub import paths
from ai_hub.errors import BadInputError, ConflictError
from ai_hub.settings import STACK_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_MARKER = ".ai-hub-state"
_LOCK = "lock"


class ServiceRecord(BaseModel):
    """One server of ours; `pid` is None while it is stopped on purpose."""

    port: int
    ports: dict[str, int] = {}
    endpoint: str
    log: Path
    #: Size of the log when the server was last started: what follows belongs to this start.
    log_offset: int = 0
    pid: int | None = None
    #: Seconds from boot to its start; guards against another process that got the same pid later.
    create_time: float | None = None

    def log_tail(self, lines: int = 15) -> str:
        """Last `lines` lines the server wrote since its last start."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.log_offset)
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.rstrip().splitlines()[-lines:])


class StackRecord(BaseModel):
    """Everything in `stack.json`."""

    services: dict[str, ServiceRecord] = {}
    credentials: dict[str, str] = {}
    env: dict[str, str] = {}

    def credential(self, name: str) -> str:
        """The generated secret `name`, made on first use."""
        return self.credentials.setdefault(name, secrets.token_hex(20))


def load() -> StackRecord:
    """The record of this state folder; empty when nothing ever ran in it.

    Raises:
        BadInputError: the file is not one of ours.
    """
    file = paths.state_dir() / STACK_RECORD
    try:
        return StackRecord.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return StackRecord()
    except ValidationError as error:
        raise BadInputError(
            f"{file} is damaged: {error.errors()[0]['msg']}",
            hint="Stop the servers whose pids it names and delete the file; credentials are made anew.",
        ) from error


def save(record: StackRecord) -> None:
    """Replace `stack.json` in one step, readable by its owner only."""
    file = paths.state_dir() / STACK_RECORD
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(record.model_dump_json(indent=2))
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)


def claim() -> Path:
    """Create the state folder, or make sure that the existing one is ours, and return it.

    Raises:
        ConflictError: the folder holds something else.
    """
    folder = paths.state_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = {entry.name for entry in folder.iterdir()}
    if _MARKER not in present:
        if present:
            raise ConflictError(
                f"{folder} exists, is not empty and was not made by `ai-hub up`.",
                hint="Point AI_HUB_STATE_DIR to an empty or new folder.",
            )
        # the marker first: another `up` may look into the folder meanwhile
        (folder / _MARKER).write_text(
            "Data of the embedded servers of AI Hub; `ai-hub down --purge` deletes it.\n"
        )
        (folder / ".gitignore").write_text("*\n")
    return folder


def purge() -> bool:
    """Delete the state folder with all data; False when there is none.

    Raises:
        ConflictError: the folder is not one of ours.
    """
    folder = paths.state_dir()
    if not folder.exists():
        return False
    if not (folder / _MARKER).exists():
        raise ConflictError(
            f"{folder} was not made by `ai-hub up`, so it is not deleted.", hint="Check AI_HUB_STATE_DIR."
        )
    # The marker goes last: an interrupted purge can be run again.
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == _MARKER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    folder.rmdir()
    return True


@contextmanager
def locked(on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the state folder for this process; calls `on_wait` when another one has it."""
    while True:
        descriptor = os.open(claim() / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_current(descriptor):
                continue  # the folder was purged while we waited
            yield
            return
        finally:
            os.close(descriptor)


def _is_current(descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), (paths.state_dir() / _LOCK).stat())
    except FileNotFoundError:
        return False
