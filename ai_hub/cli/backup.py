"""`ai-hub backup` and `ai-hub restore`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ai_hub.backup.manifest import Manifest

_PLACE = typer.Argument(
    help="A folder, or s3://bucket/prefix in the S3 store of the settings.", show_default=False
)


class _Lines:
    """One line for each finished part, and a progress bar for the objects of the current one."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = common.progress_bar(quiet=quiet)
        self._task = self._bar.add_task("", total=None)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, part: str) -> None:
        """As `Report.start`."""
        self._started = time.monotonic()
        self._bar.reset(self._task, description=part, total=None)

    def progress(self, done: int, total: int) -> None:
        """As `Report.progress`."""
        self._bar.update(self._task, completed=done, total=total)

    def done(self, part: str, text: str) -> None:
        """As `Report.done`."""
        if not self._quiet:
            typer.echo(f"{part}: {text}, {time.monotonic() - self._started:.1f} s")


@app.command()
def backup(
    place: Annotated[str, _PLACE],
    *,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out a part: timescaledb, mlflow, mlflow-login, feast, models, exports."),
    ] = None,
    with_secrets: Annotated[
        bool, typer.Option(help="Include passwords and keys of the settings, in clear text.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Back up all data: TimescaleDB, MLflow, Feast's registry, models, exports. Servers keep running."""
    from ai_hub.backup.create import backup as take
    from ai_hub.dev.backup import RecordedServers

    with _Lines(quiet=as_json) as lines:
        manifest = take(
            place,
            lines,
            RecordedServers(),
            common.settings(),
            without=without or (),
            with_secrets=with_secrets,
        )
    _print(manifest, place, "written to", as_json=as_json)


@app.command()
def restore(
    place: Annotated[str, _PLACE],
    *,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into empty servers and compare every table and object. Safe to repeat after a kill."""
    from ai_hub.backup.restore import restore as bring
    from ai_hub.dev.backup import RecordedServers

    with _Lines(quiet=as_json) as lines:
        manifest = bring(place, lines, RecordedServers(), common.settings())
    _print(manifest, place, "restored from", as_json=as_json)
    if not as_json:
        typer.echo("next: `ai-hub migrate`, then `ai-hub materialize`, which fills Redis")


def _print(manifest: Manifest, place: str, verb: str, *, as_json: bool) -> None:
    if as_json:
        parts = {name: part.file.size for name, part in manifest.databases.items()}
        parts |= {name: part.bytes for name, part in manifest.objects.items()}
        typer.echo(json.dumps({"id": manifest.id, "place": place, "bytes": parts}))
    else:
        typer.echo(f"backup {manifest.id} {verb} {place}")
