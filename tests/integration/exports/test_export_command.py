"""`ai-hub export` and `ai-hub exports` as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from support.export_lab import selected
from typer.testing import CliRunner

from ai_hub.cli.exports import _follow
from ai_hub.cli.main import app
from ai_hub.db.transactions import transaction
from ai_hub.errors import AiHubError, ConflictError, NotFoundError
from ai_hub.exports import service
from ai_hub.exports.export import PathTakenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.export_lab import ExportLab

CLI = str(Path(sys.executable).with_name("ai-hub"))
_INTERRUPTED = 130


@pytest.fixture
def command(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """`export` of two days of the lab's tenant, into the lab's folder."""
    monkeypatch.setenv("EXPORT_STORAGE_PATH", str(lab.folder))
    request = lab.request()
    window = ["--start", request.start.isoformat(), "--end", request.end.isoformat()]
    yield ["export", "--tenant", request.tenant, "--feature-set", request.feature_set, *window]
    with transaction(lab.settings) as connection:
        connection.execute(
            "UPDATE jobs SET status = 'failed', error = 'of a test' WHERE tenant_id = %s",
            [request.tenant],
        )


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_export__is_done_here__and_listed(lab: ExportLab, command: list[str]) -> None:
    done = lab.energy.run("ai-hub", *command, "--output", "mine.parquet", "--json")
    assert done.returncode == 0, done.stderr
    job: dict[str, Any] = json.loads(done.stdout)
    expected = selected(lab.settings, lab.request())
    assert (job["status"], job["row_count"]) == ("completed", len(expected))
    table = pq.read_table(job["storage_path"])
    assert table["asset_id"].to_pylist() == [row["asset_id"] for row in expected]

    with pytest.raises(PathTakenError, match=job["export_id"]):
        run(*command, "--output", "mine.parquet")

    listed = json.loads(run("exports", "--tenant", lab.energy.main, "--limit", "1", "--json"))
    assert [each["export_id"] for each in listed] == [job["export_id"]]
    (line, *_) = run("exports", "--tenant", lab.energy.main).splitlines()
    assert line.startswith(job["export_id"])
    assert job["storage_path"] in line


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--feature-set", "nothing"), "nothing"),
        (("--output", "../../etc/passwd"), "output_path"),
        (("--end", "2020-01-01"), "end_time"),
        (("--start", "yesterday-ish"), "--start"),
        (("--asset", "nobody"), "nobody"),
    ],
    ids=["service", "path", "window", "time", "asset"],
)
def test_bad_input__says_what_is_wrong__and_leaves_no_job(
    lab: ExportLab, command: list[str], changed: tuple[str, ...], said: str
) -> None:
    before = json.loads(run("exports", "--tenant", lab.energy.main, "--json"))
    with pytest.raises(AiHubError, match=said):
        run(*command, *changed)
    assert json.loads(run("exports", "--tenant", lab.energy.main, "--json")) == before
    assert lab.files() == set()


@pytest.mark.parametrize("renewed", [True, False], ids=["renewed", "dead"])
def test_job_of_another_worker__is_taken_over_only_if_it_stays_overdue(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch, renewed: bool
) -> None:
    monkeypatch.setenv("EXPORT_STORAGE_PATH", str(lab.folder))
    job = lab.submit(lab.request())
    lab.change(job, "status = 'running', holder = 'other', fence = 1, lease_until = now() - interval '1 s'")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(_follow, lab.find(job), threading.Event(), lambda _done: None, own=False)
        if renewed:
            time.sleep(1)
            lab.change(job, "lease_until = now() + interval '1 hour'")
            time.sleep(3)
            lab.change(job, "status = 'failed', error = 'of the other'")
        done = following.result(60)
    expected = ("failed", "of the other", 1) if renewed else ("completed", None, 2)
    assert (done.status, done.error, done.fence) == expected


def test_ctrl_c__of_a_job_that_somebody_else_asked_for__goes_on(lab: ExportLab) -> None:
    job = lab.submit(lab.request())
    lab.change(
        job, "status = 'running', holder = 'other', fence = 1, lease_until = now() + interval '1 hour'"
    )
    stop = threading.Event()
    stop.set()
    assert _follow(lab.find(job), stop, lambda _done: None, own=False).status == "running"
    assert not lab.find(job).cancel_requested
    again = service.submit(lab.settings, lab.request(), export_id=uuid4())
    assert again.export_id == job.export_id


def test_ctrl_c__cancels_the_export(lab: ExportLab, command: list[str]) -> None:
    process = subprocess.Popen(
        [CLI, *command, "--start", "2019-01-01", "--partition-by", "month", "--output", "long", "--json"],
        env=os.environ | lab.energy.environment | {"EXPORT_STORAGE_PATH": str(lab.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 60
        while not any(".partial/" in name for name in lab.files()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == _INTERRUPTED
    job = json.loads(output)
    assert job["status"] == "failed"
    assert "Cancelled" in str(job)
    assert lab.files() == set()


def test_exports__fetched_and_deleted(
    lab: ExportLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EXPORT_STORAGE_PATH", str(lab.folder))
    monkeypatch.chdir(tmp_path)
    one = lab.export(lab.request(output_path="one.parquet"))
    months = lab.export(lab.request(hours=40 * 24, output_path="months", partition_by="month"))
    tenant = ["--tenant", lab.energy.main]
    run("exports", "download", str(one.export_id), *tenant)
    assert (tmp_path / "one.parquet").read_bytes() == Path(str(one.storage_path)).read_bytes()
    with pytest.raises(ConflictError, match="already"):
        run("exports", "download", str(one.export_id), *tenant)
    lines = run("exports", "download", str(months.export_id), *tenant, "--output", "here").splitlines()
    assert len(lines) >= 2
    assert sum(pq.ParquetFile(line).metadata.num_rows for line in lines) == months.row_count
    for job in (one, months):
        with pytest.raises(NotFoundError):
            run("exports", "delete", str(job.export_id), "--tenant", lab.energy.twin)
        assert "deleted" in run("exports", "delete", str(job.export_id), *tenant)
    assert lab.files() == set()


@pytest.mark.parametrize("name", ["worker", pytest.param("export-worker", marks=pytest.mark.long)])
def test_worker__sigterm_while_standard_input_is_open__ends_cleanly(lab: ExportLab, name: str) -> None:
    process = subprocess.Popen(
        [CLI, name, "--while-stdin-open"],
        env=os.environ | lab.energy.environment | {"EXPORT_STORAGE_PATH": str(lab.folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        job = lab.submit(lab.request(hours=4))
        deadline = time.monotonic() + 60
        while not lab.find(job).is_finished:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
