"""The cache of models on disk: complete or absent, checked whenever loaded, never over two versions."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from ai_hub.errors import BadInputError
from ai_hub.forecasting.models.cache import ModelCache, TamperedError, verify_files
from ai_hub.forecasting.models.registry import ProductionVersion
from mlflow_plugins.artifacts import manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REGISTRY = "http://mlflow.test"
FILES = {"MLmodel": b"flavors: {}", "data/model.bin": b"weights", "metadata.json": b"{}"}


def _fill(folder: Path, note: str = "") -> str:
    """Write a version's files with the manifest the registry would write; returns its SHA-256."""
    files = {}
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    document = manifest.canonical_json({"format": 1, "note": note, "files": files})
    (folder / manifest.MANIFEST).write_bytes(document)
    return hashlib.sha256(document).hexdigest()


def _version(folder: Path, number: int) -> ProductionVersion:
    return ProductionVersion(
        number, f"v1.0.{number}", _fill(folder / f"source-{number}", str(number)), {"a": "b"}
    )


def _install(cache: ModelCache, folder: Path, number: int) -> ProductionVersion:
    version = _version(folder, number)
    cache.install(version, lambda target: _fill(target, str(number)))
    cache.remember(version)
    cache.prune(version)
    return version


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    cache = ModelCache(tmp_path / "cache", REGISTRY, "city-works", "demand-forecast")
    assert cache.last() is None
    return cache


def _change(folder: Path) -> str:
    (folder / "data/model.bin").write_bytes(b"weightz")
    return "data/model.bin was changed"


def _remove(folder: Path) -> str:
    (folder / "data/model.bin").unlink()
    return "data/model.bin is missing"


def _add(folder: Path) -> str:
    (folder / "code").mkdir()
    (folder / "code/evil.py").write_text("import os")
    return "code/evil.py was added"


def _link(folder: Path) -> str:
    """The same bytes, which somebody else can change after the check."""
    (folder.parent / "elsewhere").write_bytes(FILES["data/model.bin"])
    (folder / "data/model.bin").unlink()
    (folder / "data/model.bin").symlink_to(folder.parent / "elsewhere")
    return "data/model.bin was changed"


def _link_a_folder(folder: Path) -> str:
    (folder / "code").symlink_to(folder.parent)
    return "code was added"


def _forge(folder: Path) -> str:
    """A manifest that fits the changed file."""
    _change(folder)
    document = json.loads((folder / "manifest.json").read_bytes())
    document["files"]["data/model.bin"]["sha256"] = hashlib.sha256(b"weightz").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))
    return "manifest.json was changed"


def _remove_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json is missing"


@pytest.mark.parametrize("tamper", [_change, _remove, _add, _link, _link_a_folder, _forge, _remove_manifest])
def test_version__tampered_with__is_refused_by_the_files_name_and_replaced(
    cache: ModelCache, tmp_path: Path, tamper: Callable[[Path], str]
) -> None:
    version = _install(cache, tmp_path, 1)
    place = cache.path(version)
    verify_files(place, version.manifest_sha256)
    says = tamper(place)
    with pytest.raises(TamperedError, match=says):
        verify_files(place, version.manifest_sha256)
    cache.install(version, lambda target: _fill(target, "1"))
    verify_files(place, version.manifest_sha256)


def test_install__of_what_is_not_the_version__leaves_nothing(cache: ModelCache, tmp_path: Path) -> None:
    version = _version(tmp_path, 1)
    with pytest.raises(TamperedError, match=r"manifest\.json was changed"):
        cache.install(version, lambda target: _fill(target, "another"))
    with pytest.raises(ZeroDivisionError):
        cache.install(version, lambda target: (_fill(target, "1"), 1 / 0))
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_prune__keeps_the_version_in_production_and_the_one_before(cache: ModelCache, tmp_path: Path) -> None:
    def kept() -> set[str]:
        return {path.name.split("-")[0] for path in cache.folder.iterdir() if path.is_dir()}

    first = _install(cache, tmp_path, 1)
    _install(cache, tmp_path, 2)
    assert kept() == {"v1.0.1", "v1.0.2"}
    cache.remember(first)  # rolled back
    cache.prune(first)
    third = _install(cache, tmp_path, 3)
    assert kept() == {"v1.0.1", "v1.0.3"}
    assert cache.last() == third


def test_prune__touches_no_download_under_way_and_removes_abandoned_ones(
    cache: ModelCache, tmp_path: Path
) -> None:
    (cache.folder / ".partial-of-a-killed-process").mkdir()
    version = _version(tmp_path, 1)

    def download(target: Path) -> None:
        cache.prune()
        assert target.is_dir()
        assert not (cache.folder / ".partial-of-a-killed-process").exists()
        _fill(target, "1")

    cache.install(version, download)
    assert cache.path(version).is_dir()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "extra": 2}'])
def test_pointer__damaged__is_as_if_there_were_none(cache: ModelCache, content: str) -> None:
    (cache.folder / "production.json").write_text(content)
    assert cache.last() is None


@pytest.mark.parametrize("name", ["../other", "..", ".lock", "", "a/b"])
def test_names__lead_nowhere_else(tmp_path: Path, name: str) -> None:
    try:
        found = ModelCache(tmp_path, REGISTRY, "city-works", name).folder
    except BadInputError:
        return
    assert (found.parent.name, found.parents[2]) == ("city-works", tmp_path)


def test_folders__that_are_made__are_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        ModelCache(Path("a/b/cache"), REGISTRY, "city-works", "demand-forecast").last()
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
    assert len(made) >= 5


def test_folder__that_cannot_be_made__has_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="AI_HUB_CACHE_DIR"):
        ModelCache(tmp_path / "file", REGISTRY, "city-works", "demand-forecast").last()


def test_registries__with_a_tenant_and_model_of_the_same_names__stay_apart(
    cache: ModelCache, tmp_path: Path
) -> None:
    other = ModelCache(tmp_path / "cache", "http://staging.test", "city-works", "demand-forecast")
    version = _install(cache, tmp_path, 1)
    assert (other.last(), other.path(version).exists()) == (None, False)
    again = ModelCache(tmp_path / "cache", REGISTRY, "city-works", "demand-forecast")
    assert (again.last(), again.verified(version)) == (version, cache.path(version))


def test_versions__of_one_number_with_other_files__stay_apart(cache: ModelCache, tmp_path: Path) -> None:
    first = _install(cache, tmp_path, 1)
    second = replace(first, manifest_sha256=_fill(tmp_path / "source", "of a registry that was made anew"))
    cache.install(second, lambda target: _fill(target, "of a registry that was made anew"))
    assert cache.verified(first) != cache.verified(second)


def test_version__that_names_another_folder__stays_in_the_models(cache: ModelCache, tmp_path: Path) -> None:
    version = _version(tmp_path, 1)
    for odd in (replace(version, manifest_sha256="/../../evil"), replace(version, semantic_version="a/../b")):
        assert cache.path(odd).parent == cache.folder


def _levels(cache: ModelCache, tmp_path: Path) -> list[Path]:
    """From the model's folder up to the cache's own."""
    levels = [cache.folder, *cache.folder.parents]
    return levels[: levels.index(tmp_path)]


def test_folder__that_others_can_write__is_not_used(cache: ModelCache, tmp_path: Path) -> None:
    for folder in _levels(cache, tmp_path):
        for mode in (0o777, 0o720, 0o702):
            folder.chmod(mode)
            with pytest.raises(BadInputError, match="can be written by other users") as refusal:
                ModelCache(tmp_path / "cache", REGISTRY, "city-works", "demand-forecast").last()
            assert str(folder) in str(refusal.value)
        folder.chmod(0o755)
    ModelCache(tmp_path / "cache", REGISTRY, "city-works", "demand-forecast").last()


def test_folder__of_another_user__is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BadInputError, match="belongs to another user"):
        ModelCache(tmp_path / "cache", REGISTRY, "city-works", "demand-forecast").last()


def test_folder__that_is_a_link__is_not_used_but_as_the_whole_cache(
    cache: ModelCache, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    linked = ModelCache(tmp_path / "link", REGISTRY, "city-works", "demand-forecast")
    assert (linked.last(), linked.folder) == (None, cache.folder)
    cache.folder.rename(tmp_path / "elsewhere")
    cache.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="is a link"):
        ModelCache(tmp_path / "cache", REGISTRY, "city-works", "demand-forecast").last()


def test_folder__that_disappears__is_made_again(cache: ModelCache, tmp_path: Path) -> None:
    first = _install(cache, tmp_path, 1)
    shutil.rmtree(tmp_path / "cache")
    cache.remember(first)
    assert cache.last() is None, "there is nothing to point to"
    shutil.rmtree(tmp_path / "cache")
    with cache.reading(), pytest.raises(TamperedError):
        cache.verified(first)
    shutil.rmtree(tmp_path / "cache")
    second = _install(cache, tmp_path, 2)
    assert (cache.last(), cache.verified(second)) == (second, cache.path(second))


@pytest.mark.parametrize("name", ["production.json", ".lock"])
def test_file__that_cannot_be_read_or_written__is_told_with_a_remedy(
    cache: ModelCache, tmp_path: Path, name: str
) -> None:
    version = _install(cache, tmp_path, 1)
    (cache.folder / name).unlink()
    (cache.folder / name).mkdir(mode=0o700)

    def use() -> None:
        cache.last()
        cache.prune(version)

    with pytest.raises(BadInputError, match=rf"{name} cannot be used .Is a directory.*\n.*AI_HUB_CACHE_DIR"):
        use()


def test_cache__that_can_only_be_read__is_read(cache: ModelCache, tmp_path: Path) -> None:
    version = _install(cache, tmp_path, 1)
    with _read_only():
        assert cache.last() == version
        with cache.reading():
            cache.verified(version)
        with pytest.raises(BadInputError, match="cannot be used"):
            cache.install(version, lambda target: _fill(target, "1"))


@contextmanager
def _read_only() -> Iterator[None]:
    """For the superuser, too, whom modes do not keep from writing."""
    opened = os.open

    def refuse(path: str | Path, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), BadInputError),
        (requests.ConnectionError("refused"), requests.ConnectionError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionResetError),
    ],
    ids=["disk", "requests", "socket"],
)
def test_download__that_fails__is_the_fault_of_the_cache_if_the_disk_is_full(
    cache: ModelCache, tmp_path: Path, error: OSError, kind: type[Exception]
) -> None:
    def download(_: Path) -> None:
        raise error

    with pytest.raises(kind):
        cache.install(_version(tmp_path, 1), download)
