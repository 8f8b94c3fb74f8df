"""`python -m ai_hub.cli` is `ai-hub`."""

from ai_hub.cli import main

main()
