# ruff: noqa: INP001, T201 - a script that prints a table
"""`make house`: the size of the code in numbers, to be compared from release to release."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ai_hub", "feast_plugins", "mlflow_plugins")


class Module(NamedTuple):
    """Lines of one module, of its imports, and its public functions and classes."""

    lines: int
    imports: int
    names: int


def measure(path: Path) -> Module:
    """Count one module."""
    text = path.read_text()
    tree = ast.parse(text)
    imports = sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    names = sum(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        for node in tree.body
    )
    return Module(len(text.splitlines()), imports, names)


def main() -> None:
    """Print one row a package, and one of all."""
    rows = {name: [measure(path) for path in sorted((ROOT / name).rglob("*.py"))] for name in PACKAGES}
    rows["all"] = [module for modules in rows.values() for module in modules]
    print("| | modules | lines | median / p90 lines | import lines | public names |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, modules in rows.items():
        lines = [module.lines for module in modules if module.lines > 1]
        total = sum(lines)
        shown = f"{statistics.median(lines):.0f} / {statistics.quantiles(lines, n=10)[-1]:.0f}"
        imports = 100 * sum(module.imports for module in modules) / total
        names = sum(module.names for module in modules)
        print(f"| {name} | {len(lines)} | {total:,} | {shown} | {imports:.1f} % | {names:,} |")


if __name__ == "__main__":
    sys.exit(main())
