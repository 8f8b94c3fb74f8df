"""Statements of declared views, as text."""

from __future__ import annotations

import re
from datetime import timedelta

from feast.aggregation import Aggregation
from support.declared_views import declare

from ai_hub import paths
from feast_plugins.windows import Lag
from feast_plugins.windows.statements import Statements

DAY = timedelta(days=1)


def test_compute__ranges_of_one_row__no_windows_over_ranges_are_planned() -> None:
    features = {"mean": Aggregation("value", "mean", DAY), "lag": Lag("value", 7 * DAY)}
    statement = Statements(declare("some_view", features)).compute
    pattern = r"/\* long ranges \*/.*/\* end of long ranges \*/"
    # what compute_declared_ranges() takes out
    code = (paths.resource("sql") / "code" / "053_declared_features.sql").read_text()
    assert f"regexp_replace(declared.statement, '{pattern}', '')" in code
    assert " OVER " in statement
    assert " OVER " not in re.sub(pattern, "", statement, flags=re.DOTALL)


def test_compute__readings_near_and_far__one_query_of_the_aggregate() -> None:
    lags = {f"lag_{days}d": Lag("value", days * DAY) for days in (1, 7, 28)}
    statement = Statements(declare("some_view", lags)).compute
    assert statement.partition("/* long ranges */")[0].count("FROM public.hourly_features") == 1
