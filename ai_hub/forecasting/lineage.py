"""Lineage: file, readings, training set, version, forecast, score; from each of them forward and back.

What is recorded tells it: imports, the dataset of each MLflow run, the forecast log and its scores. Where a
link is missing, `gaps` says so. Functions take a connection of the owner or inside the tenant scope, or ask
the registry, never both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence  # of dataclasses
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast
from uuid import UUID

from ai_hub.errors import NotFoundError
from ai_hub.forecasting import TRAINING_SOURCE
from ai_hub.registry.server import API, call
from ai_hub.registry.versions import ModelVersion, find_version, search
from ai_hub.times import from_millis

if TYPE_CHECKING:
    import psycopg

    from ai_hub.forecasting.log import Run

#: Versions that are looked through for those trained on a file or an asset, the newest.
MOST_VERSIONS: Final = 200
#: Imports that an answer lists, the newest.
MOST_IMPORTS: Final = 1000
_NEWEST_FIRST: Final = ("creation_timestamp DESC", "name ASC", "version_number DESC")
_FITTED: Final = ("training", "validation")


@dataclass(frozen=True)
class TrainingSet:
    """Rows that a version was fitted to and tested on."""

    tables: Sequence[str]
    feature_service: str
    start: datetime
    end: datetime
    #: time of the first readings that they are made of
    readings_from: datetime
    #: what was recorded later is not in them
    known_at: datetime
    assets: Sequence[str]
    #: those that it was fitted to
    rows: int


@dataclass(frozen=True)
class TrainedVersion:
    """A registered version, and what is told of its training."""

    version: ModelVersion
    training_set: TrainingSet | None
    gaps: Sequence[str] = ()


@dataclass(frozen=True)
class Import:
    """A file that was ingested."""

    import_id: UUID
    file_name: str
    sha256: str
    table_name: str
    started_at: datetime
    #: None: under way, or ended by an error
    finished_at: datetime | None
    #: rows that were new or changed; None as above
    row_count: int | None


@dataclass(frozen=True)
class Forecasts:
    """Runs of the forecast log of one version and role."""

    model: str
    version: int | None
    role: str
    runs: int
    first_issued_at: datetime
    last_issued_at: datetime


@dataclass(frozen=True)
class Score:
    """What the forecasts of one version and role were worth."""

    model: str
    version: int | None
    role: str
    hours: int
    mae: float


@dataclass(frozen=True)
class Lineage:
    """Where something comes from, and what was made of it."""

    imports: Sequence[Import] = ()
    #: readings in it that no import has written; None: it is not about readings
    readings_without_file: int | None = None
    versions: Sequence[TrainedVersion] = ()
    forecasts: Sequence[Forecasts] = ()
    scores: Sequence[Score] = ()
    #: where the chain is broken
    gaps: Sequence[str] = field(default_factory=list)


def trained_version(tenant: str, model: str, version: str | int) -> TrainedVersion:
    """A version of the registry with its training set.

    Raises:
        NotFoundError: there is none.
    """
    return _trained(find_version(tenant, model, version))


def trained_versions(tenant: str) -> list[TrainedVersion]:
    """The newest versions of the tenant, newest first; the last one says whether there are older ones."""
    found = search(tenant, order_by=_NEWEST_FIRST, limit=MOST_VERSIONS + 1)
    trained = [_trained(each) for each in found[:MOST_VERSIONS]]
    if len(found) > MOST_VERSIONS:
        gap = f"only the newest {MOST_VERSIONS} versions of the registry were looked through"
        trained[-1] = replace(trained[-1], gaps=[*trained[-1].gaps, gap])
    return trained


def _trained(version: ModelVersion) -> TrainedVersion:
    label = f"{version.model} {version.semantic_version or version.version}"
    if version.run_id is None:
        return TrainedVersion(version, None, [f"{label} was registered without a run"])
    try:
        answer = call("GET", f"{API}/runs/get", tenant=version.tenant, params={"run_id": version.run_id})
    except NotFoundError:
        return TrainedVersion(version, None, [f"the run of {label} is gone: {version.run_id}"])
    run = answer["run"]
    found = training_set(run)
    if found is not None:
        return TrainedVersion(version, found)
    began = from_millis(int(run["info"]["start_time"]))
    gap = (
        f"the run of {label} ({began:%Y-%m-%d %H:%MZ}) has no dataset that says window and known_at: "
        "it was trained by an earlier version of AI Hub, or by something else"
    )
    return TrainedVersion(version, None, [gap])


def training_set(run: Mapping[str, Any]) -> TrainingSet | None:
    """The training set of a run, as MLflow's REST gives it; None: it does not say."""
    datasets = [
        (dataset, json.loads(dataset["source"]), json.loads(dataset.get("profile") or "{}"), tag["value"])
        for each in run.get("inputs", {}).get("dataset_inputs", ())
        if (dataset := each["dataset"]).get("source_type") == TRAINING_SOURCE
        for tag in each.get("tags", ())
        if tag["key"] == "mlflow.data.context"
    ]
    if not datasets:
        return None
    sources = [source for _, source, _, _ in datasets]
    return TrainingSet(
        tables=sources[0]["tables"],
        feature_service=sources[0]["feature_service"],
        start=min(datetime.fromisoformat(each["start"]) for each in sources),
        end=max(datetime.fromisoformat(each["end"]) for each in sources),
        readings_from=min(datetime.fromisoformat(each["readings_from"]) for each in sources),
        known_at=datetime.fromisoformat(sources[0]["known_at"]),
        assets=sorted({asset for _, _, profile, _ in datasets for asset in profile.get("assets", ())}),
        rows=sum(profile.get("num_rows", 0) for _, _, profile, context in datasets if context in _FITTED),
    )


_IMPORT: Final[LiteralString] = "import_id, file_name, sha256, table_name, started_at, finished_at, row_count"
# A reading says which import wrote it last; not if it was written again after `known_at`, or deleted: of such
# hours an import counts unless later ones wrote all of them. Of meters whose hours have several readings it
# always counts, as the later ones may have written others; so does one of weather.
_USED: Final[LiteralString] = f"""
WITH subjects AS (
    SELECT asset_id, asset_id AS subject, 'timeseries_data' AS table_name,
        interval_seconds >= 3600 AS is_whole
    FROM assets WHERE tenant_id = %(tenant)s AND asset_id = ANY (%(assets)s)
    UNION ALL
    SELECT asset_id, coalesce(weather_asset_id, asset_id), 'weather_features', false
    FROM assets WHERE tenant_id = %(tenant)s AND asset_id = ANY (%(assets)s)
), marks AS (
    SELECT import_id, table_name, assets, hours, written_at
    FROM import_hours JOIN imports USING (tenant_id, import_id)
    WHERE tenant_id = %(tenant)s AND written_at <= %(known_at)s
        AND assets && ARRAY(SELECT DISTINCT subject FROM subjects)
        AND hours && tstzrange(
            %(start)s, CASE table_name WHEN 'weather_features' THEN %(weather_until)s ELSE %(end)s END
        )
), readings AS NOT MATERIALIZED (
    SELECT * FROM (
        SELECT tenant_id, asset_id, "timestamp", ingested_at FROM timeseries_data AS amounts
        WHERE NOT EXISTS (
            SELECT FROM assets
            WHERE assets.tenant_id = amounts.tenant_id AND assets.asset_id = amounts.asset_id
                AND assets.reading = 'register'
        )
        UNION ALL
        SELECT tenant_id, asset_id, "timestamp", ingested_at FROM register_readings
    ) AS every
    WHERE tenant_id = %(tenant)s AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
        AND ingested_at <= %(known_at)s
), present AS MATERIALIZED (
    SELECT ingested_at, count(*) AS readings FROM readings
    WHERE asset_id = ANY (%(assets)s) GROUP BY ingested_at
), used AS (
    SELECT import_id FROM marks JOIN present ON ingested_at = written_at WHERE table_name = 'timeseries_data'
    UNION
    SELECT import_id
    FROM marks JOIN subjects ON subjects.table_name = marks.table_name AND subject = ANY (assets)
    WHERE NOT EXISTS (SELECT FROM present WHERE ingested_at = written_at)
        AND (NOT coalesce(is_whole, false) OR NOT isempty(
            hours * tstzmultirange(tstzrange(%(start)s, %(end)s))
            - coalesce((
                SELECT range_agg(hour) FROM marks AS later, unnest(later.hours) AS hour
                WHERE later.table_name = marks.table_name AND later.written_at > marks.written_at
                    AND subject = ANY (later.assets)
            ), '{{}}')
            - coalesce((
                SELECT range_agg(tstzrange(hour, hour + INTERVAL '1 hour'))
                FROM readings, time_bucket(INTERVAL '1 hour', "timestamp") AS hour
                WHERE readings.asset_id = subject
            ), '{{}}')
        ))
)
SELECT
    (SELECT coalesce(sum(readings), 0) FROM present
        WHERE ingested_at NOT IN (SELECT written_at FROM marks WHERE table_name = 'timeseries_data'))::bigint,
    {_IMPORT}
FROM (SELECT) AS one LEFT JOIN imports ON tenant_id = %(tenant)s AND import_id IN (SELECT import_id FROM used)
ORDER BY started_at DESC, import_id LIMIT %(limit)s
"""  # noqa: S608  # constants
_FORECASTS: Final[LiteralString] = """
SELECT model, version, role, count(*), min(issued_at), max(issued_at) FROM forecast_runs
WHERE tenant_id = %(tenant)s AND (%(model)s::text IS NULL OR model = %(model)s)
    AND (%(version)s::integer IS NULL OR version = %(version)s)
    AND (%(assets)s::text[] IS NULL OR assets && %(assets)s)
    AND (%(known_since)s::timestamptz IS NULL OR known_at >= %(known_since)s)
    AND (%(first)s::timestamptz IS NULL OR issued_at < %(last)s
        AND issued_at + CASE WHEN %(is_weather)s::boolean THEN horizon ELSE INTERVAL '0' END > %(first)s)
GROUP BY model, version, role ORDER BY model, version, role
"""
_SCORES: Final[LiteralString] = """
SELECT model, nullif(version, 0), role, sum(hours)::bigint, sum(absolute) / sum(hours)
FROM forecast_scores AS scores JOIN assets USING (tenant_id, asset_id)
WHERE tenant_id = %(tenant)s AND scores.unit = coalesce(feature_unit, '')
    AND (%(model)s::text IS NULL OR model = %(model)s)
    AND (%(version)s::integer IS NULL OR version = %(version)s)
    AND (%(role)s::text IS NULL OR role = %(role)s)
    AND (%(assets)s::text[] IS NULL OR asset_id = ANY (%(assets)s))
    AND (%(start)s::date IS NULL OR day >= %(start)s) AND (%(end)s::date IS NULL OR day <= %(end)s)
GROUP BY model, version, role ORDER BY model, version, role
"""


def imports_used(
    connection: psycopg.Connection[Any],
    tenant: str,
    assets: Sequence[str],
    *,
    start: datetime,
    end: datetime,
    known_at: datetime,
    weather_until: datetime | None = None,
) -> tuple[list[Import], int]:
    """Imports with readings and weather of the assets in [start, end) as known at a time, newest first.

    Also returns how many of these readings no import has written. Weather counts up to `weather_until`,
    which may be after `end`: that of the hours that are forecast.
    """
    values = {"tenant": tenant, "assets": list(assets), "start": start, "end": end, "known_at": known_at}
    values["weather_until"] = weather_until or end
    rows = connection.execute(_USED, values | {"limit": MOST_IMPORTS}).fetchall()
    return [Import(*row[1:]) for row in rows if row[1] is not None], rows[0][0]


def of_version(connection: psycopg.Connection[Any], trained: TrainedVersion) -> Lineage:
    """What a version was trained on, and what was forecast with it."""
    version = trained.version
    which = {"tenant": version.tenant, "model": version.model, "version": version.version}
    imports, without_file, gaps = _of_training_set(connection, trained)
    return Lineage(
        imports,
        without_file,
        [trained],
        _forecasts(connection, **which),
        _scores(connection, **which),
        gaps,
    )


def _of_training_set(
    connection: psycopg.Connection[Any], trained: TrainedVersion
) -> tuple[list[Import], int | None, list[str]]:
    found = trained.training_set
    if found is None:
        return [], None, list(trained.gaps)
    imports, without_file = imports_used(
        connection,
        trained.version.tenant,
        found.assets,
        start=found.readings_from,
        end=found.end,
        known_at=found.known_at,
    )
    return (
        imports,
        without_file,
        [
            *trained.gaps,
            *_gaps(
                connection,
                trained.version.tenant,
                found.assets,
                (imports, without_file),
                known_at=found.known_at,
            ),
        ],
    )


def _gaps(
    connection: psycopg.Connection[Any],
    tenant: str,
    assets: Sequence[str],
    found: tuple[Sequence[Import], int],
    *,
    known_at: datetime,
) -> list[str]:
    imports, without_file = found
    gaps = []
    if without_file:
        gaps.append(
            f"{without_file:,} readings were written by something else than `ai-hub ingest`, such as SQL, or "
            "before imports were recorded: they have no file"
        )
    if len(imports) >= MOST_IMPORTS:
        gaps.append(f"only the newest {MOST_IMPORTS:,} imports are listed")
    present = connection.execute(
        "SELECT asset_id, coalesce(weather_asset_id, 'their own'), weather_since AT TIME ZONE 'UTC',"
        " coalesce(weather_since > %s, weather_asset_id IS NOT NULL)"
        " FROM assets WHERE tenant_id = %s AND asset_id = ANY (%s)",
        [known_at, tenant, list(assets)],
    ).fetchall()
    if gone := sorted(set(assets) - {asset for asset, *_ in present}):
        gaps.append(f"{len(gone):,} meters are gone with their readings: {', '.join(gone[:5])}")
    if stations := sorted({(station, since) for _, station, since, is_later in present if is_later}, key=str):
        told = (
            f"{station} " + (f"since {since:%Y-%m-%d %H:%MZ}" if since else "since nobody knows when")
            for station, since in stations[:5]
        )
        gaps.append(
            f"weather is that of the stations that the meters have now ({', '.join(told)}): which ones they "
            "had before is not recorded"
        )
    return gaps


def of_forecast(connection: psycopg.Connection[Any], run: Run, trained: TrainedVersion | None) -> Lineage:
    """What a forecast was made of, back to the files, and what forecasts of its days were worth.

    Its imports are those of the readings that its features were made of, and of its version's training set.

    Args:
        connection: see above.
        run: the forecast.
        trained: its version; None: the registry has it no longer.
    """
    gaps: list[str] = []
    imports: dict[UUID, Import] = {}
    without_file: int | None = None
    label = f"{run.model} {run.semantic_version or run.version}"
    if run.version is None:
        gaps.append(f"the run is of no registered version of {run.model}: it is a {run.role.value}")
    elif trained is None:
        gaps.append(f"{label} is no longer in the registry")
    elif trained.version.manifest_sha256 != run.manifest_sha256:
        gaps.append(f"the files of {label} are not those that the run was made with")
    if trained is not None and trained.training_set is not None:
        found = trained.training_set
        lookback = found.start - found.readings_from
        used, without_file = imports_used(
            connection,
            run.tenant,
            run.assets,
            start=run.issued_at - lookback,
            end=run.issued_at,
            weather_until=run.issued_at + run.horizon,
            known_at=run.known_at,
        )
        gaps += _gaps(connection, run.tenant, run.assets, (used, without_file), known_at=run.known_at)
        imports |= {each.import_id: each for each in used}
    elif run.version is not None:
        gaps.append("how far its features look back is not told, so its own readings are not either")
    if trained is not None:
        of_training, _, more = _of_training_set(connection, trained)
        imports |= {each.import_id: each for each in of_training}
        gaps += [f"of its training: {each}" for each in more]
    last = run.issued_at + run.horizon - timedelta(microseconds=1)
    return Lineage(
        sorted(imports.values(), key=lambda each: each.started_at, reverse=True),
        without_file,
        [trained] if trained else [],
        [Forecasts(run.model, run.version, run.role.value, 1, run.issued_at, run.issued_at)],
        _scores(
            connection,
            tenant=run.tenant,
            model=run.model,
            version=run.version or 0,
            role=run.role.value,
            assets=list(run.assets),
            start=run.issued_at.date(),
            end=last.date(),
        ),
        gaps,
    )


def find_import(connection: psycopg.Connection[Any], tenant: str, name: str) -> Import:
    """An import by its id, or the newest one of a file by its name or the SHA-256 of its bytes.

    Raises:
        NotFoundError: the tenant has none.
    """
    row = connection.execute(
        f"SELECT {_IMPORT} FROM imports"  # noqa: S608  # constants
        " WHERE tenant_id = %(tenant)s AND %(name)s IN (import_id::text, file_name, sha256)"
        " ORDER BY started_at DESC LIMIT 1",
        {"tenant": tenant, "name": name},
    ).fetchone()
    if row is None:
        raise NotFoundError(
            f"Tenant {tenant} has no import {name}.",
            hint="Give the name of a file without its folder, its SHA-256, or the id of an import as "
            "lineages list it. Files that were ingested by earlier versions of AI Hub are not recorded.",
        )
    return Import(*row)


_MARKS: Final[LiteralString] = """
SELECT array_agg(DISTINCT asset), min(lower(hours)), max(upper(hours)), min(written_at)
FROM import_hours, unnest(assets) AS asset WHERE tenant_id = %s AND import_id = %s
"""
_AROUND: Final[LiteralString] = """
SELECT asset_id FROM assets
WHERE tenant_id = %(tenant)s AND coalesce(weather_asset_id, asset_id) = ANY (%(stations)s)
"""

_CHANGED: Final[LiteralString] = """
SELECT asset_id FROM assets
WHERE tenant_id = %s AND weather_since > greatest(%s, created_at) ORDER BY asset_id
"""


def of_import(
    connection: psycopg.Connection[Any], tenant: str, found: Import, trained: Sequence[TrainedVersion]
) -> Lineage:
    """Versions that were trained on what an import wrote, and what was forecast with them or from it.

    Args:
        connection: see above.
        tenant: whose.
        found: the import.
        trained: versions that are looked through.
    """
    row = connection.execute(_MARKS, [tenant, found.import_id]).fetchone()
    assets, first, last, written_at = cast("tuple[Any, Any, Any, Any]", row)
    is_weather = found.table_name == "weather_features"
    if is_weather and assets:  # a station's; forecasts are of the assets around it
        around = connection.execute(_AROUND, {"tenant": tenant, "stations": assets})
        assets = [asset for (asset,) in around]
    gaps = [gap for each in trained for gap in each.gaps]
    changed = is_weather and connection.execute(_CHANGED, [tenant, written_at]).fetchall()
    if changed:
        gaps.insert(
            0,
            f"{len(changed):,} meters have had another weather station since the file was read "
            f"({', '.join(asset for (asset,) in changed[:5])}): what came of it for them before is not told",
        )
    if found.table_name == "covariates":
        gaps.insert(0, "of external series it is not recorded which values a file wrote")
    elif found.finished_at is None:
        gaps.insert(0, "the import is under way, or was ended by an error: what it wrote until then counts")
    versions: list[TrainedVersion] = []
    forecasts: list[Forecasts] = []
    scores: list[Score] = []
    for each in trained if assets else ():
        if (rows := each.training_set) is None:
            continue
        which = {"tenant": tenant, "model": each.version.model, "version": each.version.version}
        # of many versions most are of other meters or times
        may_use = rows.known_at >= written_at and rows.readings_from < last and first < rows.end
        if may_use and found.import_id in {
            used.import_id
            for used in imports_used(
                connection,
                tenant,
                rows.assets,
                start=rows.readings_from,
                end=rows.end,
                known_at=rows.known_at,
            )[0]
        }:
            versions.append(each)
            forecasts += _forecasts(connection, **which)
            scores += _scores(connection, **which)
        else:
            lookback = rows.start - rows.readings_from
            forecasts += _forecasts(
                connection,
                **which,
                assets=assets,
                known_since=written_at,
                first=first,
                last=last + lookback,
                is_weather=is_weather,
            )
    return Lineage([found], None, versions, forecasts, scores, gaps)


def of_asset(
    connection: psycopg.Connection[Any], tenant: str, asset: str, trained: Sequence[TrainedVersion]
) -> Lineage:
    """Files of an asset's readings, versions trained on it, its forecasts and what they were worth.

    Raises:
        NotFoundError: the tenant has no such asset.
    """
    row = connection.execute(
        "SELECT now(), created_at FROM assets WHERE tenant_id = %s AND asset_id = %s", [tenant, asset]
    ).fetchone()
    if row is None:
        raise NotFoundError(
            f"Tenant {tenant} has no asset {asset}.",
            hint=f"`ai-hub asset list --tenant {tenant}` names those it has.",
        )
    start, end = (datetime(year, 1, 1, tzinfo=UTC) for year in (1, 9999))
    imports, without_file = imports_used(connection, tenant, [asset], start=start, end=end, known_at=row[0])
    # its weather is that of all times since it was added
    gaps = _gaps(connection, tenant, [asset], (imports, without_file), known_at=row[1])
    return Lineage(
        imports,
        without_file,
        [each for each in trained if each.training_set and asset in each.training_set.assets],
        _forecasts(connection, tenant=tenant, assets=[asset]),
        _scores(connection, tenant=tenant, assets=[asset]),
        [*gaps, *(gap for each in trained for gap in each.gaps)],
    )


def _forecasts(connection: psycopg.Connection[Any], **which: Any) -> list[Forecasts]:
    names = ("model", "version", "assets", "known_since", "first", "last", "is_weather")
    rows = connection.execute(_FORECASTS, dict.fromkeys(names) | which)
    return [Forecasts(*row) for row in rows]


def _scores(connection: psycopg.Connection[Any], **which: Any) -> list[Score]:
    names = ("model", "version", "role", "assets", "start", "end")
    rows = connection.execute(_SCORES, dict.fromkeys(names) | which)
    return [Score(*row) for row in rows]
