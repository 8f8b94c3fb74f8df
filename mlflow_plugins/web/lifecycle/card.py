"""What is known about one version, how two versions differ, and the images that were logged for one.

Images are PNG only, because SVG and HTML can run scripts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts.destination import current_destination, proxied_path
from mlflow_plugins.errors import is_missing, missing
from mlflow_plugins.gates import comparison
from mlflow_plugins.lifecycle import stages
from mlflow_plugins.registration.model_metadata import logged_model, run_facts
from mlflow_plugins.store import promoting
from mlflow_plugins.users import permissions
from mlflow_plugins.web.lifecycle import metrics, overview
from mlflow_plugins.web.lifecycle.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_plugins.artifacts.folders import Folder
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.web.lifecycle.metrics import Comparison


#: The version tag in which people say what a model is not for; shown as Markdown.
LIMITS_TAG: Final = "limits"
#: Run parameters that say from when to when the data is, as `ai-hub train` logs them.
_WINDOW: Final = ("window_start", "window_end")
_GIT_COMMIT: Final = "mlflow.source.git.commit"
_SOURCE: Final = "mlflow.source.name"
_ABSENT: Final = "—"


@dataclass(frozen=True)
class Card:
    """A version; what nobody recorded is empty."""

    version: int
    semantic_version: str | None
    stage: str
    description: str | None
    limits: str | None
    run_id: str | None
    #: of the logged model it is
    model_id: str | None
    registered_ms: int
    #: one-line facts by their names, in the order they are shown
    facts: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    metrics: Metrics = field(default_factory=dict)
    #: with versions that were in Production, the newest first
    comparisons: tuple[comparison.Record, ...] = ()
    #: why facts, parameters, features and metrics cannot be shown
    problem: str | None = None

    @property
    def label(self) -> str:
        """For example `2 (v1.0.1)`."""
        return f"{self.version} ({self.semantic_version})" if self.semantic_version else str(self.version)


@dataclass(frozen=True)
class Change:
    """A fact or parameter that differs."""

    name: str
    left: str
    right: str


@dataclass(frozen=True)
class Difference:
    """How version `right` differs from `left`; metrics are all there, the others only where they differ."""

    left: Card
    right: Card

    @property
    def facts(self) -> list[Change]:
        """Facts that differ: among them feature service and data window."""
        return _changes(self.left.facts, self.right.facts)

    @property
    def parameters(self) -> list[Change]:
        """Parameters that differ."""
        return _changes(self.left.parameters, self.right.parameters)

    @property
    def metrics(self) -> list[Comparison]:
        """Every metric of either."""
        return metrics.compare(self.right.metrics, self.left.metrics)

    @property
    def added_features(self) -> list[str]:
        """Features only the right one takes."""
        return [name for name in self.right.features if name not in self.left.features]

    @property
    def removed_features(self) -> list[str]:
        """Features only the left one takes."""
        return [name for name in self.left.features if name not in self.right.features]


def read(store: LifecycleStore, tenant: str, name: str, number: int) -> Card:
    """The card of a version of the active tenant.

    Raises:
        MlflowException: 404, there is no such model or version.
    """
    with store.sessions() as session:
        model = overview.find_model(session, tenant, name)
        row = store.version_row(session, name, number)
        registered, author = promoting.registered_version(session, model, row), row.user_id
        card = Card(
            row.version,
            registered.semantic_version,
            row.current_stage,
            row.description,
            stages.tags(session, row, LIMITS_TAG).get(LIMITS_TAG),
            row.run_id,
            logged_model(registered.source),
            row.creation_time,
            comparisons=tuple(
                comparison.records(store.get_model_version(name, number).tags, tenant, name, number)
            ),
        )
    try:
        found = promoting.version_info(store, model, registered)
        metadata, measured = dict(found.metadata), dict(found.metrics)
        run = run_facts(registered.run_id, card.model_id)
    except MlflowException as error:
        return replace(card, problem=str(error.message))
    parameters = {key: str(value) for key, value in (metadata.get("hyperparameters") or {}).items()}
    window = [parameters.pop(key, None) for key in _WINDOW]
    return replace(
        card,
        facts={
            **_facts(metadata, run.tags, window),
            "Trained on": _trained_on(run.datasets) or _ABSENT,
            "Registered by": author or _ABSENT,
        },
        parameters=parameters,
        features=tuple(map(str, metadata.get("feature_names") or ())),
        metrics=measured,
    )


def _facts(metadata: Mapping[str, Any], tags: Mapping[str, str], window: list[str | None]) -> dict[str, str]:
    begin, end = window
    found = {
        "Data window": f"{begin} to {end}" if begin and end else None,
        "Feature service": metadata.get("feature_service"),
        "Framework": metadata.get("framework"),
        "Trained by": metadata.get("author"),
        "Code version": tags.get(_GIT_COMMIT),
        "Code": tags.get(_SOURCE),
        "Logged with MLflow": metadata.get("mlflow_version"),
    }
    return {name: str(value) if value else _ABSENT for name, value in found.items()}


def _trained_on(datasets: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The run's training dataset: its tables and the time whose knowledge it is of, or what it is called."""
    dataset = datasets.get("training")
    if dataset is None:
        return None
    try:
        source = json.loads(dataset["source"])
        return f"{', '.join(source['tables'])}, known at {source['known_at']}"
    except (ValueError, TypeError, KeyError):  # somebody else's
        return f"{dataset['name']} (digest {dataset['digest']})"


def _changes(left: Mapping[str, str], right: Mapping[str, str]) -> list[Change]:
    names = list(dict.fromkeys([*left, *right]))
    changes = [Change(name, left.get(name, _ABSENT), right.get(name, _ABSENT)) for name in names]
    return [change for change in changes if change.left != change.right]


#: How many a card shows.
MOST_IMAGES: Final = 12
#: Bytes of one, and its pixels: what a browser draws has four bytes for each.
LARGEST_IMAGE: Final = 2_000_000
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


def find_images(tenant: str, run_id: str | None, model_id: str | None) -> Gallery:
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
    fitting = [image for image in images if image.size <= LARGEST_IMAGE]
    too_large = tuple(image.path for image in images if image.size > LARGEST_IMAGE)
    partial = any(len(files) > MOST_FILES for _, files in listed)
    return Gallery(
        fitting[:MOST_IMAGES], len(fitting[MOST_IMAGES:]), too_large[:MOST_IMAGES], partial=partial
    )


def read_image(tenant: str, run_id: str | None, model_id: str | None, origin: str, path: str) -> bytes:
    """The contents of one image.

    Raises:
        MlflowException: 404, there is none by that name, or it is no PNG file within the limits.
    """
    is_image = path.lower().endswith(_SUFFIX) and _stays_below(path)
    for place, folder in _folders(tenant, run_id, model_id):
        file = folder.file(path) if place == origin and is_image else None
        if file and file.size <= LARGEST_IMAGE:
            content = b"".join(folder.read(path))
            if _is_drawable(content):
                return content
    raise missing("There is no image by that name that can be shown.")


def _stays_below(path: str) -> bool:
    return "\\" not in path and not {"", ".", ".."}.intersection(path.split("/"))


def _is_drawable(content: bytes) -> bool:
    width, height = (int.from_bytes(content[part]) for part in (_WIDTH, _HEIGHT))
    return (
        len(content) <= LARGEST_IMAGE
        and content.startswith(_SIGNATURE)
        and 0 < width * height <= _MOST_PIXELS
    )


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
