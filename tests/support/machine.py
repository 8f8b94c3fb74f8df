"""PostgreSQL of the machine, else of a package registry, and Chromium the other way round."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from ai_hub.dev import node
from ai_hub.errors import AiHubError
from benchmarks.servers import PostgresMissingError, postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHROMIUM = Path(__file__).with_name("chromium")
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><dir>/usr/share/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>
"""


def missing(program: str, package: str, reason: object = "") -> NoReturn:
    """Fail the test: one that is skipped shows nothing, and nobody notices."""
    pytest.fail(f"{program} is not installed: apt-get install {package}. {reason}".rstrip(), pytrace=False)


def has_timescaledb() -> bool:
    """Whether the native PostgreSQL has TimescaleDB, which neither Debian nor a package registry gives."""
    return any(Path("/usr/share/postgresql").glob("*/extension/timescaledb.control"))


def chromium() -> tuple[str, dict[str, str]]:
    """Path of Chromium, and the variables it needs besides this process's.

    That of npm is the same everywhere and has no window to draw: a page costs it a fifth of the CPU.
    """
    try:
        folder = _npm_chromium()
    except AiHubError as error:
        if found := shutil.which("chromium") or shutil.which("chromium-browser"):
            return found, {}
        missing("Chromium", "chromium", error)
    return str(folder / "chromium"), {
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "FONTCONFIG_FILE": str(folder / "fonts.conf"),
    }


def _npm_chromium() -> Path:
    """Folder with the browser of the npm package, unpacked beside it on first use."""
    packages = node.packages(lambda _: None, _CHROMIUM)
    target = packages / "chromium"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=packages) as name:
            folder = Path(name) / "chromium"
            command = [node.node(), _CHROMIUM / "unpack.mjs", packages, folder]
            subprocess.run(command, check=True)
            for archive in folder.glob("*.tar"):
                shutil.unpack_archive(archive, folder, filter="data")
                archive.unlink()
            (folder / "fonts.conf").write_text(_FONTS.format(folder=target))
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise
    return target


@contextmanager
def native_postgres() -> Iterator[str]:
    """A PostgreSQL server with nothing in it; yields its superuser's URL, which asks for the password."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres())
        except PostgresMissingError:
            missing("PostgreSQL", "postgresql")
        yield server.dsn
