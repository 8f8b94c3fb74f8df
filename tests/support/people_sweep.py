"""Every route of a server, asked with all that could be known about a tenant; and what the tenant has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.artifacts.s3 import s3_client
from support.people_server import ADMIN, MODEL

if TYPE_CHECKING:
    from support.people_server import Session, Tenant

V2: Final = "/api/2.0/mlflow"
#: The bundle of the pages, and a list of models that the server fetches from the internet.
IRRELEVANT: Final = "static|supported-models"


def without_twins(routes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One of each two routes that differ in `/api` and `/ajax-api` only, and none that is asked by nobody."""
    twins = {(method, path.replace("/api/", "/ajax-api/", 1)) for method, path in routes}
    return [
        (method, path)
        for method, path in routes
        if method not in {"HEAD", "OPTIONS"}
        and not re.search(IRRELEVANT, path)
        and not (path.startswith("/ajax-api/") and (method, path) in twins)
    ]


def known_of(tenant: Tenant) -> dict[str, str]:
    """Values for parameters by their names, as if somebody had told the intruder all of acme's."""
    file = f"workspaces/{tenant.name}/{tenant.experiment}/{tenant.run}/artifacts/model/model.bin"
    return {
        "name": MODEL,
        "version": "1",
        "alias": "staging",
        "stage": "Archived",
        "run_id": tenant.run,
        "run_uuid": tenant.run,
        "experiment_id": tenant.experiment,
        "experiment_name": f"loads-of-{tenant.name}",
        "model_id": tenant.logged,
        "artifact_path": file,
        "path": file,
        "workspace_name": tenant.name,
        "workspace": tenant.name,
        "tenant": tenant.name,
        "metric_key": "mae",
        "key": "mark",
        "value": "evil",
        "username": "anna",
        "role_id": "1",
        "description": "evil",
        "new_name": "evil",
        "reason": "evil",
        "force": "true",
        "source": f"models:/{MODEL}/1",
        "archive_existing_versions": "false",
        "at_ms": str(2**42),
    }


def ask(session: Session, method: str, path: str, known: dict[str, str]) -> Any:
    filled = re.sub(r"[<{](?:\w+:)?(\w+)[>}]", lambda match: known.get(match[1], "1"), path)
    many = {"experiment_ids": [known["experiment_id"]], "run_ids": [known["run_id"]]}
    if method in {"GET", "DELETE"}:
        answer = session.request(method, filled, params={**known, **many})
        if method == "GET":
            return answer
    return session.request(method, filled, json={**known, **many})


def contents(tenant: Tenant) -> dict[str, Any]:
    """Everything of a tenant that its administrator sees, and the entity tags of all its files."""
    admin = tenant.session(ADMIN)
    pages = (
        s3_client().get_paginator("list_objects_v2").paginate(Bucket="ml-models", Prefix=f"{tenant.name}/")
    )
    experiments = admin.post(f"{V2}/experiments/search", json={"max_results": 100, "view_type": "ALL"}).json()
    numbers = [item["experiment_id"] for item in experiments["experiments"]]
    roles = admin.get("/api/3.0/mlflow/roles/list", params={"workspace": tenant.name}).json()
    return {
        "experiments": experiments,
        "runs": admin.post(
            f"{V2}/runs/search", json={"experiment_ids": numbers, "run_view_type": "ALL", "max_results": 1000}
        ).json(),
        "logged": admin.post(f"{V2}/logged-models/search", json={"experiment_ids": numbers}).json(),
        "models": admin.get(f"{V2}/registered-models/search").json(),
        "versions": admin.get(f"{V2}/model-versions/search").json(),
        "trail": admin.get(f"/ai-hub/api/models/{MODEL}/transitions").json(),
        "roles": [role for role in roles["roles"] if not role["name"].startswith("__")],
        "webhooks": admin.get(f"{V2}/webhooks").json(),
        "files": {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])},
    }
