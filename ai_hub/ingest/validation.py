"""Hold rows against the rules of their assets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ai_hub.ingest import rules
from ai_hub.ingest.terms import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.ingest.assets import Asset
    from ai_hub.ingest.datasets import Dataset


def validate(dataset: Dataset, rows: pd.DataFrame, known: Mapping[str, Asset]) -> pd.Series[str]:
    """Why rows break the rules of their asset's kind and capacity; empty where they do not."""
    reasons = pd.Series("", index=rows.index, dtype=object)
    capacities = {asset_id: asset.capacity for asset_id, asset in known.items() if asset.capacity is not None}
    if capacities:
        rows = rows.assign(capacity=rows["asset_id"].map(capacities).astype("float64"))
    kinds = rows["asset_id"].map({asset_id: asset.kind for asset_id, asset in known.items()})
    registers = rows["asset_id"].map(
        {name: asset.reading is Reading.REGISTER for name, asset in known.items()}
    )
    for (kind, is_register), group in rows.groupby([kinds, registers.astype(bool)], sort=False):
        schema = dataset.schema(str(kind), rated=bool(capacities), is_register=bool(is_register))
        reasons.update(rules.violations(schema, group))
    digits = {name: asset.register_digits for name, asset in known.items() if asset.register_digits}
    if digits:
        end = 10.0 ** rows["asset_id"].map(digits).astype("float64")
        reasons = reasons.mask((rows["value"] >= end) & (reasons == ""), rules.TOO_MANY_DIGITS)
    return reasons
