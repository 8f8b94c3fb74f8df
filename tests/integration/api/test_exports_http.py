"""Exports over HTTP: what is taken, what is refused, and waiting for a job."""

from __future__ import annotations

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pyarrow.parquet as pq
import pytest
from support.export_worker import worker_of
from support.service_server import running_service

from ai_hub.api.schemas.exports import ExportJob, ExportList
from ai_hub.db.transactions import transaction
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

LIMIT = 6


@pytest.fixture(scope="module")
def settings(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    del energy
    folder = tmp_path_factory.mktemp("exports")
    return Settings(export_storage_path=str(folder), export_jobs_per_tenant=LIMIT)


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[httpx.Client]:
    options = ServiceSettings(auth="off")
    with (
        running_service(settings, options) as address,
        httpx.Client(base_url=f"{address}/ai/features", timeout=60) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def no_unfinished_jobs(settings: Settings) -> Iterator[None]:
    yield
    with transaction(settings) as connection:
        connection.execute(
            "UPDATE jobs SET status = 'failed', error = 'of a test' WHERE status IN ('pending', 'running')"
        )


@pytest.fixture
def body(energy: Energy) -> dict[str, Any]:
    """A valid request."""
    return {
        "tenant_id": energy.main,
        "feature_set": "forecast_basic",
        "start_time": (energy.now - timedelta(days=2)).isoformat(),
        "end_time": energy.now.isoformat(),
    }


def post(service: httpx.Client, body: dict[str, Any], wait_s: float = 0, **headers: str) -> httpx.Response:
    return service.post("/export", params={"wait_s": wait_s}, json=body, headers=headers)


def test_export__that_ends_in_time__is_answered_finished(
    service: httpx.Client, settings: Settings, body: dict[str, Any]
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=worker_of(settings, stop).run)
    thread.start()
    try:
        answer = post(service, body, wait_s=60)
    finally:
        stop.set()
        thread.join()
    assert answer.status_code == 202
    job = ExportJob.model_validate(answer.json())
    assert set(answer.json()) == set(ExportJob.model_fields)
    assert (job.status, job.progress, job.error) == ("completed", 1, None)
    size = Path(str(job.storage_path)).stat().st_size
    assert (job.file_size_bytes, job.file_size_mb) == (size, round(size / 1e6, 3))
    assert job.message == f"Completed: {job.row_count:,} rows."
    again = service.get(f"/exports/{job.export_id}", params={"tenant_id": body["tenant_id"]})
    assert ExportJob.model_validate(again.json()) == job


def test_export__that_does_not_end_in_time__is_answered_as_it_is(
    service: httpx.Client, body: dict[str, Any]
) -> None:
    answer = post(service, body, wait_s=0.3)
    assert answer.status_code == 202
    assert answer.json()["status"] == "pending"
    assert answer.json()["storage_path"] is None


def test_client_that_hangs_up__makes_room_for_others(settings: Settings, body: dict[str, Any]) -> None:
    options = ServiceSettings(auth="off", max_in_flight=2)
    with (
        running_service(settings, options) as address,
        httpx.Client(base_url=f"{address}/ai/features", timeout=60) as client,
    ):
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                client.post("/export", params={"wait_s": 300}, json=body, timeout=1)
        answers = [client.get("/exports", params={"tenant_id": body["tenant_id"]}) for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        # nobody else waits, so this one may
        assert post(client, body, wait_s=0.5).elapsed > timedelta(seconds=0.5)


@pytest.mark.parametrize("key", [None, "a-key"])
def test_equal_requests_at_once__are_one_job(
    service: httpx.Client, body: dict[str, Any], key: str | None
) -> None:
    wanted = body | {"output_path": f"{uuid4()}.parquet"}
    if key:
        key = f"{key}-{uuid4()}"
        wanted["idempotency_key"] = key
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(service, wanted), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["export_id"] for answer in answers}) == 1


def test_key__in_header_or_body__is_the_same_and_of_one_request(
    service: httpx.Client, body: dict[str, Any], energy: Energy
) -> None:
    key = str(uuid4())
    first = post(service, body | {"idempotency_key": key}).json()
    header = {"Idempotency-Key": key}
    assert post(service, body, **header).json()["export_id"] == first["export_id"]
    other = post(service, body | {"feature_set": "anomaly_detection"}, **header)
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    differing = post(service, body | {"idempotency_key": "another"}, **header)
    assert differing.status_code == 400
    elsewhere = post(service, body | {"tenant_id": energy.twin}, **header)
    assert elsewhere.status_code == 202
    assert elsewhere.json()["export_id"] != first["export_id"]


def test_without_key__a_cancelled_job_is_not_the_request_any_more(
    service: httpx.Client, body: dict[str, Any]
) -> None:
    first = post(service, body).json()
    place = f"/exports/{first['export_id']}"
    tenant = {"tenant_id": body["tenant_id"]}
    assert post(service, body).json()["export_id"] == first["export_id"]
    cancelled = service.post(f"{place}/cancel", params=tenant)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "failed")
    assert cancelled.json()["error"] == "Cancelled on request."
    assert post(service, body).json()["export_id"] != first["export_id"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"end_time": "2020-01-01T00:00:00Z"}, 400),
        ({"start_time": "2199-01-01T00:00:00Z", "end_time": "2199-02-01T00:00:00Z"}, 400),
        ({"start_time": "1999-01-01T00:00:00Z"}, 400),
        ({"output_path": "../grid-two/x.parquet"}, 400),
        ({"output_path": "/etc/x.parquet"}, 400),
        ({"output_path": "a\x00.parquet"}, 400),
        ({"output_path": "C:\\x.parquet"}, 400),
        ({"output_path": "x.csv"}, 400),
        ({"feature_set": "nothing_like_it"}, 404),
        ({"asset_ids": ["1", "ghost-asset"]}, 404),
        ({"feature_set": "x; DROP TABLE assets"}, 422),
        ({"tenant_id": "../x"}, 422),
        ({"start_time": 5}, 422),
        ({"start_time": "2026-01-01T00:00:00"}, 422),
        ({"asset_ids": []}, 422),
        ({"partition_by": "day"}, 422),
        ({"idempotency_key": "a\nb"}, 422),
        ({"unknown": 1}, 422),
    ],
    ids=range(18),
)
def test_request_that_cannot_be__is_refused_and_makes_no_job(
    service: httpx.Client, body: dict[str, Any], changes: dict[str, Any], status: int
) -> None:
    def total() -> int:
        found = service.get("/exports", params={"tenant_id": body["tenant_id"]}).json()["total"]
        return int(found)

    before = total()
    answer = post(service, body | changes)
    assert answer.status_code == status, answer.text
    assert {"error", "message", "hint"} <= set(answer.json())
    assert total() == before


def test_path_of_another_job__is_refused(service: httpx.Client, body: dict[str, Any]) -> None:
    name = str(uuid4())
    assert post(service, body | {"output_path": f"{name}.parquet"}).status_code == 202
    for path, by in (
        (f"{name}.parquet", {"feature_set": "forecast_advanced"}),
        (f"{name}.parquet/sub", {"partition_by": "month"}),
    ):
        answer = post(service, body | {"output_path": path} | by)
        assert answer.status_code == 409, answer.text


def test_too_many_unfinished__are_refused_until_one_ends(
    service: httpx.Client, body: dict[str, Any], energy: Energy
) -> None:
    def one(days: int) -> httpx.Response:
        return post(service, body | {"start_time": (energy.now - timedelta(days=days)).isoformat()})

    first = [one(days) for days in range(1, LIMIT + 1)]
    assert {answer.status_code for answer in first} == {202}
    refused = one(LIMIT + 1)
    assert (refused.status_code, refused.json()["error"]) == (429, "too_many_requests")
    assert "Retry-After" in refused.headers
    place = f"/exports/{first[0].json()['export_id']}/cancel"
    assert service.post(place, params={"tenant_id": body["tenant_id"]}).status_code == 200
    assert one(LIMIT + 1).status_code == 202


def test_list__counts_the_assets__and_one_job_names_them(service: httpx.Client, body: dict[str, Any]) -> None:
    tenant = {"tenant_id": body["tenant_id"]}
    for asset_ids, count in ((["1", "11"], 2), (None, None)):
        made = post(service, body | {"asset_ids": asset_ids, "idempotency_key": str(uuid4())}).json()
        assert (made["asset_ids"], made["asset_count"]) == (asset_ids, count)
        one = service.get(f"/exports/{made['export_id']}", params=tenant).json()
        assert one == made
        (listed,) = service.get("/exports", params=tenant | {"limit": 1}).json()["exports"]
        assert listed == {name: value for name, value in made.items() if name != "asset_ids"}


def test_list__is_of_one_tenant_newest_first_and_filtered(
    service: httpx.Client, body: dict[str, Any], energy: Energy
) -> None:
    made = [
        post(service, body | {"feature_set": name}).json() for name in ("forecast_basic", "anomaly_detection")
    ]
    params: dict[str, Any] = {"tenant_id": body["tenant_id"], "status_filter": "pending"}
    found = ExportList.model_validate(service.get("/exports", params=params).json())
    assert [str(job.export_id) for job in found.exports] == [each["export_id"] for each in reversed(made)]
    assert found.total == 2
    some = service.get("/exports", params=params | {"limit": 1}).json()
    assert (len(some["exports"]), some["total"]) == (1, 2)
    basic = service.get("/exports", params=params | {"feature_set": "forecast_basic"}).json()
    assert [each["export_id"] for each in basic["exports"]] == [made[0]["export_id"]]
    wrong = service.get("/exports", params=params | {"status_filter": "done"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "bad_input")
    other = {"tenant_id": energy.twin}
    listed = service.get("/exports", params=other).json()["exports"]
    assert not {each["export_id"] for each in listed} & {each["export_id"] for each in made}
    for place in (f"/exports/{made[0]['export_id']}", f"/exports/{uuid4()}"):
        assert service.get(place, params=other).status_code == 404
        assert service.post(f"{place}/cancel", params=other).status_code == 404


@pytest.fixture(scope="module")
def completed(service: httpx.Client, settings: Settings, energy: Energy) -> dict[str, dict[str, Any]]:
    """An export that is one file, and one that is a folder."""
    made = {}
    for name, options in (
        ("one", {"output_path": "downloads/one ö.parquet"}),
        ("months", {"output_path": "months", "partition_by": "month"}),
    ):
        body = {
            "tenant_id": energy.main,
            "feature_set": "forecast_basic",
            "start_time": (energy.now - timedelta(days=40)).isoformat(),
            "end_time": energy.now.isoformat(),
        }
        made[name] = post(service, body | options).json()
    worker_of(settings).run(once=True)
    return {
        name: service.get(f"/exports/{job['export_id']}", params={"tenant_id": energy.main}).json()
        for name, job in made.items()
    }


def test_download__whole_or_a_part_or_not_again(
    service: httpx.Client, completed: dict[str, dict[str, Any]], energy: Energy
) -> None:
    job = completed["one"]
    content = Path(job["storage_path"]).read_bytes()
    place, tenant = f"/exports/{job['export_id']}/download", {"tenant_id": energy.main}
    whole = service.get(place, params=tenant)
    assert (whole.status_code, whole.content) == (200, content)
    assert hashlib.sha256(whole.content).hexdigest() == job["sha256"]
    assert whole.headers["etag"] == f'"{job["sha256"]}"'
    assert int(whole.headers["content-length"]) == len(content)
    assert whole.headers["content-disposition"].endswith("one%20%C3%B6.parquet")
    part = service.get(place, params=tenant, headers={"Range": "bytes=5-99"})
    assert (part.status_code, part.content) == (206, content[5:100])
    beyond = service.get(place, params=tenant, headers={"Range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416
    again = service.get(place, params=tenant, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    files = service.get(f"/exports/{job['export_id']}/files", params=tenant).json()
    assert files["files"] == [{"path": "", "size_bytes": len(content), "sha256": job["sha256"]}]


def test_download__of_a_folder__file_by_file(
    service: httpx.Client, completed: dict[str, dict[str, Any]], energy: Energy
) -> None:
    job, tenant = completed["months"], {"tenant_id": energy.main}
    place = f"/exports/{job['export_id']}"
    listed = service.get(f"{place}/files", params=tenant).json()
    paths = [each["path"] for each in listed["files"]]
    assert len(paths) == listed["total"] >= 2
    rows = 0
    checksums = {each["path"]: each["sha256"] for each in listed["files"]}
    for path in paths:
        answer = service.get(f"{place}/download", params=tenant | {"path": path})
        assert hashlib.sha256(answer.content).hexdigest() == checksums[path]
        assert answer.content == (Path(job["storage_path"]) / path).read_bytes()
        rows += pq.read_table(io.BytesIO(answer.content)).num_rows
    assert rows == job["row_count"]
    assert service.get(f"{place}/download", params=tenant).status_code == 400
    for path in ("year_month=2001-01/part-0.parquet", "../one.parquet", "/etc/passwd", "..", "a\0", "a//b"):
        assert service.get(f"{place}/download", params=tenant | {"path": path}).status_code == 404
    second = service.get(f"{place}/files", params=tenant | {"limit": 1, "offset": 1}).json()
    assert [each["path"] for each in second["files"]] == paths[1:2]


def test_delete__files_and_job__of_this_tenant_alone(
    service: httpx.Client, completed: dict[str, dict[str, Any]], body: dict[str, Any], energy: Energy
) -> None:
    tenant, other = {"tenant_id": energy.main}, {"tenant_id": energy.twin}
    for job in completed.values():
        place = f"/exports/{job['export_id']}"
        for method, suffix in (("GET", "/files"), ("GET", "/download"), ("DELETE", "")):
            assert service.request(method, place + suffix, params=other).status_code == 404
        assert Path(job["storage_path"]).exists()
        gone = service.delete(place, params=tenant)
        assert gone.status_code == 200, gone.text
        assert gone.json()["files_deleted"]
        assert not Path(job["storage_path"]).exists()
        assert service.get(place, params=tenant).status_code == 404
        assert service.delete(place, params=tenant).status_code == 404
    waiting = post(service, body).json()
    refused = service.delete(f"/exports/{waiting['export_id']}", params=tenant)
    assert (refused.status_code, refused.json()["error"]) == (409, "conflict")
    assert service.get(f"/exports/{waiting['export_id']}/download", params=tenant).status_code == 409


def test_lists__page_by_page(service: httpx.Client, body: dict[str, Any], energy: Energy) -> None:
    for _ in range(3):
        post(service, body | {"idempotency_key": str(uuid4())})
    tenant = {"tenant_id": energy.main}
    every = service.get("/exports", params=tenant).json()
    pages = [service.get("/exports", params=tenant | {"limit": 2, "offset": at}).json() for at in (0, 2)]
    ids = [each["export_id"] for each in every["exports"]]
    assert [each["export_id"] for page in pages for each in page["exports"]] == ids[:4]
    assert {page["total"] for page in pages} == {every["total"]}
    sets = service.get("/sets", params={"limit": 1, "offset": 1}).json()
    everything = service.get("/sets").json()
    assert list(sets["feature_sets"]) == list(everything["feature_sets"])[1:2]
    assert sets["total"] == everything["total"]


def test_assets__by_kind_and_page__of_one_tenant(service: httpx.Client, energy: Energy) -> None:
    def listed(**options: Any) -> dict[str, Any]:
        answer = service.get(str(service.base_url).replace("/features/", "/assets"), params=options)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    every = listed(tenant_id=energy.main)
    assert [each["asset_id"] for each in every["assets"]] == ["1", "11", "fresh"]
    assert every["assets"][0]["timezone"] == "Asia/Kolkata"
    assert listed(tenant_id=energy.main, limit=1, offset=1)["assets"] == every["assets"][1:2]
    assert listed(tenant_id=energy.main, kind="gas") == {"assets": [], "total": 0, "tenant_id": energy.main}
    assert [each["asset_id"] for each in listed(tenant_id=energy.twin)["assets"]] == ["1"]
