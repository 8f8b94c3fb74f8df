from __future__ import annotations

import subprocess
import sys

from ai_hub.cli.servers import Only
from ai_hub.dev.services import SERVICES

#: Seconds to import, each; only the commands that use them may pay for it.
HEAVY = ("mlflow", "feast", "pandas", "numpy", "pyarrow", "sqlalchemy", "boto3", "fastapi", "pydantic")


def test_command_line__starts_without_the_heavy_libraries() -> None:
    code = f"import sys, ai_hub.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only__lists_every_embedded_server() -> None:
    assert Only.__metadata__[0].help == f"just this service (repeatable): {', '.join(SERVICES)}"
