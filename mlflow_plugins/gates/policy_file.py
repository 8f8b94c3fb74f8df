"""The policy file: read anew for every promotion, so that a change counts at once, and checked as a whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from pydantic import ValidationError

from mlflow_plugins.artifacts.layout import check_model_name
from mlflow_plugins.gates.policy import (
    BUILT_IN,
    Document,
    Level,
    Policy,
    Rule,
    UnusableGateError,
    gate_class,
    levels,
    merged,
)
from mlflow_plugins.settings import RegistrySettings

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    path = (settings or RegistrySettings()).promotion_policy_path
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
