"""What worker processes share: the process that they are forked from imports this module, see `server`."""

from __future__ import annotations

import gc

from ai_hub.imports import skip_type_checks

skip_type_checks()

import ai_hub.api.app  # noqa: E402, F401  # without the checks

gc.collect()
# collections in workers would write to each object, and so copy its page
gc.freeze()
