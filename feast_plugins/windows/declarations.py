"""Declared views: what they have, how it is checked, and how it is kept in Feast's registry.

Feast 0.67 forgets the aggregations of a `BatchFeatureView` in its registry, so a declared view is a plain
`FeatureView` and each field has its expression as JSON in a tag.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from feast import FeatureView, Field
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Array, Float64, String

from feast_plugins.errors import DeclarationError
from feast_plugins.windows.features import (
    HOUR,
    NAME,
    READING,
    STEPS,
    TOTAL,
    Expression,
    Holiday,
    Lag,
    OfColumn,
    Pair,
    Window,
    WindPower,
    expression,
    expression_of,
    is_of_target,
    merged,
    source_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from feast import Entity

    from feast_plugins.windows.limits import Limits

#: Tag of a field: its expression.
EXPRESSION_TAG: Final = "expression"
#: Tag of a view: the step of its rows, such as `1h`.
STEP_TAG: Final = "step"
#: Tag of a view whose source reads a declared view: its name.
READS_TAG: Final = "reads_declared_view"
#: Tag of a field: how many hours the feature looks back.
LOOKBACK_TAG: Final = "lookback_hours"
#: Tag of a view: how far ahead its rows look, such as `48h`.
HORIZON_TAG: Final = "horizon"
#: As far as a row may look ahead.
LONGEST_HORIZON: Final = 360 * HOUR
#: Of the relations of a view.
_SUFFIXES: Final = ("_versions", "_stored")
#: Columns that a view with a horizon reads: value of the step before the row, of the asset and its group.
VALUE_OF_STEP: Final = "value_of_step"
TOTAL_OF_STEP: Final = "total_of_step"
_RESERVED: Final = frozenset(
    {
        *("tenant_id", "asset_id", "event_timestamp", "created_timestamp"),
        *("superseded_at", "hour", "generation", "replaced"),
        # of every table of PostgreSQL
        *("ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"),
    }
)


@dataclass(frozen=True)
class Declaration:
    """A declared view: its features in order, and the time between two of its rows."""

    name: str
    features: Mapping[str, Expression]
    step: timedelta = HOUR
    #: how far ahead its rows look; None: they are of their own time
    horizon: timedelta | None = None

    def __post_init__(self) -> None:
        """Let the features slide by the step."""
        sliding = {name: each.sliding(self.step) for name, each in self.features.items()}
        object.__setattr__(self, "features", sliding)

    @property
    def leads(self) -> int:
        """Steps ahead that a row has elements for."""
        return 0 if self.horizon is None else self.horizon // self.step

    @property
    def of_targets(self) -> dict[str, Expression]:
        """Features of the steps ahead, which are computed where rows are read."""
        if self.horizon is None:
            return {}
        return {name: each for name, each in self.features.items() if is_of_target(each)}

    @property
    def steps_read(self) -> dict[str, str]:
        """Columns of readings that its features of targets read, and the columns of rows that have them."""
        read = {leaf.column for each in self.of_targets.values() for leaf in each.leaves()}
        return {READING: VALUE_OF_STEP} | ({TOTAL: TOTAL_OF_STEP} if TOTAL in read else {})

    @property
    def in_database(self) -> Declaration:
        """What TimescaleDB has of it: features of the row's own time, and values of steps."""
        if self.horizon is None:
            return self
        own = {name: each for name, each in self.features.items() if name not in self.of_targets}
        steps = {name: Lag(column, self.step) for column, name in self.steps_read.items()}
        return Declaration(self.name, {**own, **steps}, self.step)

    @property
    def stored(self) -> dict[str, Expression]:
        """Features that refreshes compute."""
        return {name: each for name, each in self.features.items() if each.is_stored}

    def as_json(self) -> dict[str, Any]:
        """JSON form of the features."""
        return {name: each.as_json() for name, each in self.features.items()}

    @property
    def leaves(self) -> list[OfColumn]:
        """What its stored features read of columns, in order, each once."""
        return list(dict.fromkeys(leaf for each in self.stored.values() for leaf in each.leaves()))

    @property
    def sources(self) -> list[str]:
        """Where the values of its features come from, see `source_of`."""
        return sorted({source_of(leaf.column) for leaf in self.leaves})

    def reaches(self, source: str) -> list[tuple[int, int]]:
        """Steps before a row that its features use of a source, merged where they meet, nearest first."""
        return merged(reach for each in self.stored.values() for reach in each.reaches(source))


def declared_view(
    *,
    name: str,
    entities: list[Entity],
    features: Mapping[str, Expression | Aggregation],
    step: timedelta | None = None,
    horizon: timedelta | None = None,
    rows: FeatureView | None = None,
    ttl: timedelta | None = None,
    description: str = "",
    descriptions: Mapping[str, str] | None = None,
    limits: Mapping[str, Limits] | None = None,
    online: bool = True,
    tags: Mapping[str, str] | None = None,
) -> FeatureView:
    """A feature view that `feast apply` makes in TimescaleDB.

    Args:
        name: also that of the view in the database.
        entities: the two with the join keys `tenant_id` and `asset_id`.
        features: expression of each feature by its name.
        step: time between two rows; default: the `slide_interval` of the aggregations, else one hour.
        horizon: how far ahead rows look. A row is an issue: lags, same hours, weather, series, degree hours,
            calendar, holidays and the sun are arrays with an element for each step from the row's time on,
            NaN where nothing was known at the issue; windows, quantiles and attributes are of the issue.
        rows: of a view with a horizon: the declared view whose rows have its windows and a lag of one step;
            default: it has rows of its own.
        ttl: how old a row may be to be used; default: three steps.
        description: of the view.
        descriptions: of features.
        limits: of features, which `ai-hub check features`, training and materialization check.
        online: whether rows go to the online store.
        tags: further tags of the view.

    Raises:
        DeclarationError: a name or an expression cannot be.
    """
    expressions = {key: expression(each) for key, each in features.items()}
    declaration = Declaration(name, expressions, _step(name, expressions.values(), step), horizon)
    _check(declaration)
    for key, each in features.items():
        if isinstance(each, Aggregation) and each.name not in {"", key}:
            raise DeclarationError(f"{name}: the aggregation {each.name} is declared as {key}.")
    if {each.join_key for each in entities} != {"tenant_id", "asset_id"}:
        raise DeclarationError(
            f"{name}: declared views have the entities with the keys tenant_id and asset_id; "
            "for other keys declare a FeatureView on a table of your own."
        )
    if unknown := sorted((limits or {}).keys() - features.keys()):
        raise DeclarationError(f"{name}: there are limits of {', '.join(unknown)}, and no such feature.")
    if unlimited := sorted((limits or {}).keys() & declaration.of_targets.keys()):
        raise DeclarationError(f"{name}: there are no limits of arrays, such as {', '.join(unlimited)}.")
    relation, read = (name, {}) if rows is None else _columns_of(declaration, rows)
    columns = ", ".join(
        f'"{read[each]}" AS "{each}"' if read.get(each, each) != each else f'"{each}"'
        for each in (
            *("tenant_id", "asset_id", "event_timestamp", "created_timestamp"),
            *declaration.in_database.features,
        )
    )
    own_tags = {STEP_TAG: STEPS[declaration.step]}
    if horizon is not None:
        own_tags[HORIZON_TAG] = f"{horizon / HOUR:g}h"
    if rows is not None:
        own_tags[READS_TAG] = relation
    return FeatureView(
        name=name,
        entities=entities,
        schema=[
            Field(name="tenant_id", dtype=String),
            Field(name="asset_id", dtype=String),
            *(
                Field(
                    name=key,
                    dtype=Array(Float64) if key in declaration.of_targets else each.dtype,
                    description=(descriptions or {}).get(key, ""),
                    tags={
                        EXPRESSION_TAG: json.dumps(each.as_json(), sort_keys=True),
                        LOOKBACK_TAG: str(_lookback(declaration, key)),
                        **(limits[key].tags if limits and key in limits else {}),
                    },
                )
                for key, each in declaration.features.items()
            ),
        ],
        source=PostgreSQLSource(
            name=name,
            query=f'SELECT {columns} FROM "{relation}"',  # noqa: S608  # names are checked
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            description=description,
            tags={"versions": f'SELECT {columns}, superseded_at FROM "{relation}_versions"'},  # noqa: S608  # the same
        ),
        ttl=3 * declaration.step if ttl is None else ttl,
        online=online,
        description=description,
        tags={**(tags or {}), **own_tags},
    )


def _lookback(declaration: Declaration, feature: str) -> int:
    """Whole hours that a feature looks back; 0 of those of the steps ahead, which look at the future."""
    if feature in declaration.of_targets:
        return 0
    return max((leaf.lookback_hours for leaf in declaration.features[feature].leaves()), default=0)


def _columns_of(declaration: Declaration, rows: FeatureView) -> tuple[str, dict[str, str]]:
    """The declared view that a view with a horizon reads, and its column of each feature.

    Raises:
        DeclarationError: it has none of one of them.
    """
    source = declaration_of(rows)
    if declaration.horizon is None or source is None or source.horizon is not None:
        raise DeclarationError(
            f"{declaration.name}: rows is a declared view without a horizon, and of a view with one."
        )
    if source.step != declaration.step:
        raise DeclarationError(
            f"{declaration.name}: {source.name} has rows every {STEPS[source.step]}, not every "
            f"{STEPS[declaration.step]}."
        )
    columns = {str(_plain(each)): name for name, each in source.features.items()}
    wanted = {name: str(_plain(each)) for name, each in declaration.in_database.features.items()}
    if missing := [each for each in wanted.values() if each not in columns]:
        raise DeclarationError(
            f"{declaration.name}: {source.name} has no {' and no '.join(missing)}; declare it there, or "
            "leave out rows."
        )
    return source.name, {name: columns[each] for name, each in wanted.items()}


def _plain(of: Expression) -> Expression:
    """The first or last value of one step is that of the step."""
    if isinstance(of, Window) and of.function in {"first", "last"} and of.time_window == of.slide_interval:
        return Lag(of.column, of.time_window, slide_interval=of.slide_interval)
    return of


def _step(name: str, features: Iterable[Expression], step: timedelta | None) -> timedelta:
    """The step of a view, which its aggregations may say, too."""
    said = {leaf.slide_interval for each in features for leaf in each.leaves() if leaf.slide_interval}
    if step is not None:
        said.add(step)
    if len(said) > 1:
        raise DeclarationError(
            f"{name}: all aggregations slide by the step of the view's rows, not by "
            f"{' and '.join(map(str, sorted(said)))}."
        )
    (found,) = said or {HOUR}
    if found not in STEPS:
        raise DeclarationError(f"{name}: rows come every {', '.join(STEPS.values())}, not every {found}.")
    return found


def _check(declaration: Declaration) -> None:
    name = declaration.name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DeclarationError(
            f"{name!r} is no name of a declared view: a small letter, then at most 47 small letters, digits "
            "and _."
        )
    if name.startswith("pg_") or name.endswith(_SUFFIXES):
        raise DeclarationError(
            f"{name!r} is no name of a declared view: names that begin with pg_ are PostgreSQL's, and those "
            f"that end in {' or '.join(_SUFFIXES)} are of what is made for a view."
        )
    if declaration.horizon is not None:
        _check_horizon(declaration)
    elif not declaration.stored:
        raise DeclarationError(
            f"{name}: a declared view has at least one feature of readings or weather; calendars, holidays "
            "and attributes go beside them."
        )
    for key, each in declaration.features.items():
        if isinstance(each, Holiday) and each.country is None and declaration.horizon is None:
            raise DeclarationError(
                f"{name}.{key}: only a view with a horizon has a Holiday without a country."
            )
        if not isinstance(key, str) or not NAME.fullmatch(key) or key in _RESERVED:
            raise DeclarationError(
                f"{name}: {key!r} is no name of a feature: a small letter, then at most 47 small letters, "
                f"digits and _, and none of {', '.join(sorted(_RESERVED))}."
            )
        try:
            each.check()
        except DeclarationError as error:
            raise DeclarationError(f"{name}.{key}: {error}") from None
        if isinstance(each, WindPower) and declaration.horizon is None:
            raise DeclarationError(f"{name}.{key}: only a view with a horizon has WindPower.")


def _check_horizon(declaration: Declaration) -> None:
    name, step, horizon = declaration.name, declaration.step, declaration.horizon
    if step > HOUR:
        raise DeclarationError(f"{name}: a view of days has no horizon; give it a step of an hour or less.")
    if not isinstance(horizon, timedelta) or horizon % step or not step <= horizon <= LONGEST_HORIZON:
        raise DeclarationError(
            f"{name}: a horizon is a whole number of steps of {STEPS[step]}, {LONGEST_HORIZON // HOUR} hours "
            f"at most, not {horizon}."
        )
    if not declaration.of_targets:
        raise DeclarationError(
            f"{name}: a view with a horizon has a feature of the steps ahead, such as a Lag."
        )
    for key, each in declaration.features.items():
        if key in {VALUE_OF_STEP, TOTAL_OF_STEP}:
            raise DeclarationError(
                f"{name}: {key} is what a view with a horizon reads; name the feature differently."
            )
        if isinstance(each, Pair) and len({leaf.is_of_target for leaf in each.leaves()}) > 1:
            raise DeclarationError(
                f"{name}.{key}: {type(each).__name__} is of two features of the steps ahead, or of two "
                "of the issue."
            )


def declared_name(view: FeatureView) -> str | None:
    """Name of the declared view whose rows a feature view has; None: it says none."""
    reads = (view.tags or {}).get(READS_TAG)
    is_declared = any(EXPRESSION_TAG in (each.tags or {}) for each in view.features)
    return reads or (view.name if is_declared else None)


def declaration_of(view: object) -> Declaration | None:
    """What a view declares; None: it is none of `declared_view`.

    Raises:
        DeclarationError: it has aggregations that nobody would compute, or expressions of a later version.
    """
    if getattr(view, "aggregations", None):
        raise DeclarationError(
            f"{getattr(view, 'name', view)}: Feast computes no aggregations on Postgres, and forgets those "
            "of a BatchFeatureView. Declare them by "
            "feast_plugins.windows.declared_view(features={name: Aggregation(…)})."
        )
    if not isinstance(view, FeatureView):
        return None
    found = {each.name: tag for each in view.features if (tag := (each.tags or {}).get(EXPRESSION_TAG))}
    if not found:
        return None
    tag = (view.tags or {}).get(STEP_TAG, STEPS[HOUR])
    step = next((each for each, text in STEPS.items() if text == tag), None)
    if step is None:
        raise DeclarationError(f"{view.name}: no step of rows that this version knows: {tag}.")
    horizon = (view.tags or {}).get(HORIZON_TAG)
    declaration = Declaration(
        view.name,
        {name: expression_of(json.loads(text)) for name, text in found.items()},
        step,
        None if horizon is None else float(horizon.removesuffix("h")) * HOUR,
    )
    _check(declaration)
    return declaration
