"""Entry point of `feast`: Feast's own command line, where each command works here or says what to do."""

from __future__ import annotations

import sys

from ai_hub.cli.main import run
from ai_hub.imports import collect_garbage_less_often, skip_type_checks, without

#: They read what users declare, so they keep Feast's checks of its constructors.
_DECLARING = frozenset({"apply", "plan"})


def main() -> None:
    """Run the command line; a failure becomes a message on stderr and an exit status."""
    collect_garbage_less_often()
    if _DECLARING.isdisjoint(sys.argv):
        skip_type_checks()
    # Imported late: it imports Feast, whose commands print trees by a library that would import matplotlib.
    with without("matplotlib"):
        from ai_hub.cli.feast_commands import commands

    run(commands)
