"""Settings: the environment before `.env`, that before the embedded stack's record; empty values are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from ai_hub.settings import STACK_RECORD, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_settings import PydanticBaseSettingsSource


class ByPydantic(Settings):
    """The same fields, read by pydantic's own sources, which know nothing of the stack's record."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return BaseSettings.settings_customise_sources(settings_cls, **sources)


NAMES = ("redis_url", "timescale_pooled", "feature_cache_ttl", "audit_log_path", "forecast_alarm_sigmas")
VALUES = st.sampled_from(["", "0", "1", "2.5", "yes", "null", "[1]", '{"a": 1}', " 7", "redis://h", "ä#b"])
GIVEN = st.dictionaries(st.sampled_from(NAMES), VALUES)


@given(
    environment=GIVEN,
    file=st.dictionaries(st.sampled_from(NAMES), st.none() | VALUES),
    record=GIVEN,
    upper=st.booleans(),
)
def test_settings__from_anywhere__are_those_of_pydantics_own_sources(
    environment: dict[str, str],
    file: dict[str, str | None],
    record: dict[str, str],
    upper: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AI_HUB_STATE_DIR", str(folder))
        for name in NAMES:
            patch.delenv(name.upper(), raising=False)
        for name, value in environment.items():
            patch.setenv(name.upper() if upper else name, value)
        lines = (
            name.upper() if value is None else f"{name.upper()}='{value}'" for name, value in file.items()
        )
        (folder / ".env").write_text("\n".join(lines))
        (folder / STACK_RECORD).write_text(json.dumps({"env": {n.upper(): v for n, v in record.items()}}))
        # what a person sets hides the record, which has no empty values
        rest = {
            name: value for name, value in record.items() if not environment.get(name) and not file.get(name)
        }
        assert _outcome(Settings) == _outcome(ByPydantic, **rest)


def test_settings__without_any_file__have_their_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(tmp_path / "nowhere"))
    monkeypatch.delenv("FEATURE_CACHE_TTL", raising=False)
    assert Settings().feature_cache_ttl == 300
    assert Settings(feature_cache_ttl=5).feature_cache_ttl == 5


def _outcome(kind: type[Settings], **given: Any) -> Any:
    try:
        return kind(**given).model_dump()
    except ValidationError as error:
        return [(problem["loc"], problem["type"]) for problem in error.errors()]
