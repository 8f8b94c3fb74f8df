"""TimescaleDB: connections, migrations, and the refresh of computed features."""

from ai_hub.db.connection import connect

__all__ = ["connect"]
