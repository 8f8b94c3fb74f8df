"""`ai-hub gates` and `ai-hub policy`: which gates guard Production, and whether a version passes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app
from ai_hub.cli.models import Model, Reason, Tenant, version_label
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_plugins.gates.policy import Policy

policy_app = typer.Typer(
    name="policy", no_args_is_help=True, help="The promotion policy: which gates guard which model."
)
app.add_typer(policy_app)


@app.command("gates")
def gates_command(
    model: Model,
    *,
    tenant: Tenant,
    version: Annotated[
        str, typer.Option(help="a number, a semantic version, or latest: the newest in Staging")
    ] = "latest",
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Check a version against the promotion gates without promoting it; fails when one refuses it."""
    from ai_hub import registry

    report = registry.gates(tenant, model, version, reason=reason)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        number = version_label(report)
        console = common.console()
        move = "back into" if report.rollback else "to"
        console.print(f"{model} {number} of {tenant}: from {report.stage} {move} Production", highlight=False)
        if report.results:
            table = Table("gate", "", Column("result", overflow="fold"), box=SIMPLE_HEAD)
            for result in report.results:
                mark = Text("passed", "green") if result.passed else Text("refused", "bold red")
                table.add_row(result.gate, mark, result.text)
            console.print(table)
        if report.skipped:
            console.print(f"Not checked for a rollback: {', '.join(report.skipped)}.", highlight=False)
        if report.refusal:
            console.print(report.refusal, highlight=False)
    raise typer.Exit(0 if report.passed else 1)


@policy_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="the policy file", show_default=False)],
) -> None:
    """Check a policy file; names the place of every mistake."""
    from mlflow_plugins.gates import policy

    tenants = _readable(lambda: policy.load(file)).document.tenants
    models = sum(len(rules.models) for rules in tenants.values())
    typer.echo(f"{file} is right. It has rules of its own for {len(tenants)} tenants and {models} models.")


@policy_app.command("show")
def show(
    file: Annotated[
        Path | None, typer.Argument(help="the policy file; default: the one in force", show_default=False)
    ] = None,
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="as it holds for this tenant")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="and this model of it")] = "",
    as_json: AsJson = False,
) -> None:
    """Show every installed gate: whether it is on, its settings, and the level of the policy that sets it."""
    from mlflow_plugins.gates import policy

    shown = _readable(lambda: policy.load(file) if file else policy.current(common.settings()))
    rules = shown.rules(tenant, model)
    rows = []
    for name in policy.gate_names():
        rule = rules.get(name)
        on = rule is not None and rule.on
        kind = policy.gate_class(name)
        row: dict[str, Any] = {"gate": name, "on": on, "on_rollback": kind.on_rollback}
        row["set_by"] = rule.decided_by.label if rule else None
        row["settings"] = kind(**rule.settings).model_dump(mode="json") if rule and on else {}
        rows.append(row)
    if as_json:
        typer.echo(json.dumps({**shown.origin(), "gates": rows}, indent=2))
        return
    table = Table(Column("gate", no_wrap=True), "", "settings", "set by", box=SIMPLE_HEAD)
    for row in rows:
        settings = "\n".join(f"{name}: {json.dumps(value)}" for name, value in row["settings"].items())
        mark = Text("on", "green") if row["on"] else Text("off", "dim")
        table.add_row(row["gate"], mark, settings, row["set_by"] or "-")
    console = common.console()
    console.print(f"Policy: {shown.source}", highlight=False)
    console.print(table)


@policy_app.command("gates")
def describe() -> None:
    """Describe every installed gate and its settings."""
    from mlflow_plugins.gates.policy import gate_class, gate_names

    for name in gate_names():
        gate = gate_class(name)
        typer.echo(f"{name}: {gate.about()}")
        for setting, field in gate.model_fields.items():
            default = "required" if field.is_required() else f"default {json.dumps(field.default)}"
            typer.echo(f"    {setting} ({default}): {field.description}")


def _readable(load: Callable[[], Policy]) -> Policy:
    from mlflow_plugins.gates.policy import PolicyError

    try:
        return load()
    except PolicyError as error:
        places = "\n".join(str(problem) for problem in error.problems)
        raise BadInputError(
            f"{error.source} cannot be used:\n{places}", hint="docs/promotion-gates.md describes the file."
        ) from error
