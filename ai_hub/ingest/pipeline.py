"""One file into one table: read, place in time, normalize, validate, remove duplicates, write, check."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pandas as pd

from ai_hub.errors import BadInputError
from ai_hub.ingest import assets, findings
from ai_hub.ingest.assets import AssetCache
from ai_hub.ingest.checks import check
from ai_hub.ingest.enums import Stamps
from ai_hub.ingest.layout import open_layout
from ai_hub.ingest.localizer import TimezoneLocalizer
from ai_hub.ingest.normalization import Meaning
from ai_hub.ingest.quarantine import Quarantine
from ai_hub.ingest.rejects import SAMPLE, RejectFile, Rejects, RejectsSample
from ai_hub.ingest.report import Report
from ai_hub.ingest.units import is_amount
from ai_hub.ingest.upsert import upsert
from ai_hub.ingest.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg import Connection

    from ai_hub.ingest.cells import Layout, Readout
    from ai_hub.ingest.datasets import Dataset
    from ai_hub.ingest.options import Options
    from ai_hub.ingest.tables import Malformed

#: Called with the share of the file done, 0 to 1, and the counts so far.
OnProgress: TypeAlias = "Callable[[float, Report], None]"
_SUPERSEDED = "a later row has the same asset and time with another value, which is kept"
_NO_ASSET = "asset_id is missing, too long or not printable"


def no_progress(fraction: float, report: Report) -> None:
    """Show nothing."""
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
    """Ingest a file; running it again, also after being killed, ends with the same table.

    Args:
        connection: In autocommit mode: every chunk is a short transaction of its own.
        path: A `.csv`, `.csv.gz` or `.parquet` file.
        dataset: `Readings` or `Weather`.
        options: What the file does not say itself.
        reject_file: Where rejected rows go; written only if there are any.
        on_progress: Called with the share of the file done and the counts so far.

    Raises:
        BadInputError: the file, its columns or an option is not usable; nothing was written.
    """
    assets.check(
        tenant_id=options.tenant, asset_id=options.asset or "any", timezone=options.timezone or "UTC"
    )
    if reject_file.resolve() == path.resolve():
        raise BadInputError("The reject file is the input file.", hint="Name another with --reject-file.")
    if not reject_file.parent.is_dir():
        raise BadInputError(f"There is no folder {reject_file.parent} for the reject file.")
    with open_layout(path, dataset, options) as layout:
        options = layout.options
        dataset.adopt(options)
        with RejectFile(reject_file, layout.originals) as file:
            quarantine = Quarantine(connection, options.tenant, dataset.table, path.name, layout.originals)
            run = _Run(connection, dataset, options, Rejects(file, quarantine), on_progress)
            run.read(layout)
        run.check()
    return run.finish()


@dataclass
class Preview:
    """What a dry run shows: nothing is written."""

    report: Report
    #: First rows as they would be stored, with `interval_seconds`, `unit` and `timezone`.
    rows: pd.DataFrame
    #: First rejected rows: line, reason and what they say.
    rejected: list[tuple[int, str, str]]


def preview(connection: Connection[Any] | None, path: Path, dataset: Dataset, options: Options) -> Preview:
    """Read a whole file as `ingest` would and write nothing.

    Args:
        connection: To look registered assets up; without one no asset is known.
        path: The file.
        dataset: `Readings` or `Weather`.
        options: What the file does not say itself.

    Raises:
        BadInputError: the file, its columns or an option is not usable.
    """
    assets.check(
        tenant_id=options.tenant, asset_id=options.asset or "any", timezone=options.timezone or "UTC"
    )
    with open_layout(path, dataset, options) as layout:
        dataset.adopt(layout.options)
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
    ) -> None:
        self.report = Report()
        # A dry run may have none: it neither writes nor checks what is stored.
        self._connection = cast("Connection[Any]", connection)
        self._dataset = dataset
        self._options = options
        self._rejects = rejects
        self._on_progress = on_progress
        self._fraction = 0.0
        self._placer = TimezoneLocalizer(
            options.timestamp_format,
            options.ambiguous,
            options.nonexistent,
            ends=options.stamps is Stamps.END,
        )
        self._held: list[pd.DataFrame] = []
        self._roster = AssetCache(
            connection,
            options.tenant,
            new_kind=dataset.new_kind,
            timezone=options.timezone,
            read_only=self.read_only,
        )
        self._meaning = Meaning(self._roster, options)
        self._began = findings.clock(connection) if connection is not None and not self.read_only else None
        #: Rows whose interval the file has not told yet, with their cells.
        self._waiting: list[tuple[pd.DataFrame, pd.DataFrame]] = []

    def read(self, layout: Layout) -> None:
        """Ingest every block of a file."""
        self.check_options()
        self.report.understood = layout.notes
        for block in layout.blocks():
            self.take_malformed(block.malformed)
            self.take(block)
            self.advance(block.fraction)
        self.settle()

    def check_options(self) -> None:
        """Refuse options that contradict what is registered of the one asset the file is about.

        Raises:
            BadInputError: they do.
        """
        if asset_id := self._options.asset:
            asset = self._roster.look_up([asset_id])[asset_id]
            if conflict := self._meaning.conflict(asset):
                raise BadInputError(
                    conflict, hint="Correct --unit or --reading, or the asset with `ai-hub asset add`."
                )

    def take_malformed(self, lines: list[Malformed]) -> None:
        """Reject lines that are no rows."""
        self.report.rows += len(lines)
        self.report.rejected += len(lines)
        self._rejects.add_malformed(lines)

    def take(self, block: Readout) -> None:
        """Ingest a block, except rows whose instant only the rest of the file tells."""
        cells = block.cells
        self.report.missing += block.missing
        self.report.rows += len(cells)
        cells = self._keep(cells, block.reasons)
        if options_asset := self._options.asset:
            cells = cells.assign(asset_id=options_asset)
        clean = {name: _clean_id(name) for name in cells["asset_id"].unique()}
        cells = cells.assign(asset_id=cells["asset_id"].map(clean))
        cells = self._keep(cells, pd.Series("", index=cells.index).mask(cells["asset_id"].isna(), _NO_ASSET))
        known = self._roster.look_up(cells["asset_id"].unique())
        conflicts = {asset_id: self._meaning.conflict(asset) for asset_id, asset in known.items()}
        cells = self._keep(cells, cells["asset_id"].map(conflicts))
        utc, reasons = self._placer.place(cells["timestamp"], cells["asset_id"], self._zones(cells))
        if (held := utc.isna() & (reasons == "")).any():
            self._held.append(cells[held])
        self._finish(self._keep(cells, reasons), utc)

    def settle(self) -> None:
        """Ingest the rows that were held back."""
        utc, reasons = self._placer.settle()
        if self._held:
            self._finish(self._keep(pd.concat(self._held), reasons), utc)
            self._held.clear()
        if self._waiting:
            self._store(*self._with_waiting(), is_last=True)
        self._rejects.flush()

    def check(self) -> None:
        """Look for oddities in the clock changes of the file and in the series it became part of."""
        tenant = self._options.tenant
        with self._connection.transaction():
            self.report.findings += findings.merge_clock_changes(
                self._connection, tenant, self._placer.changes.findings()
            )
        if self._dataset.is_series:
            outcome = check(self._connection, tenant, self._roster.written, since=self._began)
            self.report.findings += outcome.new
            self.report.resolved += outcome.resolved

    def advance(self, fraction: float) -> None:
        """Note how much of the file is done."""
        self._fraction = fraction
        self._on_progress(fraction, self.report)

    def finish(self) -> Report:
        """The report, complete."""
        self._rejects.note_in(self.report)
        self.report.new_assets = self._roster.new
        if self._dataset.is_series:
            written = self._roster.look_up(self._roster.written)
            self.report.without_unit = sorted(
                name for name, asset in written.items() if is_amount(asset.unit, asset.reading) is None
            )
            self.report.intervals = self._meaning.filled
        self._on_progress(1.0, self.report)
        return self.report

    def _zones(self, cells: pd.DataFrame) -> pd.Series[str]:
        if self._options.timezone:
            return pd.Series(self._options.timezone, index=cells.index, dtype=object)
        known = self._roster.look_up(cells["asset_id"].unique())
        return cells["asset_id"].map({asset_id: asset.timezone for asset_id, asset in known.items()})

    def _keep(self, cells: pd.DataFrame, reasons: pd.Series[str]) -> pd.DataFrame:
        """Rows without a reason; the others go to the reject file."""
        bad = reasons != ""
        if not bad.any():
            return cells
        self._rejects.add(cells[bad], reasons[bad])
        self.report.rejected += int(bad.sum())
        return cells[~bad]

    def _finish(self, cells: pd.DataFrame, utc: pd.Series[Any]) -> None:
        cells = cells.loc[utc[cells.index].notna()]
        rows = pd.DataFrame({"asset_id": cells["asset_id"], "timestamp": utc[cells.index]})
        cells = self._keep(cells, self._dataset.convert(cells, rows, self._zones(cells)))
        self._store(cells, rows.loc[cells.index])

    def _with_waiting(self, *block: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows that wait, before those of the block, as they were in the file."""
        both = [*self._waiting, block] if block else self._waiting
        cells, rows = (pd.concat(parts) for parts in zip(*both, strict=True))
        self._waiting = []
        return cells, rows

    def _store(self, cells: pd.DataFrame, rows: pd.DataFrame, *, is_last: bool = False) -> None:
        if self._dataset.is_series and len(rows):
            if self._waiting:
                cells, rows = self._with_waiting(cells, rows)
            resolved = rows.copy()
            reasons, waits = self._meaning.apply(resolved, is_last=is_last)
            if waits.any():
                self._waiting.append((cells[waits], rows[waits]))
            cells = self._keep(cells[~waits], reasons[~waits])
            rows = resolved.loc[cells.index]
        reasons = validate(self._dataset, rows, self._roster.look_up(rows["asset_id"].unique()))
        cells = self._keep(cells, reasons)
        rows = self._without_duplicates(cells, rows.loc[cells.index])
        self._roster.register(rows["asset_id"].unique())
        # In the order of the key, so that runs side by side never wait for each other in a circle.
        self._write(rows.sort_values(list(self._dataset.key)))

    def _without_duplicates(self, cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """One row a key, the last of the block; an earlier one with other values is rejected."""
        key = list(self._dataset.key)
        earlier = rows.duplicated(key, keep="last")
        if not earlier.any():
            return rows
        repeated = earlier & rows.duplicated([*key, *self._dataset.measures], keep="last")
        self.report.duplicates += int(repeated.sum())
        self._keep(cells, pd.Series("", index=rows.index).mask(earlier & ~repeated, _SUPERSEDED))
        return rows[~earlier]

    def _write(self, rows: pd.DataFrame) -> None:
        written_chunks = chain.from_iterable(
            upsert(
                self._connection,
                table,
                self._options.tenant,
                part,
                key=self._dataset.key,
                measures=measures,
                note_checks=self._dataset.is_series,
            )
            for table, part, measures in self._by_table(rows)
        )
        for written in written_chunks:
            self.report.inserted += written.inserted
            self.report.updated += written.updated
            self.report.unchanged += written.unchanged
            self._on_progress(self._fraction, self.report)

    def _by_table(self, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, str]]]:
        """Rows with their table and its columns: readings of registers have one of their own."""
        table, measures = self._dataset.table, self._dataset.measures
        registers = self._roster.registers(rows["asset_id"].unique()) if self._dataset.is_series else ()
        of_registers = rows["asset_id"].isin(registers)
        yield table, rows[~of_registers], measures
        as_read = {name: kind for name, kind in measures.items() if name != "interval_seconds"}
        yield "register_readings", rows[of_registers], as_read


class _DryRun(_Run):
    """The same steps without writing."""

    read_only = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sample: list[pd.DataFrame] = []

    def _write(self, rows: pd.DataFrame) -> None:
        self.report.inserted += len(rows)
        # Few are shown, but a row whose instant the rest of the file tells comes late.
        self._sample.append(rows.sort_index().head(SAMPLE))

    def sample(self) -> pd.DataFrame:
        """First rows of the file that are no rejects."""
        if not self._sample:
            return pd.DataFrame()
        rows = pd.concat(self._sample).sort_index().head(SAMPLE)
        known = self._roster.look_up(rows["asset_id"].unique())
        zones = self._zones(rows)
        units = rows["asset_id"].map({name: asset.unit or "" for name, asset in known.items()})
        return rows.assign(timezone=zones, unit=units)


def _clean_id(value: object) -> str | None:
    """An asset id without blanks around it; None where it cannot be one."""
    text = "" if pd.isna(value) else str(value).strip()  # type: ignore[call-overload]
    return text if 0 < len(text) <= assets.MAX_ID_LENGTH and text.isprintable() else None
