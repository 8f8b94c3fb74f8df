from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Feast's constructor takes a wrong type silently where nothing checks it.
_ENTITY = """
from feast import Entity
try:
    Entity(name="meter", description=5)
except Exception as error:
    print(type(error).__name__)
else:
    print("unchecked")
from typeguard import check_type
print(check_type("5", str))
"""
_SKIP = "from ai_hub.imports import skip_type_checks as skip; skip(); skip()"


@pytest.mark.parametrize(
    ("before", "outcome"),
    [
        pytest.param("", "TypeCheckError", marks=pytest.mark.long),
        (_SKIP, "unchecked"),
        pytest.param(f"import typeguard; {_SKIP}", "unchecked", marks=pytest.mark.long),
    ],
    ids=["feast alone", "before typeguard", "after typeguard"],
)
def test_skip_type_checks__leaves_only_feast_unchecked(before: str, outcome: str) -> None:
    code = f"{before}\n{_ENTITY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [outcome, "5"]


_HEAVY = ("mlflow", "feast", "boto3", "fastapi", "pandas", "lightgbm", "sqlalchemy", "psycopg", "redis")


@pytest.mark.parametrize(
    "module", ["ai_hub.client", "ai_hub.registry", "ai_hub.cli", "mlflow_plugins.artifacts.scheme"]
)
def test_import__brings_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*({set(_HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


#: What takes a second and more, for nothing that these need.
_HEAVIEST = ("mlflow", "feast", "fastapi", "pandas", "lightgbm", "sqlalchemy")


@pytest.mark.parametrize(
    "modules",
    [
        ("ai_hub.exports.task", "ai_hub.forecasting.retrain_task", "ai_hub.jobs.worker"),
        ("ai_hub.cli.tenants", "ai_hub.registry.tenants", "ai_hub.db.retired"),
        ("ai_hub.cli.features", "ai_hub.db.refresh"),
    ],
    ids=["a worker without jobs", "tenants list", "refresh"],
)
def test_command__imports_feast_and_mlflow_where_they_do_something(modules: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}; print(*({set(_HEAVIEST)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_client__imports_what_the_package_alone_installs() -> None:
    """What a distribution without its extras needs, with all else made not to be there."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    others = _other_modules(_with_their_own(project["dependencies"]))
    code = f"import sys; sys.modules |= dict.fromkeys({others!r}); import ai_hub.client, ai_hub.registry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _with_their_own(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that these requirements install."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += [Requirement(each) for each in distribution(name).requires or ()]
    return found


def _other_modules(installed: set[str]) -> list[str]:
    """Top-level modules of all other distributions."""
    ours = {"ai_hub", "feast_plugins", "mlflow_plugins"}
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if not ours & {module} and not installed & {canonicalize_name(owner) for owner in owners}
    )


def test_command__imports_any_library_that_is_installed() -> None:
    """What an estimator of another package may do."""
    code = """
import sys
from ai_hub.cli.main import app, main
@app.command()
def probe() -> None:
    import hypothesis, polars
    print(hypothesis.__name__, polars.__name__)
sys.argv = ["ai-hub", "probe"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["hypothesis", "polars"], "")


def test_lightgbm__imported_without_scikit_learn__gets_its_estimators_back() -> None:
    code = """
import sys
from ai_hub.imports import lightgbm_knows_sklearn, without
with without("sklearn"):
    import lightgbm
assert "sklearn" not in sys.modules, "what is not found is not kept, either"
import sklearn
with without("sklearn"):
    import sklearn.base
booster = lightgbm.Booster
assert not lightgbm.compat.SKLEARN_INSTALLED
lightgbm_knows_sklearn()
assert lightgbm.Booster is booster
fitted = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit([[float(n)] for n in range(40)], range(40))
assert isinstance(fitted.booster_, booster)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_commands__without_the_extra_server__say_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; import ai_hub.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: typer is not installed. Run `pip install 'ai-hub[server]'`.\n"
