"""The promotion policy: which gates are installed, which guard which model, and the file that says so.

The defaults hold, then what a tenant says, then what it says about the model. On each level a gate is `true`
or settings (on) or `false` (off). The nearest level that names a gate decides whether it is on; its settings
are those of all levels together, the nearest winning each. The file is read for every promotion, so that a
change counts at once, and checked as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import yaml
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from mlflow_plugins.artifacts.destination import check_model_name
from mlflow_plugins.gates.builtin import NotWorseGate
from mlflow_plugins.gates.gate import Gate
from mlflow_plugins.settings import RegistrySettings, current_settings

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
    """A policy whose gates are all known and whose settings are all valid (see `load`)."""

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


_Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong in a policy file, and where; without a line when the whole file is meant."""

    place: str
    line: int | None
    text: str

    def __str__(self) -> str:
        where = ", ".join(
            [*([f"line {self.line}"] if self.line else []), *([self.place] if self.place else [])]
        )
        return f"{where}: {self.text}" if where else self.text


class PolicyError(ValueError):
    """A policy file cannot be used."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        places = "; ".join(str(problem).rstrip(".") for problem in problems)
        super().__init__(f"{source}: {places}.")


def current(settings: RegistrySettings | None = None) -> Policy:
    """The policy in force: the file at `PROMOTION_POLICY_PATH`, or the built-in one where that is not set.

    Args:
        settings: default: those of the environment.

    Raises:
        PolicyError: the file is missing or wrong.
    """
    path = (settings or current_settings()).promotion_policy_path
    return BUILT_IN if path is None else load(Path(path))


def load(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        PolicyError: it is missing or wrong, with every problem found.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PolicyError(str(path), [Problem("", None, error.strerror or str(error))]) from error
    return parse(content, str(path))


@lru_cache(maxsize=8)
def parse(content: bytes, source: str) -> Policy:
    """The policy that `content` is.

    Raises:
        PolicyError: it is wrong, with every problem found.
    """
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
        raw = {} if root is None else yaml.safe_load(content)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else None
        raise PolicyError(source, [Problem("", line, f"this is not YAML: {what}")]) from error

    def problem(path: _Path, text: str) -> Problem:
        return Problem(".".join(map(str, path)), line_of(root, path), text)

    if twice := [problem(path, "this key is there twice") for path in repeated_keys(root)]:
        raise PolicyError(source, twice)
    try:
        document = Document.model_validate(raw)
    except ValidationError as error:
        raise PolicyError(
            source, [problem(_without_kinds(raw, each["loc"]), each["msg"]) for each in error.errors()]
        ) from error
    if problems := list(dict.fromkeys(problem(path, text) for path, text in _mistakes(document))):
        raise PolicyError(source, problems)
    return Policy(document, source, hashlib.sha256(content).hexdigest())


def _mistakes(document: Document) -> Iterator[tuple[_Path, str]]:
    """What is wrong with names and settings, for every tenant and model the document names."""
    yield from _gate_mistakes(document, None, None)
    for tenant, rules in document.tenants.items():
        if tenant != DEFAULT_WORKSPACE_NAME:
            try:
                WorkspaceNameValidator.validate(tenant)
            except MlflowException as error:
                yield ("tenants", tenant), f"no tenant can have this name: {error.message}"
        yield from _gate_mistakes(document, tenant, None)
        for model in rules.models:
            try:
                check_model_name(model)
            except MlflowException as error:
                yield ("tenants", tenant, "models", model), str(error.message)
            yield from _gate_mistakes(document, tenant, model)


def _gate_mistakes(document: Document, tenant: str | None, model: str | None) -> Iterator[tuple[_Path, str]]:
    for name, rule in merged(levels(document, tenant, model)).items():
        try:
            made = gate_class(name)
        except UnusableGateError as error:
            yield (*rule.decided_by.path, name), str(error)
            continue
        if not rule.on:
            continue
        try:
            made(**rule.settings)
        except ValidationError as error:
            for each in error.errors():
                text = each["msg"].removeprefix("Value error, ")
                if each["type"] == "extra_forbidden" and len(each["loc"]) == 1:
                    text = f"there is no such setting; {name} has {', '.join(made.model_fields) or 'none'}"
                yield (*_said_by(rule, each["loc"]).path, name, *each["loc"]), text


def _said_by(rule: Rule, loc: _Path) -> Level:
    return rule.set_by.get(str(loc[0]), rule.decided_by) if loc else rule.decided_by


def _without_kinds(raw: Any, loc: _Path) -> _Path:
    """`loc` without what Pydantic adds to tell the members of a union apart."""
    kept: list[str | int] = []
    for part in loc:
        if isinstance(raw, dict) and part in raw:
            raw = raw[part]
            kept.append(part)
    return tuple(kept)


def line_of(root: yaml.Node | None, path: tuple[str | int, ...]) -> int | None:
    """The line (from 1) of the deepest part of `path` that the file has; None when it has none of it."""
    line = None
    for part in path:
        found = [pair for pair in _pairs(root) if pair[0].value == str(part)]
        if not found:
            break
        key, root = found[-1]
        line = key.start_mark.line + 1
    return line


def repeated_keys(root: yaml.Node | None) -> Iterator[tuple[str, ...]]:
    """Keys that a mapping has more than once, of which YAML would silently take the last."""
    waiting: list[tuple[tuple[str, ...], yaml.Node | None]] = [((), root)]
    # an alias leads to the same node again, even to one it is inside of
    visited: set[int] = set()
    while waiting:
        above, node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        seen = set()
        for key, value in _pairs(node):
            path = (*above, str(key.value))
            if path in seen:
                yield path
            seen.add(path)
            waiting.append((path, value))


def _pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []
