"""Rows of declared features as PostgreSQL's binary format."""

from __future__ import annotations

import struct

import numpy as np

from feast_plugins.windows.history import _encoded


def test_encoded__of_no_rows_is_empty_and_nan_is_null() -> None:
    assert _encoded(0, [(">f8", np.array([], float)), ("S3", b"abc")], prefix=b"\0\2") == b""
    two = _encoded(2, [(">f8", np.array([1.5, np.nan])), (">i8", np.array([np.nan, 7.0]))], prefix=b"\0\2")
    assert two == struct.pack(">hidi", 2, 8, 1.5, -1) + struct.pack(">hiiq", 2, -1, 8, 7)
