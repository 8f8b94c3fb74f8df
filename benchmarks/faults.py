"""Faults while the REST service is under load: each is made for real, and found out what it did.

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
from typing import TYPE_CHECKING

import psutil

from benchmarks import faults_report, faults_run, faults_servers, results, servers
from benchmarks.faults_ground import BUCKET, Ground, prepared
from benchmarks.faults_run import Fault, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.service_process import Service

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
    given = parser.parse_args()
    servers.clean_up_when_terminated()
    plan = SMALL if given.small else FULL
    folder = given.output or (results.SCRATCH if given.small else results.DOCS)
    kind = given.timescaledb or kinds[0]
    with ExitStack() as stack:
        name = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        if os.geteuid() == 0:
            name.chmod(0o755)
        _say("servers, readings, features")
        ground = stack.enter_context(prepared(name, kind, ASSETS, DAYS))
        disk = stack.enter_context(_small_disk(name)) if os.geteuid() == 0 else None
        for fault in [*_faults(disk), *_clocks(name)]:
            if given.only and not any(words in fault.name for words in given.only):
                continue
            _say(fault.name)
            record = faults_run.run(ground, fault, plan)
            _say(f"  {record['streams']} exports {record['exports']}")
            _say(f"  healthy {record['healthy_s']} s, gap {record['gap_s']} s, lost {record['lost']}")
            every = results.store(
                folder,
                [
                    {
                        "benchmark": BENCHMARK,
                        "server": kind,
                        "command": "make faults SMALL=1" if given.small else "make faults",
                        "sizes": {"assets": ASSETS, "days": DAYS, "rate": plan.rate},
                        "versions": servers.versions(ground.direct.variables["TIMESCALE_DSN"]),
                    }
                    | record
                    | results.circumstances()
                ],
            )
            faults_report.write(folder, results.select(every, BENCHMARK))
    print(f"written to {folder}")


def _faults(disk: Path | None) -> list[Fault]:
    """Every fault, in the order of the table."""
    found = [
        Fault("nothing"),
        *(_killed(name, title) for name, title in _TITLES.items()),
        Fault("S3 killed for 5 s, exports go there", _kill("s3"), _start("s3"), _S3),
        Fault("export worker killed", _kill_worker),
        Fault("export worker killed, exports go to S3", _kill_worker, variables=_S3),
        Fault("service killed", _kill_service, _start_service, seconds=0.0),
    ]
    for name, title in _TITLES.items():
        variables = _S3 if name == "s3" else {}
        found += [
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
        found.append(
            Fault(
                "disk of exports full for 8 s",
                lambda _ground, _service: _fill(disk),
                lambda _ground, _service: _empty(disk),
                {"EXPORT_STORAGE_PATH": str(disk)},
                seconds=8.0,
            )
        )
    return found


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
    """While it has an export under way, if that can be seen."""
    del ground
    if service.process is None:
        return
    for child in psutil.Process(service.process.pid).children(recursive=True):
        if "worker" in child.cmdline():
            child.kill()


def _kill_service(ground: Ground, service: Service) -> None:
    """The service alone: its worker has to find out by itself."""
    del ground
    if service.process is not None:
        service.process.kill()
        service.process.wait()


def _start_service(ground: Ground, service: Service) -> None:
    del ground
    service.start()


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of some megabytes."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _fill(disk: Path) -> None:
    found = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, found.f_bavail * found.f_frsize - _LEFT_BYTES)))


def _empty(disk: Path) -> None:
    (disk / "filler").unlink()


def _clocks(folder: Path) -> Iterator[Fault]:
    """The service's clock is wrong from its start on; needs a C compiler."""
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


if __name__ == "__main__":
    main()
