"""From a file to readings and weather in TimescaleDB.

A row crosses these modules in this order:

1. `files` takes a path and `options`; `pipeline` runs the steps below for each block of rows.
2. `reader` opens the file: `tables` (text, Parquet, spreadsheets), `nem12` or `green_button`.
3. `layout` decides once how to read it (`columns`, `numbers`, units, zone, dates); `cells` reads it so.
4. `localizer` converts timestamps to UTC, with `timestamps` (parsing) and `timezones` (clock changes).
5. `datasets` makes typed rows: readings or weather. `normalization` converts readings to the unit of their
   asset (`assets`, `units`) and infers the interval each one covers.
6. `validation` applies the rules of the asset's kind and the tenant's `policies`. Rejected rows go to
   `rejects`, good ones to `upsert`.
7. `checks` reads the series around the written rows; `detection` finds gaps, stuck meters and registers, and
   `findings` stores them. `report` summarizes the run.

`removal` deletes readings and assets. `options` is quick to import; the command line takes its enumerations.
"""

import os

# Importing pandera sets this to "1" where it is unset, for the sake of Spark; from then on pyarrow takes
# times of any zone for times in UTC, in the whole process.
os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "")
