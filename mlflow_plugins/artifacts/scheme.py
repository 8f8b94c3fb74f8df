"""`minio://`, as MLflow's registry of artifact stores knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_plugins.artifacts.repository import MinioArtifactRepository


def minio_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> MinioArtifactRepository:
    """The store at `artifact_uri`.

    `import mlflow` loads this module in every client and half-way through its own import, so what the store
    needs loads when there is one.
    """
    from mlflow_plugins.artifacts.repository import MinioArtifactRepository  # noqa: PLC0415

    return MinioArtifactRepository(artifact_uri, tracking_uri, registry_uri)
