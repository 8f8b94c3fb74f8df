"""Which gates are installed, and which guard which model.

The defaults hold, then what a tenant says, then what it says about the model. On each level a gate is `true`
or settings (on) or `false` (off). The nearest level that names a gate decides whether it is on; its settings
are those of all levels together, the nearest winning each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from mlflow_plugins.gates.builtin import NotWorseGate
from mlflow_plugins.gates.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


GROUP: Final = "ai_hub.promotion_gates"


class UnusableGateError(ValueError):
    """A policy names a gate that cannot be used."""


def gate_names() -> list[str]:
    """Every installed gate."""
    return sorted(_entry_points())


@lru_cache(maxsize=128)
def gate_class(name: str) -> type[Gate]:
    """The gate of this name.

    Raises:
        UnusableGateError: none is installed, two are, or it cannot be loaded.
    """
    points = _entry_points().get(name, [])
    if not points:
        raise UnusableGateError(f"There is no gate {name!r}. Installed: {', '.join(gate_names())}.")
    if len(points) > 1:
        owners = " and ".join(point.value for point in points)
        raise UnusableGateError(f"Gate {name!r} is installed twice, by {owners}. Uninstall one.")
    try:
        loaded = points[0].load()
    except Exception as error:
        raise UnusableGateError(
            f"Gate {name!r} ({points[0].value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Gate)):
        raise UnusableGateError(f"Gate {name!r} ({points[0].value}) is not a mlflow_plugins.gates.gate.Gate.")
    if getattr(loaded, "name", None) != name:
        raise UnusableGateError(f"Gate {name!r} ({points[0].value}) calls itself by another name.")
    return loaded


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, list[EntryPoint]]:
    points: dict[str, list[EntryPoint]] = {}
    # an editable installation may be listed twice
    for point in dict.fromkeys(entry_points(group=GROUP)):
        points.setdefault(point.name, []).append(point)
    return points


def _rule(given: Any) -> Any:
    if isinstance(given, bool | dict):
        return given
    raise PydanticCustomError("gate_rule", "true, false, or the gate's settings belong here")


GateRule = Annotated[bool | dict[str, Any], BeforeValidator(_rule)]


class TenantRules(BaseModel):
    """What a tenant changes, for all its models and for single ones."""

    model_config = ConfigDict(extra="forbid")

    gates: dict[str, GateRule] = {}
    models: dict[str, dict[str, GateRule]] = {}


class Document(BaseModel):
    """A policy file."""

    model_config = ConfigDict(extra="forbid")

    defaults: dict[str, GateRule] = {}
    tenants: dict[str, TenantRules] = {}


@dataclass(frozen=True)
class Level:
    """One place that says something about gates: its path in the file, and what it says."""

    path: tuple[str, ...]
    rules: Mapping[str, GateRule]

    @property
    def label(self) -> str:
        """As people write it."""
        return ".".join(self.path) or "built-in"


#: What holds where nothing else is said.
BASE: Final = Level((), {"manifest": True})


@dataclass(frozen=True)
class Rule:
    """What all levels together say about one gate."""

    on: bool
    #: The level that turned it on or off.
    decided_by: Level
    settings: Mapping[str, Any]
    #: Which level each setting comes from.
    set_by: Mapping[str, Level]


@dataclass(frozen=True)
class Policy:
    """A policy whose gates are all known and whose settings are all valid (see `policy_file`)."""

    document: Document
    #: `built-in`, or the file.
    source: str
    sha256: str | None

    def rules(self, tenant: str, model: str) -> dict[str, Rule]:
        """What is said about each gate, for a tenant's model."""
        return merged(levels(self.document, tenant, model))

    def gates(self, tenant: str, model: str) -> tuple[Gate, ...]:
        """The gates that guard Production of a tenant's model."""
        rules = self.rules(tenant, model).items()
        return tuple(gate_class(name)(**rule.settings) for name, rule in rules if rule.on)

    def judged_metrics(self, tenant: str, model: str) -> list[str]:
        """Metrics that decide about a tenant's model; first those that are compared with production."""
        gates = sorted(self.gates(tenant, model), key=lambda gate: not isinstance(gate, NotWorseGate))
        return [metric for gate in gates for metric in gate.judged_metrics()]

    def origin(self) -> dict[str, str | None]:
        """Which policy this is, for the audit trail."""
        return {"source": self.source, "sha256": self.sha256}


BUILT_IN: Final = Policy(Document(), "built-in", None)


def levels(document: Document, tenant: str | None, model: str | None) -> Iterator[Level]:
    """What applies to a model of a tenant, or to any other, the nearest last."""
    yield BASE
    yield Level(("defaults",), document.defaults)
    if tenant in document.tenants:
        rules = document.tenants[tenant]
        yield Level(("tenants", tenant, "gates"), rules.gates)
        if model in rules.models:
            yield Level(("tenants", tenant, "models", model), rules.models[model])


def merged(applicable: Iterable[Level]) -> dict[str, Rule]:
    """What the levels together say about each gate that any of them names."""
    found: dict[str, Rule] = {}
    for level in applicable:
        for gate, said in level.rules.items():
            before = found.get(gate)
            own = said if isinstance(said, dict) else {}
            settings = {**(before.settings if before else {}), **own}
            set_by = {**(before.set_by if before else {}), **dict.fromkeys(own, level)}
            found[gate] = Rule(said is not False, level, settings, set_by)
    return found
