"""Meter readings and weather from files into TimescaleDB, and the register of assets they belong to."""

import os

# Importing pandera sets this to "1" where it is unset, for the sake of Spark; from then on pyarrow takes
# times of any zone for times in UTC, in the whole process.
os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "")
