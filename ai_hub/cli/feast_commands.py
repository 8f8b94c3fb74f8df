"""Commands of `feast`: Feast's, and other ones in place of those that Feast 0.67 gets wrong.

- `teardown` and `projects delete` touch no other project of the registry, and `apply` works afterwards;
- `plan` lists what was declared anew, not when it was last registered, and with `apply` what declared views
  (feast_plugins/windows) need in TimescaleDB;
- `registry-dump` knows on-demand views in python mode;
- `endpoint` prints something, and servers that cannot start say why and end;
- `feature-views enable`, `disable` and `set-state` say that an SQL registry does not store them.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import socket
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from fastapi import FastAPI
from feast.cli.cli import cli as stock
from feast.diff.property_diff import PropertyDiff, TransitionType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStoreConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.sql import SqlRegistry
from feast.protos.feast.core.DataSource_pb2 import DataSource
from feast.repo_config import load_repo_config
from feast.repo_operations import _get_repo_contents, cli_check_repo, create_feature_store
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from psycopg import OperationalError

from ai_hub.cli.errors import UnexpectedError, explain, first_line
from ai_hub.errors import AiHubError, BadInputError
from feast_plugins import projects
from feast_plugins.registry import Store
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from feast import RepoConfig
    from feast.diff.registry_diff import RegistryDiff
    from feast.repo_contents import RepoContents
    from psycopg import Connection

    from feast_plugins.windows.declarations import Declaration

#: Commands that serve until they are stopped.
SERVERS: Final = (
    *("serve", "serve_offline", "serve_registry", "serve_transformations", "serve_lineage"),
    *("ui", "listen"),
)
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_SOURCE_TIMES: Final = DataSource.SourceMeta.DESCRIPTOR.full_name


class _Feast(click.Group):
    """Feast's options; failures are one of our errors each."""

    def invoke(self, ctx: click.Context) -> Any:
        level = ctx.params["log_level"].upper()
        if level not in _LEVELS:
            raise click.BadParameter(f"one of {', '.join(_LEVELS)}", ctx, param_hint="--log-level")
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.UsageError):
            raise
        except click.ClickException as error:
            raise click.ClickException(" ".join(error.message.split())) from error
        except Exception as error:
            if os.environ.get("AI_HUB_TRACEBACK"):
                raise
            raise _explain(error, ctx) from error


def _explain(error: Exception, ctx: click.Context) -> AiHubError:
    """`error` as a message: what is not set, where in the repository it is, or what Feast says."""
    known, settings = explain(error), ctx.obj["FS_YAML_FILE"]
    unset = [name for name in _variables(settings) if name not in os.environ]
    if unset:
        return BadInputError(
            f"{settings} names variables that are not set: {', '.join(unset)}.",
            hint='Run `eval "$(ai-hub env)"` in this shell, then the same command again.',
        )
    if not isinstance(known, UnexpectedError):
        return known
    if place := _place_in(ctx.obj["CHDIR"], error):
        return BadInputError(
            f"{place}: {type(error).__name__}: {first_line(error)}",
            hint="AI_HUB_TRACEBACK=1 before the same command shows how it got there.",
        )
    message = str(error.args[0]) if error.args else ""
    # what Feast raises for arguments; a key alone is no sentence
    if isinstance(error, ValueError) or (isinstance(error, KeyError) and " " in message):
        message = message.partition("\n")[0] or type(error).__name__
        return BadInputError(message, hint=f"See `feast {ctx.invoked_subcommand} --help`.")
    return known


def _variables(settings: Path) -> list[str]:
    lines = settings.read_text().splitlines() if settings.is_file() else []
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return list(dict.fromkeys(_VARIABLE.findall(text)))


def _place_in(repository: Path, error: Exception) -> str | None:
    """File and line of the repository at which an exception was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    root = repository.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if file.is_relative_to(root) and not file.is_relative_to(sys.prefix):
            return f"{frame.filename}:{frame.lineno}"
    return None


def _config(ctx: click.Context) -> RepoConfig:
    cli_check_repo(ctx.obj["CHDIR"], ctx.obj["FS_YAML_FILE"])
    return load_repo_config(ctx.obj["CHDIR"], ctx.obj["FS_YAML_FILE"])


def _in_place_of(command: click.Command) -> Callable[[Callable[..., None]], click.Command]:
    """A command with the name, arguments and help of one of Feast's."""
    return click.command(command.name, cls=type(command), params=command.params, help=command.help)


_YES: Final = click.Option(
    ["--yes", "-y"], is_flag=True, help="Delete stored values of what is no longer declared without asking."
)


@click.command("apply", params=[*stock.commands["apply"].params, _YES], help=stock.commands["apply"].help)
@click.pass_context
def apply(ctx: click.Context, /, yes: bool, **options: Any) -> None:
    """Feast's, on a registry without versions of deleted projects, and on what declared views need."""
    config = _config(ctx)
    registry = Store(config=config).registry
    projects.forget_versions(registry, config.project)
    os.chdir(ctx.obj["CHDIR"])
    contents = _get_repo_contents(ctx.obj["CHDIR"], config.project, config)
    project, declarations = _project(config, contents), _declarations(contents)
    registered = projects.view_names(registry, project)
    with _changes(config, project, declarations, registered) as (connection, changes):
        for change in changes:
            click.echo(str(change))
        if any(change.losses for change in changes) and not yes:
            click.confirm("Delete these stored values?", abort=True)
        with declared.allow_losses():
            # first: the registry must not name what is not there; what deletes waits until Feast takes it
            if connection is not None:
                declared.announce(connection, project, changes)
                declared.apply(connection, project, [each for each in changes if not each.losses])
            ctx.invoke(stock.commands["apply"], **options)
        if connection is None:
            return
    with _changes(config, project, declarations, registered) as (connection, changes):
        assert connection is not None  # noqa: S101  # as before
        with declared.allow_losses():
            declared.apply(connection, project, changes)
        known = {*registered, *(each.name for each in declarations)}
        for view in declared.others_of(connection, project, known):
            click.echo(
                f"{view} is declared by a project {project} of another registry, and stays. "
                "To drop it, declare it here, apply, take it out and apply again."
            )
        for progress in declared.progress(connection, project):
            if progress.stored < progress.rows:
                click.echo(
                    f"{progress.view}: {progress.stored:,} of {progress.rows:,} rows are stored; the others "
                    "are computed whenever they are read, until `ai-hub features backfill` has stored them."
                )


def _project(config: RepoConfig, contents: RepoContents) -> str:
    return contents.projects[0].name if contents.projects else config.project


def _declarations(contents: RepoContents) -> list[Declaration]:
    return declared.declarations_of([*contents.feature_views, *contents.stream_feature_views])


@contextmanager
def _changes(
    config: RepoConfig, project: str, declarations: Sequence[Declaration], registered: Sequence[str]
) -> Iterator[tuple[Connection[Any] | None, list[declared.Change]]]:
    """What is to be done for declared views, and a connection to do it; None: there is nothing of them.

    `registered` are views that the registry has, or had before; those no longer declared are dropped.
    """
    if not isinstance(config.offline_store, PostgreSQLOfflineStoreConfig):
        yield None, []
        return
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(declared.owner(config))
        except OperationalError:
            if declarations:
                raise
            # what was declared before is dropped when the server is back
            yield None, []
            return
        if declarations:
            declared.require_catalog(connection)
        elif not declared.has_catalog(connection):
            yield None, []
            return
        yield connection, declared.changes(connection, project, declarations, removed=registered)


@_in_place_of(stock.commands["plan"])
@click.pass_context
def plan(ctx: click.Context, skip_source_validation: bool, skip_feature_view_validation: bool) -> None:
    """Print what `feast apply` would change."""
    config = _config(ctx)
    os.chdir(ctx.obj["CHDIR"])
    contents = _get_repo_contents(ctx.obj["CHDIR"], config.project, config)
    store = Store(config=config)
    project = _project(config, contents)
    registered = projects.view_names(store.registry, project)
    with _changes(config, project, _declarations(contents), registered) as (_, database_changes):
        pass
    if not skip_source_validation:
        for view in contents.feature_views:
            if view.batch_source is not None:
                store.provider.validate_data_source(store.config, view.batch_source)
    changes, infrastructure, _ = store.plan(
        contents, skip_feature_view_validation=skip_feature_view_validation
    )
    leave_out_times(changes)
    click.echo(changes.to_string())  # type: ignore[no-untyped-call]
    click.echo(infrastructure.to_string())  # type: ignore[no-untyped-call]
    for change in database_changes:
        click.echo(f"TimescaleDB: {change}")


def leave_out_times(changes: RegistryDiff) -> None:
    """Take from `changes` the times at which sources were registered; what is left is what was declared."""
    for change in changes.feast_object_diffs:
        if change.transition_type != TransitionType.UPDATE:
            continue
        pairs = [
            (each.property_name, _without_times(each.val_existing), _without_times(each.val_declared))
            for each in change.feast_object_property_diffs
        ]
        change.feast_object_property_diffs = [
            PropertyDiff(name, old, new) for name, old, new in pairs if old != new
        ]
        if not change.feast_object_property_diffs:
            change.transition_type = TransitionType.UNCHANGED


def _without_times(value: Any) -> Any:
    if isinstance(value, Message):
        kept = type(value)()
        kept.CopyFrom(value)
        _clear_times(kept)
        return kept
    if isinstance(value, Mapping):
        return {key: _without_times(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_without_times(each) for each in value]
    return value


def _clear_times(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.full_name == _SOURCE_TIMES:
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _clear_times(value)
        else:
            for each in value.values() if isinstance(value, Mapping) else value:
                if isinstance(each, Message):
                    _clear_times(each)


@_in_place_of(stock.commands["teardown"])
@click.pass_context
def teardown(ctx: click.Context) -> None:
    """Tear down this project; others in the registry stay."""
    store = Store(config=_config(ctx))
    projects.teardown(store)
    click.echo(f"Tore down project {store.project}.")


@_in_place_of(stock.commands["projects"].commands["delete"])  # type: ignore[attr-defined]  # a group
@click.pass_context
def delete_project(ctx: click.Context, name: str, yes: bool) -> None:
    """Delete a project from the registry, and what its declared views stored; its online rows stay."""
    store = create_feature_store(ctx)
    store.get_project(name)
    if not yes:
        click.confirm(f"Delete project '{name}' and all that the registry holds of it?", abort=True)
    projects.delete_project(store, name)
    click.echo(f"Project '{name}' deleted successfully.")


def _state(name: str) -> click.Command:
    """A command that changes whether or how a view is served, which an SQL registry does not store."""
    stock_command = stock.commands["feature-views"].commands[name]  # type: ignore[attr-defined]  # a group

    @_in_place_of(stock_command)
    @click.pass_context
    def command(ctx: click.Context, /, **options: Any) -> None:
        store = create_feature_store(ctx)
        view = store.registry.get_any_feature_view(options["name"], store.project)
        if isinstance(store.registry, SqlRegistry):
            raise AiHubError(
                f"Feast 0.67 stores no such change in an SQL registry, so {view.name} stays as it is.",
                hint="To serve it no longer, take it out of the repository and run `feast apply`.",
            )
        ctx.invoke(stock_command, **options)

    return command


class _OtherObjects:
    """A registry without its on-demand views: `to_dict` knows those in pandas mode only."""

    def __init__(self, registry: BaseRegistry) -> None:
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def list_on_demand_feature_views(self, project: str) -> list[Any]:
        del project
        return []


@_in_place_of(stock.commands["registry-dump"])
@click.pass_context
def registry_dump(ctx: click.Context) -> None:
    """Print the project's part of the registry as JSON."""
    store = Store(config=_config(ctx))
    registry: Any = store.registry
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Feast itself calls
        found = BaseRegistry.to_dict(_OtherObjects(registry), store.project)  # type: ignore[arg-type]
    views = sorted(registry.list_on_demand_feature_views(store.project), key=lambda view: view.name)
    found["onDemandFeatureViews"] = [_on_demand_view(view) for view in views]
    click.echo(json.dumps(found, indent=2, sort_keys=True))


def _on_demand_view(view: Any) -> dict[str, Any]:
    """The view's message, with the text of its function where the message has a pickle."""
    found: dict[str, Any] = MessageToDict(view.to_proto())
    transformation = found["spec"].get("featureTransformation", {})
    if "userDefinedFunction" in transformation:
        transformation["userDefinedFunction"]["body"] = view.feature_transformation.udf_string
    return found


@_in_place_of(stock.commands["endpoint"])
@click.pass_context
def endpoint(ctx: click.Context) -> None:
    """Print the address of the feature server that the provider deployed, if any."""
    address = create_feature_store(ctx).get_feature_server_endpoint()
    click.echo(
        address
        or "Feast has deployed no feature server. `feast serve` starts one, `ai-hub serve` the REST service."
    )


def _server(name: str) -> click.Command:
    """A command that starts a server, once its address can be had and its files are there."""

    @_in_place_of(stock.commands[name])
    @click.pass_context
    def command(ctx: click.Context, /, **options: Any) -> None:
        if options.get("rest_api") and "extra" not in inspect.signature(FastAPI).parameters:
            raise AiHubError(
                "Feast's REST registry server does not start with the installed FastAPI.",
                hint="`feast ui` serves the same API under /api/v1; `feast serve_registry` serves gRPC.",
            )
        for path in (options.get("tls_key_path"), options.get("tls_cert_path")):
            if path:
                Path(path).open("rb").close()
        host, _, port = options.get("address", "").rpartition(":")
        _require_address(options.get("host", host) or "::", options.get("port", port))
        ctx.invoke(stock.commands[name], **options)

    return command


def _require_address(host: str, port: str | int) -> None:
    """Raises where no server can listen; gRPC's would say so and not end."""
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(
            host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address[0], int(port), *address[2:]))
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BadInputError(
            f"Nothing can listen at {host}, port {port}: {reason}.", hint="Give a free port, 1 to 65535."
        ) from error


def _with(group: Any, *replacements: click.Command) -> dict[str, click.Command]:
    return {**group.commands, **{str(each.name): each for each in replacements}}


commands = _Feast(
    name="feast",
    params=stock.params,
    callback=stock.callback,
    help=stock.help,
    commands=_with(
        stock,
        *(apply, plan, teardown, registry_dump, endpoint),
        *map(_server, SERVERS),
        click.Group(
            "feature-views",
            commands=_with(stock.commands["feature-views"], *map(_state, ("enable", "disable", "set-state"))),
            help=stock.commands["feature-views"].help,
        ),
        click.Group(
            "projects",
            commands=_with(stock.commands["projects"], delete_project),
            help=stock.commands["projects"].help,
        ),
    ),
)
