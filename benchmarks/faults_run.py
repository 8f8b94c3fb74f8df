"""Run of one fault under load: what clients saw, what was lost, and the time to recovery."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Self
from uuid import uuid4

import numpy as np
import psycopg

from ai_hub.db import connect
from benchmarks import service_site
from benchmarks.faults_servers import Ground, differing
from benchmarks.history import this_hour
from benchmarks.service_load import Load, Outcome, Stream
from benchmarks.service_site import TENANTS, Service

FAST, PAST, MODELS = "features", "past features", "models"
_PATTERNS = ('"degraded":true',)
_WRITER = "writer"
_DONE_S = 120
#: Load ends some time after the fault, or then.
_LONGEST_S = 300
_OK = HTTPStatus.OK


@dataclass(frozen=True)
class Fault:
    """A fault, and how an operator heals it."""

    name: str
    hurt: Callable[[Ground, Service], None] = lambda _ground, _service: None
    heal: Callable[[Ground, Service], None] = lambda _ground, _service: None
    #: settings of the service
    variables: Mapping[str, str] = field(default_factory=dict)
    #: seconds between the two
    seconds: float = 5.0
    #: it is there from the service's start on, and stays
    lasting: bool = False


@dataclass(frozen=True)
class Plan:
    """Seconds of load before and after a fault, and requests per second."""

    before: float = 3.0
    after: float = 12.0
    rate: float = 100.0


class _Repeating(threading.Thread):
    """Repeats a function until it is stopped."""

    def __init__(self, work: Callable[[], None], pause: float) -> None:
        super().__init__(daemon=True)
        self._work, self._pause = work, pause
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            with suppress(OSError, psycopg.Error, Exception):
                self._work()
            self._ended.wait(self._pause)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def run(ground: Ground, fault: Fault, plan: Plan) -> dict[str, Any]:
    """Run the fault."""
    service = ground.service(dict(fault.variables))
    with ExitStack() as stack:
        stack.enter_context(service_site.running(service))
        before = ground.state(service)
        exports, writer, watcher = Exports(ground, service), Writer(ground), Watcher(service)
        registrar = Registrar(ground, service)
        earlier_jobs = set(ground.jobs())
        load = stack.enter_context(Load(service.port, _streams(ground, plan)))
        with (
            _Repeating(exports.submit, 1.0),
            _Repeating(registrar.register, 1.0),
            _Repeating(writer.write, 0.1),
            _Repeating(watcher.look, 0.2),
        ):
            time.sleep(plan.before)
            hurt = time.monotonic()
            fault.hurt(ground, service)
            time.sleep(fault.seconds)
            over = time.monotonic()
            fault.heal(ground, service)
            healed = time.monotonic()
            time.sleep(plan.after)
            load.stop()
            outcomes = load.outcomes()
        finished = exports.wait()
        after = ground.state(service)
        jobs = {name: job for name, job in ground.jobs().items() if name not in earlier_jobs}
        return {
            "work": fault.name,
            "lasting": fault.lasting,
            "streams": {name: _answers(outcome, hurt) for name, outcome in outcomes.items()},
            "seconds": {
                "before": _times(outcomes[FAST], 0, hurt),
                "during": _times(outcomes[FAST], hurt, over),
                "after": _times(outcomes[FAST], healed, float("inf")),
            },
            "restart_s": round(healed - over, 2),
            "gap_s": round(_gap(outcomes[FAST]), 3),
            "healthy_s": round(_healthy(outcomes, watcher, healed), 2),
            "not ready": sorted(watcher.down),
            "exports": exports.record(jobs) | {"all done after": round(max(0.0, finished - healed), 1)},
            "registrations": registrar.statuses,
            "lost": [*differing(before, after), *exports.lost(jobs), *writer.lost(), *registrar.lost()],
        }


def _streams(ground: Ground, plan: Plan) -> list[Stream]:
    seconds = _LONGEST_S
    hour = this_hour() - timedelta(hours=30)
    pairs = [(asset, tenant) for asset in ground.assets for tenant in TENANTS]
    headers = [{"x-api-key": ground.keys[tenant]} for _, tenant in pairs]
    one = [{"tenant_id": tenant, "asset_id": asset} for asset, tenant in pairs]
    now = [json.dumps(body | {"feature_set": "forecast_basic"}) for body in one]
    past = [
        json.dumps(body | {"feature_set": "forecast_advanced", "timestamp": hour.isoformat()}) for body in one
    ]
    get = "/ai/features/get"
    return [
        Stream(
            FAST, "POST", get, now, seconds, rate=plan.rate, headers=headers, patterns=_PATTERNS, timeout=10
        ),
        Stream(
            PAST,
            "POST",
            get,
            past,
            seconds,
            rate=plan.rate / 10,
            headers=headers,
            patterns=_PATTERNS,
            timeout=10,
        ),
        Stream(
            MODELS,
            "GET",
            f"/ai/models/?tenant_id={TENANTS[0]}",
            [""],
            seconds,
            rate=2,
            headers=headers[:1],
            timeout=10,
        ),
    ]


class Exports:
    """Submits exports, and checks those that were accepted."""

    def __init__(self, ground: Ground, service: Service) -> None:
        self._ground, self._service = ground, service
        self._accepted: list[str] = []
        self._statuses: dict[str, int] = {}
        end = this_hour() - timedelta(hours=1)
        self._window = {
            "start_time": (end - timedelta(days=ground.days - 1)).isoformat(),
            "end_time": end.isoformat(),
        }
        self._rows = len(ground.assets) * (ground.days - 1) * 24

    def submit(self) -> None:
        """Submit one more."""
        tenant = TENANTS[len(self._accepted) % len(TENANTS)]
        request = {"tenant_id": tenant, "feature_set": "forecast_advanced", "idempotency_key": str(uuid4())}
        status, answer = 0, None
        try:
            status, answer = self._service.ask(
                "POST",
                "/ai/features/export?wait_s=0",
                request | self._window,
                key=self._ground.keys[tenant],
                timeout=10,
            )
        finally:
            self._statuses[str(status)] = self._statuses.get(str(status), 0) + 1
        if status == HTTPStatus.ACCEPTED:
            self._accepted.append(answer["export_id"])

    def wait(self) -> float:
        """Wait until all have ended, or for two minutes; returns the monotonic time."""
        deadline = time.monotonic() + _DONE_S
        while time.monotonic() < deadline:
            jobs = self._ground.jobs()
            if all(
                jobs[name]["status"] in {"completed", "failed"} for name in self._accepted if name in jobs
            ):
                break
            time.sleep(0.2)
        return time.monotonic()

    def record(self, jobs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """Counts by status."""
        ended = [jobs[name] for name in self._accepted if name in jobs]
        return {
            "statuses": self._statuses,
            "accepted": len(self._accepted),
            "completed": sum(job["status"] == "completed" for job in ended),
            "failed": [job["error"] for job in ended if job["status"] == "failed"],
            "taken up again": sum(job["attempts"] > 1 for job in ended),
        }

    def lost(self, jobs: Mapping[str, dict[str, Any]]) -> list[str]:
        """Accepted exports that are missing, did not end, or have a wrong file, as messages."""
        errors = []
        for name in self._accepted:
            job = jobs.get(name)
            if job is None:
                errors.append(f"export {name} is gone")
            elif job["status"] not in {"completed", "failed"}:
                errors.append(f"export {name} is still {job['status']}")
            elif job["status"] == "completed":
                if job["row_count"] != self._rows:
                    errors.append(f"export {name} has {job['row_count']} rows of {self._rows}")
                elif self._ground.digest(job["storage_path"]) != job["sha256"]:
                    errors.append(f"export {name} has other bytes")
        return errors


class Registrar:
    """Registers versions of a model, and checks those that the service has confirmed."""

    def __init__(self, ground: Ground, service: Service) -> None:
        self._ground, self._service = ground, service
        self._model = f"model-{uuid4().hex[:12]}"
        self._confirmed: list[str] = []
        self.statuses: dict[str, int] = {}

    def register(self) -> None:
        """Register one more version, with a file of its own."""
        content = base64.b64encode(uuid4().bytes).decode()
        request = {
            "tenant_id": TENANTS[0],
            "model_name": self._model,
            "metadata": {"model_type": "demand_forecast"},
            "artifact": {"type": "upload", "files": [{"path": "weights.bin", "content": content}]},
        }
        status, answer = 0, None
        try:
            status, answer = self._service.ask(
                "POST", "/ai/models/register", request, key=self._ground.keys[TENANTS[0]], timeout=20
            )
        finally:
            self.statuses[str(status)] = self.statuses.get(str(status), 0) + 1
        if status == HTTPStatus.CREATED:
            self._confirmed.append(answer["version"])

    def lost(self) -> list[str]:
        """Number of confirmed versions that are missing, as a message."""
        versions = self._ground.versions(self._service, self._model) if self._confirmed else []
        missing = set(self._confirmed) - set(versions)
        return [f"{len(missing)} of {len(self._confirmed)} registered versions"] if missing else []


class Writer:
    """Stores readings of a tenant of its own, and checks those that the database has confirmed."""

    def __init__(self, ground: Ground) -> None:
        self._dsn = ground.direct.variables["TIMESCALE_DSN"]
        self._asset = f"meter-{uuid4().hex[:12]}"
        self._confirmed: list[int] = []
        self._next = 0

    def write(self) -> None:
        """Store one more reading."""
        self._next += 1
        with psycopg.connect(self._dsn, connect_timeout=5) as connection:
            connection.execute(
                'INSERT INTO timeseries_data (tenant_id, asset_id, "timestamp", value)'
                " VALUES (%s, %s, to_timestamp(%s), %s)",
                [_WRITER, self._asset, this_hour().timestamp() - 86_400 + self._next, self._next],
            )
        self._confirmed.append(self._next)

    def lost(self) -> list[str]:
        """Number of confirmed readings that are missing, as a message."""
        with connect(self._dsn) as connection:
            rows = connection.execute(
                "SELECT value::int FROM timeseries_data WHERE tenant_id = %s AND asset_id = %s",
                [_WRITER, self._asset],
            ).fetchall()
        missing = set(self._confirmed) - {value for (value,) in rows}
        return [f"{len(missing)} of {len(self._confirmed)} confirmed readings"] if missing else []


class Watcher:
    """Polls `/health/ready`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        #: time, and whether all was well
        self.looks: list[tuple[float, bool]] = []
        #: servers that it named
        self.down: set[str] = set()

    def look(self) -> None:
        """Poll once."""
        well = False
        try:
            status, answer = self._service.ask("GET", "/health/ready", timeout=5)
            well = status == _OK and answer["status"] == "ready"
            self.down |= {
                name for name, dependency in answer["dependencies"].items() if dependency["status"] != "ok"
            }
        finally:
            self.looks.append((time.monotonic(), well))


def _ends(outcome: Outcome) -> np.ndarray:
    return np.array(outcome.scheduled) + np.array(outcome.seconds)


def _is_bad(outcome: Outcome) -> np.ndarray:
    return (np.array(outcome.status) != _OK) | (np.array(outcome.matches) != 0)


def _answers(outcome: Outcome, hurt: float) -> dict[str, Any]:
    """Answers since the fault began, by status; failures of requests without an answer; degraded answers."""
    since = np.array(outcome.scheduled) >= hurt
    values, counts = np.unique(np.array(outcome.status)[since], return_counts=True)
    return {
        "statuses": {str(value): int(count) for value, count in zip(values, counts, strict=True)},
        "failures": outcome.failures,
        "degraded": int((np.array(outcome.matches)[since] != 0).sum()),
        "said": {
            status: _message(body) for status, body in outcome.samples.items() if status not in {"0", "200"}
        },
    }


def _message(body: str) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        return body[:200]
    return str(answer.get("message") or answer.get("detail") or answer)[:200]


def _times(outcome: Outcome, since: float, until: float) -> dict[str, Any] | None:
    scheduled, seconds = np.array(outcome.scheduled), np.array(outcome.seconds)
    chosen = seconds[(scheduled >= since) & (scheduled < until) & (np.array(outcome.status) == _OK)]
    if not len(chosen):
        return None
    return {
        "median": round(float(np.percentile(chosen, 50)), 5),
        "p99": round(float(np.percentile(chosen, 99)), 5),
        "runs": len(chosen),
    }


def _gap(outcome: Outcome) -> float:
    """Longest time without an answer of 200, from the first request to the last answer."""
    ends = _ends(outcome)
    good = ends[np.array(outcome.status) == _OK]
    return float(np.diff(np.sort([min(outcome.scheduled), *good, ends.max()])).max())


def _healthy(outcomes: Mapping[str, Outcome], watcher: Watcher, healed: float) -> float:
    """Seconds from the end of the fault until the last bad answer, readiness included."""
    bad = [when for when, well in watcher.looks if not well]
    for name in (FAST, PAST):
        bad += _ends(outcomes[name])[_is_bad(outcomes[name])].tolist()
    return max([0.0, *(when - healed for when in bad)])
