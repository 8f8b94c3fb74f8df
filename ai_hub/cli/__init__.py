"""The `ai-hub` command line."""

import sys

try:
    from ai_hub.cli.main import main
except ModuleNotFoundError as error:
    # an inference service installs the client alone
    if (error.name or "").startswith("ai_hub"):
        raise
    sys.exit(f"Error: {error.name} is not installed. Run `pip install 'ai-hub[server]'`.")

__all__ = ["main"]
