"""Pipeline of one file into one table: read, localize, normalize, validate, deduplicate, write, check."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest import assets
from ai_hub.ingest.assets import AssetCache
from ai_hub.ingest.checks import check
from ai_hub.ingest.datasets import EVERYWHERE
from ai_hub.ingest.findings import FindingsRepository, clock
from ai_hub.ingest.layout import open_layout
from ai_hub.ingest.localizer import TimezoneLocalizer
from ai_hub.ingest.normalization import ReadingNormalizer
from ai_hub.ingest.options import Stamps
from ai_hub.ingest.rejects import SAMPLE, Quarantine, RejectFile, Rejects, RejectsSample
from ai_hub.ingest.report import Report
from ai_hub.ingest.units import is_amount
from ai_hub.ingest.upsert import upsert
from ai_hub.ingest.validation import validate
from ai_hub.names import is_asset_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from psycopg import Connection

    from ai_hub.ingest.cells import FieldBlock, Layout
    from ai_hub.ingest.datasets import Dataset
    from ai_hub.ingest.options import Options
    from ai_hub.ingest.tables import Malformed

#: Called with the share of the file that is done, 0 to 1, and the counts so far.
OnProgress: TypeAlias = "Callable[[float, Report], None]"
_SUPERSEDED = "a later row has the same asset and time with another value, which is kept"
_NO_ASSET = "asset_id is missing, too long or not printable"


def no_progress(fraction: float, report: Report) -> None:
    """Do nothing."""
    del fraction, report


def ingest(
    connection: Connection[Any],
    path: Path,
    dataset: Dataset,
    options: Options,
    *,
    reject_file: Path,
    on_progress: OnProgress = no_progress,
) -> Report:
    """Ingest a file. Idempotent: a repeated run, also after a killed one, ends with the same table.

    Args:
        connection: In autocommit mode: every chunk is a short transaction of its own.
        path: A file of any format that `reader` opens.
        dataset: `Readings`, `Weather` or `Series`.
        options: Options of the caller.
        reject_file: File of rejected rows, written only if there are any.
        on_progress: Called with the share of the file that is ingested (0 to 1) and the counts so far.

    Raises:
        BadInputError: the file, its columns or an option is invalid; nothing was written.
    """
    assets.validate_asset(
        tenant_id=options.tenant, asset_id=options.asset or "any", timezone=options.timezone or "UTC"
    )
    if reject_file.resolve() == path.resolve():
        raise BadInputError("The reject file is the input file.", hint="Name another with --reject-file.")
    if not reject_file.parent.is_dir():
        raise BadInputError(f"There is no folder {reject_file.parent} for the reject file.")
    with open_layout(path, dataset, options) as layout:
        options = layout.options
        dataset.configure(options)
        dataset.prepare(connection, options.tenant)
        import_id = _begin_import(connection, options.tenant, dataset.table, path)
        with RejectFile(reject_file, layout.originals) as file:
            quarantine = Quarantine(connection, options.tenant, dataset.table, path.name, layout.originals)
            run = _Run(
                connection, dataset, options, Rejects(file, quarantine), on_progress, import_id=import_id
            )
            run.read(layout)
        run.check_series()
    report = run.finish()
    connection.execute(_END_IMPORT, [report.inserted + report.updated, import_id])
    return report


_BEGIN_IMPORT = (
    "INSERT INTO imports (tenant_id, table_name, file_name, sha256) VALUES (%s, %s, %s, %s)"
    " RETURNING import_id"
)
_END_IMPORT = "UPDATE imports SET finished_at = clock_timestamp(), row_count = %s WHERE import_id = %s"


def _begin_import(connection: Connection[Any], tenant: str, table: str, path: Path) -> UUID:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = path.name.encode(errors="replace").decode()  # it may have bytes that are no text
    row = connection.execute(_BEGIN_IMPORT, [tenant, table, name, digest]).fetchone()
    return cast("tuple[UUID]", row)[0]


@dataclass
class Preview:
    """The result of a dry run."""

    report: Report
    #: First rows as they would be stored, with `interval_seconds`, `unit` and `timezone`.
    rows: pd.DataFrame
    #: First rejected rows: line, reason and cells as text.
    rejected: list[tuple[int, str, str]]


def preview(connection: Connection[Any] | None, path: Path, dataset: Dataset, options: Options) -> Preview:
    """Dry run: read a whole file as `ingest` does, without writing.

    Args:
        connection: For registered assets; None: every asset is new.
        path: The file.
        dataset: `Readings` or `Weather`.
        options: Options of the caller.

    Raises:
        BadInputError: the file, its columns or an option is invalid.
    """
    assets.validate_asset(
        tenant_id=options.tenant, asset_id=options.asset or "any", timezone=options.timezone or "UTC"
    )
    with open_layout(path, dataset, options) as layout:
        dataset.configure(layout.options)
        dataset.prepare(connection, options.tenant)
        rejects = RejectsSample(layout.originals)
        run = _DryRun(connection, dataset, layout.options, rejects, no_progress)
        run.read(layout)
    return Preview(run.finish(), run.sample(), rejects.first)


class _Run:
    """The steps of one run over the blocks of a file."""

    read_only = False

    def __init__(
        self,
        connection: Connection[Any] | None,
        dataset: Dataset,
        options: Options,
        rejects: Rejects | RejectsSample,
        on_progress: OnProgress,
        *,
        import_id: UUID | None = None,
    ) -> None:
        self.report = Report()
        # None in a dry run, which writes nothing
        self._import_id = cast("UUID", import_id)
        # None only in a dry run, which neither writes nor checks stored series
        self._connection = cast("Connection[Any]", connection)
        self._dataset = dataset
        self._options = options
        self._rejects = rejects
        self._on_progress = on_progress
        self._fraction = 0.0
        self._localizer = TimezoneLocalizer(
            options.timestamp_format,
            options.ambiguous,
            options.nonexistent,
            ends=options.stamps is Stamps.END,
        )
        self._pending_times: list[pd.DataFrame] = []
        self._assets = AssetCache(
            connection if dataset.has_assets else None,
            options.tenant,
            new_kind=dataset.new_kind,
            timezone=options.timezone,
            read_only=self.read_only,
        )
        self._normalizer = ReadingNormalizer(self._assets, options)
        self._started_at = clock(connection) if connection is not None and not self.read_only else None
        #: Cells and rows whose interval depends on later rows.
        self._pending_intervals: list[tuple[pd.DataFrame, pd.DataFrame]] = []

    def read(self, layout: Layout) -> None:
        """Ingest every block of a file."""
        self.check_options()
        self.report.understood = layout.notes
        for block in layout.blocks():
            self.reject_malformed(block.malformed)
            self.ingest_block(block)
            self.report_progress(block.fraction)
        self.ingest_pending()

    def check_options(self) -> None:
        """Compare the options with the registered asset, where `--asset` names one.

        Raises:
            BadInputError: the options contradict the asset.
        """
        if asset_id := self._options.asset:
            asset = self._assets.get([asset_id])[asset_id]
            if conflict := self._normalizer.conflict(asset):
                raise BadInputError(
                    conflict, hint="Correct --unit or --reading, or the asset with `ai-hub asset add`."
                )

    def reject_malformed(self, lines: list[Malformed]) -> None:
        """Reject malformed lines."""
        self.report.rows += len(lines)
        self.report.rejected += len(lines)
        self._rejects.add_malformed(lines)

    def ingest_block(self, block: FieldBlock) -> None:
        """Ingest a block, except rows whose instant depends on the rest of the file."""
        cells = block.cells
        self.report.missing += block.missing
        self.report.rows += len(cells)
        cells = self._reject(cells, block.reasons)
        if options_asset := self._options.asset:
            cells = cells.assign(asset_id=options_asset)
        elif "asset_id" not in cells:  # of an external series without zones
            cells = cells.assign(asset_id=EVERYWHERE)
        no_asset = _NO_ASSET if self._dataset.has_assets else _NO_ASSET.replace("asset_id", "zone")
        clean = {name: _clean_id(name) for name in cells["asset_id"].unique()}
        cells = cells.assign(asset_id=cells["asset_id"].map(clean))
        cells = self._reject(cells, pd.Series("", index=cells.index).mask(cells["asset_id"].isna(), no_asset))
        by_id = self._assets.get(cells["asset_id"].unique())
        conflicts = {asset_id: self._normalizer.conflict(asset) for asset_id, asset in by_id.items()}
        cells = self._reject(cells, cells["asset_id"].map(conflicts))
        utc, reasons = self._localizer.localize(cells["timestamp"], cells["asset_id"], self._zones(cells))
        if (pending := utc.isna() & (reasons == "")).any():
            self._pending_times.append(cells[pending])
        self._ingest_localized(self._reject(cells, reasons), utc)

    def ingest_pending(self) -> None:
        """Ingest the rows that were pending until the end of the file."""
        utc, reasons = self._localizer.resolve_pending()
        if self._pending_times:
            self._ingest_localized(self._reject(pd.concat(self._pending_times), reasons), utc)
            self._pending_times.clear()
        if self._pending_intervals:
            self._store(*self._normalize(*self._with_pending(), is_last=True))
        self._rejects.flush()

    def check_series(self) -> None:
        """Store the file's clock changes as findings, then check the stored series around the new rows."""
        tenant = self._options.tenant
        if not self._dataset.has_assets:
            return
        repository = FindingsRepository(self._connection, tenant)
        with self._connection.transaction():
            self.report.findings += repository.merge_clock_changes(self._localizer.changes.findings())
        outcome = check(self._connection, tenant, self._assets.written, since=self._started_at)
        self.report.findings += outcome.new
        self.report.resolved += outcome.resolved

    def report_progress(self, fraction: float) -> None:
        """Report the share of the file that is ingested, 0 to 1."""
        self._fraction = fraction
        self._on_progress(fraction, self.report)

    def finish(self) -> Report:
        """Complete the report."""
        self._rejects.note_in(self.report)
        self.report.new_assets = self._assets.new if self._dataset.has_assets else []
        if self._dataset.is_series:
            written = self._assets.get(self._assets.written)
            self.report.without_unit = sorted(
                name for name, asset in written.items() if is_amount(asset.unit, asset.reading) is None
            )
            self.report.intervals = self._normalizer.filled
        self._on_progress(1.0, self.report)
        return self.report

    def _zones(self, cells: pd.DataFrame) -> pd.Series[str]:
        if self._options.timezone:
            return pd.Series(self._options.timezone, index=cells.index, dtype=object)
        by_id = self._assets.get(cells["asset_id"].unique())
        return cells["asset_id"].map({asset_id: asset.timezone for asset_id, asset in by_id.items()})

    def _reject(self, cells: pd.DataFrame, reasons: pd.Series[str]) -> pd.DataFrame:
        """Reject the rows that have a reason; returns the others."""
        bad = reasons != ""
        if not bad.any():
            return cells
        self._rejects.add(cells[bad], reasons[bad])
        self.report.rejected += int(bad.sum())
        return cells[~bad]

    def _ingest_localized(self, cells: pd.DataFrame, utc: pd.Series[Any]) -> None:
        """Convert, normalize, validate and write the rows that have an instant."""
        cells = cells.loc[utc[cells.index].notna()]
        rows = pd.DataFrame({"asset_id": cells["asset_id"], "timestamp": utc[cells.index]})
        cells = self._reject(cells, self._dataset.convert(cells, rows, self._zones(cells)))
        self._store(*self._normalize(cells, rows.loc[cells.index]))

    def _with_pending(self, *block: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The pending rows, then those of the block: the order of the file."""
        both = [*self._pending_intervals, block] if block else self._pending_intervals
        cells, rows = (pd.concat(parts) for parts in zip(*both, strict=True))
        self._pending_intervals = []
        return cells, rows

    def _normalize(
        self, cells: pd.DataFrame, rows: pd.DataFrame, *, is_last: bool = False
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Readings in their asset's unit with their interval; rows without an interval become pending."""
        if not self._dataset.is_series or not len(rows):
            return cells, rows
        if self._pending_intervals:
            cells, rows = self._with_pending(cells, rows)
        normalized = rows.copy()
        reasons, pending = self._normalizer.apply(normalized, is_last=is_last)
        if pending.any():
            self._pending_intervals.append((cells[pending], rows[pending]))
        cells = self._reject(cells[~pending], reasons[~pending])
        return cells, normalized.loc[cells.index]

    def _store(self, cells: pd.DataFrame, rows: pd.DataFrame) -> None:
        """Validate and deduplicate rows, register their assets and write them."""
        reasons = validate(self._dataset, rows, self._assets.get(rows["asset_id"].unique()))
        cells = self._reject(cells, reasons)
        rows = self._without_duplicates(cells, rows.loc[cells.index])
        self._assets.register(rows["asset_id"].unique())
        # sorted by key, so that concurrent runs lock rows in the same order and do not deadlock
        self._write(rows.sort_values(list(self._dataset.key)))

    def _without_duplicates(self, cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """The last row of each key; earlier ones with other values are rejected."""
        key = list(self._dataset.key)
        earlier = rows.duplicated(key, keep="last")
        if not earlier.any():
            return rows
        repeated = earlier & rows.duplicated([*key, *self._dataset.measures], keep="last")
        self.report.duplicates += int(repeated.sum())
        self._reject(cells, pd.Series("", index=rows.index).mask(earlier & ~repeated, _SUPERSEDED))
        return rows[~earlier]

    def _write(self, rows: pd.DataFrame) -> None:
        if len(rows):
            self._dataset.register(self._connection, self._options.tenant)
        written_chunks = chain.from_iterable(
            upsert(
                self._connection,
                table,
                self._options.tenant,
                table_rows,
                key=self._dataset.key,
                measures=measures,
                note_checks=self._dataset.has_assets,
                import_id=self._import_id,
            )
            for table, table_rows, measures in self._by_table(rows)
        )
        for written in written_chunks:
            self.report.inserted += written.inserted
            self.report.updated += written.updated
            self.report.unchanged += written.unchanged
            self._on_progress(self._fraction, self.report)

    def _by_table(self, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, str]]]:
        """Rows with their table and its columns: readings of registers have a table of their own."""
        table, measures = self._dataset.table, self._dataset.measures
        registers = self._assets.registers(rows["asset_id"].unique()) if self._dataset.is_series else ()
        of_registers = rows["asset_id"].isin(registers)
        yield table, rows[~of_registers], measures
        as_read = {name: kind for name, kind in measures.items() if name != "interval_seconds"}
        yield "register_readings", rows[of_registers], as_read


class _DryRun(_Run):
    """A run without writing, which keeps a sample of the rows."""

    read_only = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sample: list[pd.DataFrame] = []

    def _write(self, rows: pd.DataFrame) -> None:
        self.report.inserted += len(rows)
        # of every call, as pending rows come last
        self._sample.append(rows.sort_index().head(SAMPLE))

    def sample(self) -> pd.DataFrame:
        """First accepted rows of the file."""
        if not self._sample:
            return pd.DataFrame()
        rows = pd.concat(self._sample).sort_index().head(SAMPLE)
        by_id = self._assets.get(rows["asset_id"].unique())
        zones = self._zones(rows)
        units = rows["asset_id"].map({name: asset.unit or "" for name, asset in by_id.items()})
        return rows.assign(timezone=zones, unit=units)


def _clean_id(value: object) -> str | None:
    """An asset id without blanks around it; None where it cannot be one."""
    text = "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]
    return text if is_asset_id(text) else None
