"""Which gates guard which model: the defaults, then what a tenant says, then what it says about the model.

On each level a gate is `true` or settings (on) or `false` (off). The nearest level that names a gate decides
whether it is on; its settings are those of all levels together, the nearest winning each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from mlflow_plugins.gates.builtin.not_worse import NotWorseGate
from mlflow_plugins.gates.known import gate_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlflow_plugins.gates.gate import Gate


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
