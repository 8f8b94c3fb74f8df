"""Faults while the REST service is under load: each is caused for real, and its effects are measured.

    python -m benchmarks.faults [--small] [--timescaledb native|embedded] [--only WORDS] [--output FOLDER]

Runs `ai-hub serve` with its export worker against servers of its own, with a TCP proxy in front of each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import faults_run, faults_servers, measure, servers
from benchmarks.faults_run import Fault, Plan
from benchmarks.faults_servers import BUCKET, Ground, prepared
from benchmarks.measure import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.service_site import Service


BENCHMARK = "faults"
ASSETS, DAYS = 50, 20
FULL, SMALL = Plan(), Plan(before=2, after=8, rate=50)
_S3 = {"EXPORT_STORAGE_PATH": f"s3://{BUCKET}/faults"}
_DISK_MIB = 24
_CLOCK = Path(__file__).with_name("shifted_clock.c")
_LEFT_BYTES = 200_000


def main() -> None:
    """Run the faults and write results and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--small", action="store_true", help="shorter, with less load")
    kinds = ("native", "embedded") if faults_servers.has_native() else ("embedded",)
    parser.add_argument("--timescaledb", choices=kinds, help="which one (default: native where there is one)")
    parser.add_argument("--only", action="append", help="faults with these words in their names; repeatable")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/benchmarks)")
    arguments = parser.parse_args()
    servers.clean_up_when_terminated()
    plan = SMALL if arguments.small else FULL
    folder = arguments.output or (measure.SCRATCH if arguments.small else measure.DOCS)
    kind = arguments.timescaledb or kinds[0]
    with ExitStack() as stack:
        name = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        if os.geteuid() == 0:
            name.chmod(0o755)
        _say("servers, readings, features")
        ground = stack.enter_context(prepared(name, kind, ASSETS, DAYS))
        disk = stack.enter_context(_small_disk(name)) if os.geteuid() == 0 else None
        for fault in [*_faults(disk), *_clocks(name)]:
            if arguments.only and not any(words in fault.name for words in arguments.only):
                continue
            _say(fault.name)
            record = faults_run.run(ground, fault, plan)
            _say(f"  {record['streams']} exports {record['exports']}")
            _say(f"  healthy {record['healthy_s']} s, gap {record['gap_s']} s, lost {record['lost']}")
            records = measure.store(
                folder,
                [
                    {
                        "benchmark": BENCHMARK,
                        "server": kind,
                        "command": "make faults SMALL=1" if arguments.small else "make faults",
                        "sizes": {"assets": ASSETS, "days": DAYS, "rate": plan.rate},
                        "versions": servers.versions(ground.direct.variables["TIMESCALE_DSN"]),
                    }
                    | record
                    | measure.circumstances()
                ],
            )
            write_report(folder, measure.select(records, BENCHMARK))
    print(f"written to {folder}")


def _faults(disk: Path | None) -> list[Fault]:
    """Every fault, in the order of the table."""
    faults = [
        Fault("nothing"),
        *(_killed(name, title) for name, title in _TITLES.items()),
        Fault("S3 killed for 5 s, exports go there", _kill("s3"), _start("s3"), _S3),
        Fault("export worker killed", _kill_worker),
        Fault("export worker killed, exports go to S3", _kill_worker, variables=_S3),
        Fault("service killed", _kill_service, _start_service, seconds=0.0),
    ]
    for name, title in _TITLES.items():
        variables = _S3 if name == "s3" else {}
        faults += [
            Fault(f"connections to {title} reset", _proxy(name, "reset"), variables=variables, seconds=1.0),
            Fault(
                f"network to {title} silent for 8 s",
                _proxy(name, "stall"),
                _proxy(name, "heal"),
                variables,
                seconds=8.0,
            ),
        ]
    if disk:
        faults.append(
            Fault(
                "disk of exports full for 8 s",
                lambda _ground, _service: _fill(disk),
                lambda _ground, _service: _empty(disk),
                {"EXPORT_STORAGE_PATH": str(disk)},
                seconds=8.0,
            )
        )
    return faults


_TITLES = {"redis": "Redis", "timescaledb": "TimescaleDB", "s3": "S3", "mlflow": "MLflow"}


def _killed(name: str, title: str) -> Fault:
    return Fault(f"{title} killed for 5 s", _kill(name), _start(name))


def _kill(name: str) -> Callable[[Ground, Service], None]:
    return lambda ground, _service: ground.servers[name].kill()


def _start(name: str) -> Callable[[Ground, Service], None]:
    return lambda ground, _service: ground.servers[name].start()


def _proxy(name: str, what: str) -> Callable[[Ground, Service], None]:
    return lambda ground, _service: getattr(ground.proxies[name], what)()


def _kill_worker(ground: Ground, service: Service) -> None:
    """Kill the worker process of the service."""
    del ground
    if service.process is None:
        return
    for child in psutil.Process(service.process.pid).children(recursive=True):
        if "worker" in child.cmdline():
            child.kill()


def _kill_service(ground: Ground, service: Service) -> None:
    """Kill the service alone, and not its worker."""
    del ground
    if service.process is not None:
        service.process.kill()
        service.process.wait()


def _start_service(ground: Ground, service: Service) -> None:
    del ground
    service.start()


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    mount_point = folder / "disk"
    mount_point.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(mount_point)], check=True
    )
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def _fill(disk: Path) -> None:
    usage = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, usage.f_bavail * usage.f_frsize - _LEFT_BYTES)))


def _empty(disk: Path) -> None:
    (disk / "filler").unlink()


def _clocks(folder: Path) -> Iterator[Fault]:
    """Faults of the service's clock, wrong from its start on; needs a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        _say("no C compiler: clocks are not shifted")
        return
    library = folder / "shifted_clock.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_CLOCK), "-ldl"], check=True)
    for title, shift in (
        ("3 min ahead", 180),
        ("3 min behind", -180),
        ("3 h ahead", 10_800),
        ("3 h behind", -10_800),
    ):
        variables = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_S": str(shift)}
        yield Fault(f"service's clock {title}", variables=variables, lasting=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_INTRO = """# Faults

Each fault is made for real while `ai-hub serve` (one worker, keys, its export worker) answers {rate:.0f}
requests a second for the newest features of {assets} meters of two tenants, a tenth of that for features at a
past time, lists models, and takes a registration and an export a second; a further client stores readings.
A TCP proxy in Python stands between the service and each server. Killed is SIGKILL to all processes of a
server; the harness starts it again as a supervisor would. Nobody does anything else.

What clients saw counts answers from the moment of the fault on. Healthy is how long after the fault was over
the last answer came that was not a full 200, or `/health/ready` did not say `ready`. Lost compares the served
features of every meter and all readings before and after, and looks for every confirmed reading of the
writing client, every registered version, and of each accepted export its job, row count and SHA-256. Before
the fault are the first seconds after the service's start, in which it loads the registry and its libraries.
A wrong clock is wrong from the service's start on, its worker's too, and stays so; readiness names S3 where
it refuses signatures for their time, as S3 does from 15 minutes on.

Made by `{command}` on {cpus} CPUs, {memory} GiB, {system}. Code {commit},
{measured_at}.
"""
_HEAD = (
    *(
        "fault",
        "newest features",
        "past features",
        "models",
        "registrations",
        "exports",
        "p99 before",
        "p99 during",
    ),
    *("longest gap", "restart took", "healthy after", "lost"),
)


def write_report(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `faults.md`."""
    first = records[0]
    sizes = first["sizes"]
    text = [_INTRO.format(rate=sizes["rate"], assets=sizes["assets"], **measure.description(first))]
    for server in ("native", "embedded"):
        chosen = [record for record in records if record["server"] == server]
        if not chosen:
            continue
        software = chosen[0]["versions"]
        text += [
            f"## {server.title()} TimescaleDB\n",
            f"PostgreSQL {software['postgresql']}, TimescaleDB {software['timescaledb']}.\n",
            f"| {' | '.join(_HEAD)} |",
            f"|---|{'---|' * 5}{'---:|' * 5}---|",
            *(_row(record) for record in chosen),
            "",
        ]
        if messages := _messages(chosen):
            text += ["What refused requests were told:\n", *messages, ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text("\n".join(text))


def _row(record: dict[str, Any]) -> str:
    streams, seconds = record["streams"], record["seconds"]
    cells = [
        record["work"],
        *(_stream(streams[name]) for name in ("features", "past features", "models")),
        _registrations(record["registrations"]),
        _exports(record["exports"]),
        *(
            "" if seconds[when] is None else format_time(seconds[when]["p99"])
            for when in ("before", "during")
        ),
        f"{record['gap_s']:.2f} s",
        f"{record['restart_s']:.1f} s" if record["restart_s"] > 0.1 else "",  # noqa: PLR2004  # a tenth
        _healthy(record),
        "; ".join(record["lost"]) or "nothing",
    ]
    return f"| {' | '.join(cells)} |"


def _healthy(record: dict[str, Any]) -> str:
    if not record["lasting"]:
        return f"**{record['healthy_s']:.1f} s**"
    down = ", ".join(record["not ready"])
    return f"not ready while it lasts: {down}" if down else "ready all the time"


def _stream(answers: dict[str, Any]) -> str:
    total = sum(answers["statuses"].values())
    others = {status: count for status, count in answers["statuses"].items() if status not in {"0", "200"}}
    parts = [f"{count} of {total} {status}" for status, count in others.items()]
    parts += [f"{count} {ending}" for ending, count in answers["failures"].items()]
    if answers["degraded"]:
        parts.append(f"{answers['degraded']} of {total} degraded")
    return ", ".join(parts) or f"all {total} 200"


def _registrations(statuses: dict[str, int]) -> str:
    good = statuses.get("201", 0)
    others = [
        f"{count} unanswered" if status == "0" else f"{count} answered {status}"
        for status, count in statuses.items()
        if status != "201"
    ]
    return ", ".join([f"{good} of {sum(statuses.values())} done", *others])


def _exports(exports: dict[str, Any]) -> str:
    others = {status: count for status, count in exports["statuses"].items() if status != "202"}
    parts = [f"{exports['completed']} of {exports['accepted']} completed"]
    parts += [
        f"{count} answered {status}" if status != "0" else f"{count} unanswered"
        for status, count in others.items()
    ]
    if exports["failed"]:
        parts.append(f"{len(exports['failed'])} failed with a reason")
    if exports["taken up again"]:
        parts.append(f"{exports['taken up again']} taken up again")
    return ", ".join(parts)


def _messages(records: Sequence[dict[str, Any]]) -> list[str]:
    """Distinct error messages by status, as lines."""
    messages = {
        f"- {status}: {message}": None
        for record in records
        for stream in record["streams"].values()
        for status, message in stream["said"].items()
    }
    reasons = {f"- export failed: {why}": None for record in records for why in record["exports"]["failed"]}
    return [*messages, *reasons]


if __name__ == "__main__":
    main()
