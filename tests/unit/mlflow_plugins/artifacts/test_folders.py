from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from mlflow_plugins.artifacts.folders import File, RepositoryFolder

if TYPE_CHECKING:
    from pathlib import Path


def test_folder__says_what_one_file_is__and_lists_no_more_than_was_asked_for(tmp_path: Path) -> None:
    files = {"a.png": b"1", "plots/b.png": b"22", "plots/c.png": b"333"}
    (tmp_path / "plots").mkdir()
    for path, content in files.items():
        (tmp_path / path).write_bytes(content)
    folder = RepositoryFolder(LocalArtifactRepository(str(tmp_path)))
    everything = {path: File(len(content), None) for path, content in files.items()}
    assert folder.files() == folder.files(3) == everything
    assert len(folder.files(2)) == 2
    assert {path: folder.file(path) for path in files} == everything
    assert [folder.file(path) for path in ("plots", "b.png", "plots/b", "none/b.png")] == [None] * 4
