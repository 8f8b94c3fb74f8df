"""Which files may be uploaded as a model."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_hub.errors import BadInputError
from ai_hub.registry.registering import check_files

_FOLDER = Path("/model")


def test_check_files__takes_what_mlflow_writes() -> None:
    document = b"""
flavors:
  python_function: {env: {conda: conda.yaml}, loader_module: mlflow.lightgbm, data: data/model.lgb,
    artifacts: {x: {path: artifacts/x, uri: "file:///home/ada/x"}}}
  lightgbm: {model_class: lightgbm.basic.Booster}
saved_input_example_info: {artifact_path: input_example.json}
"""
    check_files({"MLmodel": document, "data/model.lgb": b"", "requirements.txt": b"", "a b/.hidden": b""})


@pytest.mark.parametrize(
    "path",
    [
        *("..", "a/../b", "/a", "a/", "./a", "a//b", "C:/a", "a\\b", "a\0b", "a\nb", " a", "a "),
        *(".ai-hub/manifest.json", "x" * 257),
    ],
    ids=ascii,
)
def test_check_files__refuses_a_path_that_is_none(path: str) -> None:
    with pytest.raises(BadInputError):
        check_files({path: b""})


@given(st.text(min_size=1, max_size=12, alphabet=st.sampled_from("ab./\\~: \0")))
def test_check_files__takes_only_what_stays_in_the_folder(path: str) -> None:
    try:
        check_files({path: b""})
    except BadInputError:
        return
    target = _FOLDER.joinpath(*PurePosixPath(path).parts)
    assert target.is_relative_to(_FOLDER)
    assert ".." not in target.parts
    assert target.relative_to(_FOLDER).as_posix() == path


@pytest.mark.parametrize("files", [{"a": b"", "a/b": b""}, {"a": b"", "A/b": b""}, {"a": b"", "A": b""}])
def test_check_files__refuses_files_that_meet(files: dict[str, bytes]) -> None:
    with pytest.raises(BadInputError):
        check_files(files)
