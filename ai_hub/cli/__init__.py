"""The `ai-hub` command line."""

from ai_hub.cli.main import main

__all__ = ["main"]
