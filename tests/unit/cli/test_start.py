from __future__ import annotations

import subprocess
import sys

#: Seconds to import, each; only the commands that use them may pay for it.
HEAVY = ("mlflow", "feast", "pandas", "numpy", "pyarrow", "sqlalchemy", "boto3", "fastapi")


def test_command_line__starts_without_the_heavy_libraries() -> None:
    code = f"import sys, ai_hub.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
