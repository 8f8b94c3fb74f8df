"""Images that were logged for a version, for its card: PNG only, because SVG and HTML can run scripts."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.artifacts.layout import proxied_path
from mlflow_plugins.errors import is_missing, missing
from mlflow_plugins.users import permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_plugins.artifacts.folders import Folder

#: How many a card shows.
MOST: Final = 12
#: Bytes of one, and its pixels: what a browser draws has four bytes for each.
LARGEST: Final = 2_000_000
_MOST_PIXELS: Final = 25_000_000
#: How many files of a run, or of a logged model, a page looks through.
MOST_FILES: Final = 10_000
_SUFFIX: Final = ".png"
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: Width and height in the first chunk of a PNG file.
_WIDTH, _HEIGHT = slice(16, 20), slice(20, 24)

#: Whose files: those of the run, or of the logged model.
Origin = Literal["run", "logged_model"]


@dataclass(frozen=True)
class Image:
    """A file; `path` is relative to the files of the run or of the logged model."""

    origin: Origin
    path: str
    size: int

    @property
    def title(self) -> str:
        """What its name says, as words: the text alternative, since MLflow keeps no other."""
        words = PurePosixPath(self.path).stem.replace("_", " ").replace("-", " ").split()
        return " ".join(words) or self.path


@dataclass(frozen=True)
class Gallery:
    """The images of a version that its card shows, and how many it does not."""

    images: list[Image]
    more: int = 0
    #: paths of those that are too large
    too_large: tuple[str, ...] = ()
    #: why none can be shown
    problem: str | None = None
    #: whether there are more files than were looked through
    partial: bool = False


def find(tenant: str, run_id: str | None, model_id: str | None) -> Gallery:
    """The images of a run and of a logged model of the active tenant, as far as the visitor may see them."""
    try:
        listed = [
            (origin, folder.files(MOST_FILES + 1)) for origin, folder in _folders(tenant, run_id, model_id)
        ]
    except MlflowException as error:
        return Gallery([], problem=str(error.message))
    images = [
        Image(origin, path, file.size)
        for origin, files in listed
        for path, file in sorted(files.items())
        if path.lower().endswith(_SUFFIX)
    ]
    fitting = [image for image in images if image.size <= LARGEST]
    too_large = tuple(image.path for image in images if image.size > LARGEST)
    partial = any(len(files) > MOST_FILES for _, files in listed)
    return Gallery(fitting[:MOST], len(fitting[MOST:]), too_large[:MOST], partial=partial)


def read(tenant: str, run_id: str | None, model_id: str | None, origin: str, path: str) -> bytes:
    """The contents of one image.

    Raises:
        MlflowException: 404, there is none by that name, or it is no PNG file within the limits.
    """
    is_image = path.lower().endswith(_SUFFIX) and _stays_below(path)
    for place, folder in _folders(tenant, run_id, model_id):
        file = folder.file(path) if place == origin and is_image else None
        if file and file.size <= LARGEST:
            content = b"".join(folder.read(path))
            if _is_drawable(content):
                return content
    raise missing("There is no image by that name that can be shown.")


def _stays_below(path: str) -> bool:
    return "\\" not in path and not {"", ".", ".."}.intersection(path.split("/"))


def _is_drawable(content: bytes) -> bool:
    width, height = (int.from_bytes(content[part]) for part in (_WIDTH, _HEIGHT))
    return len(content) <= LARGEST and content.startswith(_SIGNATURE) and 0 < width * height <= _MOST_PIXELS


def _folders(tenant: str, run_id: str | None, model_id: str | None) -> Iterator[tuple[Origin, Folder]]:
    """What this server itself keeps: an address elsewhere is whatever its author wrote there."""
    destination = current_destination()
    for origin, experiment, uri in _addresses(run_id, model_id):
        is_here = destination is not None and proxied_path(uri) is not None
        if destination and is_here and permissions.may_read_files(origin, experiment):
            yield origin, destination.folder(uri, tenant)


def _addresses(run_id: str | None, model_id: str | None) -> Iterator[tuple[Origin, str, str]]:
    client = MlflowClient()
    if run_id:
        with _purged():
            run = client.get_run(run_id).info
            yield "run", run.experiment_id, run.artifact_uri
    if model_id:
        with _purged():
            logged = client.get_logged_model(model_id)
            yield "logged_model", logged.experiment_id, logged.artifact_location


@contextmanager
def _purged() -> Iterator[None]:
    """What is gone from the tracking server has no files."""
    try:
        yield
    except MlflowException as error:
        if not is_missing(error):
            raise
