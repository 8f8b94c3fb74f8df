"""The embedded servers, in the order people read them: their folders and ports, and the settings for clients.

A server that a setting replaces by an outside one is none of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from ai_hub import paths
from ai_hub.dev.api_server import ApiService
from ai_hub.dev.mlflow_server import MlflowService
from ai_hub.dev.record import ServiceRecord, StackRecord
from ai_hub.dev.redis_server import RedisService
from ai_hub.dev.s3_server import S3Service
from ai_hub.dev.service import PortSettings, Service, Site, choose_port
from ai_hub.dev.timescale_server import TimescaleService
from ai_hub.errors import BadInputError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource


SERVICES: dict[str, Service] = {
    service.name: service
    for service in (TimescaleService(), RedisService(), S3Service(), MlflowService(), ApiService())
}


def select(names: Iterable[str]) -> list[Service]:
    """Services by name; all of them when no name is given.

    Raises:
        BadInputError: no service has that name.
    """
    selected = list(names)
    if unknown := sorted(set(selected) - SERVICES.keys()):
        raise BadInputError(
            f"Unknown service: {', '.join(unknown)}.", hint=f"Known are {', '.join(SERVICES)}."
        )
    return [service for service in SERVICES.values() if not selected or service.name in selected]


#: Folder of the servers' logs in the state folder.
LOGS = "logs"


class PersonalSettings(Settings):
    """Settings a person made, in the environment or in `.env`; the embedded stack's record is left out."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Drop the last source."""
        every = super().settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )
        return every[:-1]

    def value(self, name: str) -> str | None:
        """Clear text of the setting with this variable name; None when it is not set or not a setting."""
        value = getattr(self, name.lower(), None)
        return value.get_secret_value() if isinstance(value, SecretStr) else value


def outside_address(service: Service, record: StackRecord) -> str | None:
    """Address of the outside server a person named for `service`; None when it is the stack's own."""
    value = PersonalSettings().value(service.setting)
    return None if value == record.env.get(service.setting) else value


def recorded_site(service: Service, record: StackRecord) -> Site:
    """Folder, ports and secrets of a recorded service."""
    person = PersonalSettings()
    entry = record.services[service.name]
    secrets = {name: person.value(name) or record.credential(name) for name in service.secrets}
    return Site(paths.state_dir() / service.name, entry.port, entry.ports, secrets)


def assign_ports(service: Service, record: StackRecord) -> None:
    """Give a stopped service its folder and ports in the record, those it had before if they are free."""
    old = record.services.get(service.name)
    log = paths.state_dir() / LOGS / f"{service.name}.log"
    for folder in (paths.state_dir() / service.name, log.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
    taken = {
        port
        for name, entry in record.services.items()
        if name != service.name
        for port in (entry.port, *entry.ports.values())
    }
    port = choose_port(
        configured=getattr(PortSettings(), service.port_field),
        recorded=old.port if old else None,
        taken=taken,
        variable=f"AI_HUB_{service.port_field.upper()}",
    )
    taken.add(port)
    extra: dict[str, int] = {}
    for name in service.extra_ports:
        extra[name] = choose_port(
            configured=None,
            recorded=old.ports.get(name) if old else None,
            taken=taken,
            variable=f"AI_HUB_{service.port_field.upper()}",
            distance=service.derived_ports.get(name, 0),
        )
        taken.add(extra[name])
    record.services[service.name] = ServiceRecord(
        port=port, ports=extra, endpoint=service.endpoint(port), log=log
    )


def record_settings(record: StackRecord, ours: Iterable[Service]) -> None:
    """Write the settings that lead to our servers into the record, and none for outside ones."""
    record.env = {
        "MODEL_STORAGE_BUCKET": PersonalSettings().model_storage_bucket,
        "FEAST_REGISTRY_URI": f"sqlite:///{paths.state_dir() / 'feast-registry.db'}",
    }
    for service in ours:
        record.env |= service.exports(recorded_site(service, record))


def recorded_services(record: StackRecord) -> list[Service]:
    """Services that are in the record and are not replaced by an outside server."""
    return [
        service
        for service in SERVICES.values()
        if service.name in record.services and outside_address(service, record) is None
    ]
