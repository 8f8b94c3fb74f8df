"""Values of single precision to draw from."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

_LIMITS = np.finfo(np.float32)
_SPECIAL = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), float(_LIMITS.max), float(_LIMITS.tiny)]
#: `floats(width=32)` now and then does not give the same number when it is asked again.
SINGLES = st.floats(-1e38, 1e38).map(lambda value: float(np.float32(value))) | st.sampled_from(_SPECIAL)
