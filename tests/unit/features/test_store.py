from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ai_hub.errors import SettingMissingError
from ai_hub.features.store import open_store, repo_config
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = 'it\'s: "a" #{pass}\\${word}%'


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TIMESCALE_DSN", "REDIS_URL", "FEAST_REGISTRY_URI", "PGHOST", "PGPORT", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_open_store__any_password__reaches_both_stores(tmp_path: Path) -> None:
    store = open_store(
        Settings(
            timescale_dsn=f"postgresql://me:{quote(PASSWORD, safe='')}@db.local:5433/meters?sslmode=require",
            redis_url="redis://:secret@cache.example:6380/2",
            feast_registry_uri=f"sqlite:///{tmp_path / 'registry.db'}",
        )
    )
    offline = store.config.offline_store
    assert (offline.host, offline.port, offline.database, offline.user) == (
        "db.local",
        5433,
        "meters",
        "me",
    )
    assert offline.password == PASSWORD
    assert offline.sslmode == "require"
    assert store.config.online_store.connection_string == "cache.example:6380,db=2,password=secret"
    assert store.project == "ai_hub"


def test_open_store__nothing_configured__names_the_setting_a_person_sets() -> None:
    with pytest.raises(SettingMissingError) as caught:
        open_store(Settings())
    assert caught.value.name in {"FEAST_REGISTRY_URI", "TIMESCALE_DSN", "REDIS_URL"}
    assert "ai-hub up" in (caught.value.hint or "")


def test_pooled__registry_is_reached_with_a_driver_that_prepares_nothing() -> None:
    settings = Settings(
        timescale_dsn="postgresql://me:secret@pooler/meters",
        redis_url="redis://cache",
        feast_registry_uri="postgresql+psycopg://me:secret@pooler/feast",
    )
    assert repo_config(settings).registry.path == "postgresql+psycopg://me:secret@pooler/feast"
    pooled = settings.model_copy(update={"timescale_pooled": True})
    assert repo_config(pooled).registry.path == "postgresql+psycopg2://me:secret@pooler/feast"
    assert pooled.environment()["TIMESCALE_POOLED"] == "True"
