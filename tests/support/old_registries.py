# ruff: noqa: S608 - queries of constants
"""Registries as plain MLflow leaves them, made by its own client; and what must hold, asked by plain SQL."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml
from mlflow import MlflowClient
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

STAGED = "two-in-production"
ALIASED = "aliases-by-hand"
NUMBERED = "semantic-tags"
ODD = ("Demand forecast (kW)", "größe")
PROMPT = "greeting"
GONE = "files-gone"
COPIED = "copied"
LOGGED = "logged"


class Loaded:
    """What `mlflow.pyfunc.load_model` makes of a model's folder."""

    def __init__(self, text: str) -> None:
        self.text = text

    def predict(self, rows: Any) -> str:
        """What the folder says."""
        del rows
        return self.text


def _load_pyfunc(path: str) -> Loaded:
    return Loaded(Path(path, "data.txt").read_text())


@dataclass
class Old:
    """A registry of plain MLflow on `database`, whose models lie in `folder`."""

    database: str
    folder: Path

    def __post_init__(self) -> None:
        self.client = MlflowClient(self.database, self.database)

    def files(self, name: str) -> str:
        """A model's folder; what it predicts is `name`."""
        folder = self.folder / "models" / name
        folder.mkdir(parents=True)
        flavor = {"loader_module": __name__, "python_version": platform.python_version()}
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavor}}))
        (folder / "data.txt").write_text(name)
        return str(folder)

    def model(self, name: str, *versions: str | None) -> None:
        """A model with a version for each stage in `versions`."""
        self.client.create_registered_model(name)
        for number, stage in enumerate(versions, 1):
            self.version(name, self.files(f"{name}-{number}"), stage)

    def logged(self, name: str, experiment: str) -> tuple[str, str]:
        """A run that has logged a model; returns the run and the model's address."""
        run = self.client.create_run(experiment).info
        self.client.log_metric(run.run_id, "mae", 1.5)
        self.client.log_artifacts(run.run_id, self.files(name), "model")
        return run.run_id, f"{run.artifact_uri}/model"

    def version(
        self, name: str, source: str, stage: str | None = None, run_id: str | None = None, **tags: str
    ) -> int:
        """A version in a stage, whatever else is in it."""
        made = self.client.create_model_version(name, source, run_id, tags=tags)
        if stage:
            self.stage(name, int(made.version), stage)
        return int(made.version)

    def stage(self, name: str, version: int, stage: str) -> None:
        """Move a version as the stage menu does."""
        store = self.client._get_registry_client().store
        store.transition_model_version_stage(name, version, stage, archive_existing_versions=False)

    def alias(self, name: str, **aliases: int) -> None:
        """Set aliases."""
        for alias, version in aliases.items():
            self.client.set_registered_model_alias(name, alias, str(version))

    def close(self) -> None:
        """Close the connections."""
        store = self.client._get_registry_client().store
        store._dispose_engine()
        SqlAlchemyStore._engine_map.pop(self.database, None)


def staged(old: Old) -> None:
    """Two in production, two in staging."""
    stages = ("Production", "Production", "Staging", "Staging", None, "Archived")
    old.model(STAGED, *stages)


def aliased(old: Old) -> None:
    """Aliases that say something else than the stages, one of them spelled otherwise."""
    old.model(ALIASED, None, None, "Archived", "Production", "Staging")
    old.alias(ALIASED, production=1, archived=2, staging=3, champion=2, Production=1)


def numbered(old: Old) -> None:
    """Semantic versions that collide or are none, and a tag that looks like a manifest's digest."""
    old.client.create_registered_model(NUMBERED)
    for number, text in enumerate(("1.0.0", "1.0.0", "v1.0.0", "2024-05", None, "2.0.0"), 1):
        tags = {"semantic_version": text} if text else {}
        old.version(NUMBERED, old.files(f"{NUMBERED}-{number}"), **tags)
    old.client.set_model_version_tag(NUMBERED, "1", "manifest_sha256", "mine")


def odd(old: Old) -> None:
    """Names that cannot be folders."""
    for number, name in enumerate(ODD):
        old.client.create_registered_model(name)
        for version in (1, 2):
            old.version(name, old.files(f"odd-{number}-{version}"), "Production")


def prompts(old: Old) -> None:
    """A prompt with two versions, one of which an alias calls production."""
    for text in ("Hello {{name}}", "Hi {{name}}"):
        old.client.register_prompt(PROMPT, text)
    old.client.set_prompt_alias(PROMPT, "production", 1)
    old.client.set_prompt_alias(PROMPT, "Production", 2)


def gone(old: Old) -> None:
    """Files that are not there, and files in a store that does not answer."""
    old.client.create_registered_model(GONE)
    old.version(GONE, str(old.folder / "nowhere"), "Production")
    old.version(GONE, "gs://nowhere/model", "Staging")
    old.version(GONE, old.files(f"{GONE}-3"), "Production")


def others(old: Old) -> None:
    """A deleted version, a copy, and a model that a run has logged."""
    old.model(COPIED, "Archived", "Production")
    old.client.delete_model_version(COPIED, "1")
    old.client.copy_model_version(f"models:/{COPIED}/2", f"{COPIED}-too")
    experiment = old.client.create_experiment("old", artifact_location=str(old.folder / "runs"))
    run_id, source = old.logged(LOGGED, experiment)
    old.client.create_registered_model(LOGGED)
    old.version(LOGGED, source, run_id=run_id)


KINDS = (staged, aliased, numbered, odd, prompts, gone, others)

_MODELS = """
    SELECT mv.workspace, mv.name, mv.version, mv.current_stage AS stage
    FROM model_versions mv
    WHERE mv.current_stage <> 'Deleted_Internal' AND NOT EXISTS (
        SELECT 1 FROM registered_model_tags t WHERE t.workspace = mv.workspace AND t.name = mv.name
        AND t.key = 'mlflow.prompt.is_prompt' AND t.value = 'true')
"""
#: What must hold, each as a query for what breaks it.
INVARIANTS = {
    "one in a stage": f"""
        SELECT name, stage FROM ({_MODELS}) v WHERE stage IN ('Production', 'Staging')
        GROUP BY workspace, name, stage HAVING count(*) > 1""",
    "aliases say what stages say": f"""
        SELECT a.name, a.alias, v.stage FROM registered_model_aliases a
        JOIN ({_MODELS}) v ON v.workspace = a.workspace AND v.name = a.name AND v.version = a.version
        WHERE lower(a.alias) IN ('production', 'staging', 'archived') AND lower(a.alias) <> lower(v.stage)""",
    "stages have their alias": f"""
        SELECT v.name, v.stage FROM ({_MODELS}) v WHERE v.stage <> 'None' AND NOT EXISTS (
            SELECT 1 FROM registered_model_aliases a
            WHERE a.workspace = v.workspace AND a.name = v.name AND a.alias = lower(v.stage))""",
    "every version has a number": f"""
        SELECT v.name, v.version FROM ({_MODELS}) v LEFT JOIN model_version_tags t
        ON t.workspace = v.workspace AND t.name = v.name AND t.version = v.version
        AND t.key = 'semantic_version' WHERE t.value IS NULL OR t.value NOT LIKE 'v%.%.%'""",
    "numbers are unique": f"""
        SELECT v.name, t.value FROM ({_MODELS}) v JOIN model_version_tags t
        ON t.workspace = v.workspace AND t.name = v.name AND t.version = v.version
        AND t.key = 'semantic_version' GROUP BY v.workspace, v.name, t.value HAVING count(*) > 1""",
}
#: The same of our tables.
OUR_INVARIANTS = {
    "every version has a record": f"""
        SELECT v.name, v.version FROM ({_MODELS}) v WHERE NOT EXISTS (
            SELECT 1 FROM lifecycle_versions r JOIN model_version_tags t
            ON t.workspace = r.workspace AND t.name = r.name AND t.version = r.version
            AND t.key = 'semantic_version' AND t.value = r.semantic_version
            WHERE r.workspace = v.workspace AND r.name = v.name AND r.version = v.version
            AND r.state = 'registered')""",
    "the trail ends where the version is": f"""
        SELECT v.name, v.version, v.stage FROM ({_MODELS}) v WHERE NOT EXISTS (
            SELECT 1 FROM lifecycle_transitions t
            WHERE t.workspace = v.workspace AND t.name = v.name AND t.version = v.version
            AND t.to_stage = v.stage AND t.id = (
                SELECT max(id) FROM lifecycle_transitions l
                WHERE l.workspace = t.workspace AND l.name = t.name AND l.version = t.version))""",
    "digests are tags": f"""
        SELECT v.name, v.version FROM ({_MODELS}) v JOIN lifecycle_versions r
        ON r.workspace = v.workspace AND r.name = v.name AND r.version = v.version
        LEFT JOIN model_version_tags t ON t.workspace = v.workspace AND t.name = v.name
        AND t.version = v.version AND t.key = 'manifest_sha256'
        WHERE coalesce(r.manifest_sha256, '-') <> coalesce(t.value, '-')""",
    "nothing is claimed": "SELECT name, semantic_version FROM lifecycle_versions WHERE state = 'copying'",
}
_TABLES = (
    *("registered_models", "registered_model_tags", "registered_model_aliases"),
    *("model_versions", "model_version_tags", "lifecycle_versions", "lifecycle_transitions"),
)


def broken(database: str) -> dict[str, list[tuple[Any, ...]]]:
    """What does not hold, with examples."""
    engine = sa.create_engine(database)
    has_ours = sa.inspect(engine).has_table("lifecycle_versions")
    found = {}
    with engine.connect() as connection:
        for name, query in (INVARIANTS | (OUR_INVARIANTS if has_ours else {})).items():
            if rows := connection.execute(sa.text(query)).all():
                found[name] = [tuple(row) for row in rows]
    engine.dispose()
    return found


def contents(database: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the registry's tables, in order."""
    engine = sa.create_engine(database)
    inspector = sa.inspect(engine)
    with engine.connect() as connection:
        found = {
            table: sorted(
                (tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))), key=repr
            )
            for table in _TABLES
            if inspector.has_table(table)
        }
    engine.dispose()
    return found
