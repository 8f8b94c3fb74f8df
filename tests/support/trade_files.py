"""Files of the trade, by hand after descriptions of their formats; nothing in them is anybody's data."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from typing import Any

from ai_hub.ingest.options import DateOrder, Epoch, FileFormat, Reading, Stamps, TimestampFormat

END = FileFormat(stamps=Stamps.END)
BERLIN = {"timezone": "Europe/Berlin"}


@dataclass(frozen=True)
class Input:
    """A file and what is right."""

    name: str
    content: str | bytes
    #: First instant, value, and where it matters the minutes of the interval, unit and quality of each row.
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    file: str = "x.csv"
    missing: int = 0
    #: A part of each reason for which a row is rejected, with its count.
    rejected: dict[str, int] = field(default_factory=dict)
    #: A part of the error where the whole file is refused.
    refused: str | None = None
    #: A part of a line that says how the file was understood.
    note: str | None = None


def nem(days: str, head: str = "200,NMI0000001,E1,1,E1,N1,M1,KWH,30,\n") -> str:
    return f"100,NEM12,202610011030,MDP1,RET1\n{head}{days}900\n"


def day(values: list[str], quality: str = "A", date: str = "20261001") -> str:
    return f"300,{date},{','.join(values)},{quality},,,20261002000000,\n"


def espi(types: str, readings: str, block: str = "UsagePoint/7/MeterReading/1") -> str:
    base = "https://utility.example/espi/1_1/resource"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:espi="http://naesb.org/espi">
<entry><link rel="self" href="{base}/UsagePoint/7"/><content><espi:UsagePoint/></content></entry>
<entry><link rel="self" href="{base}/UsagePoint/7/MeterReading/1"/>
<link rel="related" href="{base}/ReadingType/1"/><content><espi:MeterReading/></content></entry>
<entry><link rel="self" href="{base}/UsagePoint/7/MeterReading/2"/>
<link rel="related" href="{base}/ReadingType/2"/><content><espi:MeterReading/></content></entry>
{types.replace("BASE", base)}
<entry><link rel="up" href="{base}/{block}/IntervalBlock"/><content><espi:IntervalBlock>
{readings}</espi:IntervalBlock></content></entry></feed>"""


def reading_type(number: int, uom: int, power: int, flow: int = 1, behaviour: int = 4) -> str:
    return f"""<entry><link rel="self" href="BASE/ReadingType/{number}"/><content><espi:ReadingType>
<espi:accumulationBehaviour>{behaviour}</espi:accumulationBehaviour><espi:flowDirection>{flow}</espi:flowDirection>
<espi:intervalLength>3600</espi:intervalLength><espi:powerOfTenMultiplier>{power}</espi:powerOfTenMultiplier>
<espi:uom>{uom}</espi:uom></espi:ReadingType></content></entry>"""


def espi_reading(start: int, value: int, duration: int = 3600, quality: str = "") -> str:
    quality = quality and f"<espi:ReadingQuality><espi:quality>{quality}</espi:quality></espi:ReadingQuality>"
    return f"""<espi:IntervalReading>{quality}<espi:timePeriod><espi:duration>{duration}</espi:duration>
<espi:start>{start}</espi:start></espi:timePeriod><espi:value>{value}</espi:value></espi:IntervalReading>"""


def xlsx(rows: list[list[str | float]]) -> bytes:
    """A workbook with one sheet; the first column is formatted as date and time from the second row."""
    cells = []
    for number, row in enumerate(rows, 1):
        shown = "".join(
            f'<c t="inlineStr"><is><t>{cell}</t></is></c>'
            if isinstance(cell, str)
            else f'<c s="{int(place == 0)}"><v>{cell!r}</v></c>'
            for place, cell in enumerate(row)
        )
        cells.append(f'<row r="{number}">{shown}</row>')
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/styles.xml" ContentType="{kind}.styles+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="Lastgang" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/>'
        '<xf numFmtId="22" applyNumberFormat="1"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>'
        f"{''.join(cells)}</sheetData></worksheet>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()


HOURS = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in (0, 15, 30, 45)]
QUARTERS = [*HOURS[1:], "24:00"]
PERIODS = [str(number) for number in range(1, 51)]

INPUTS = [
    # German load profiles: BDEW, "Lastgang" files of metering operators
    Input(
        "lastgang, end stamps, every form of the repeated hour as instants",
        "Zeitstempel;kW\n"
        + "".join(
            f"25.10.2026 {time};{value},5\n"
            for value, time in enumerate(
                ["02:00", "02:15", "02:30", "02:45", "02:00", "02:15", "02:30", "02:45", "03:00", "03:15"]
            )
        ),
        [
            (f"2026-10-{24 if i < 1 else 25} {t}", i + 0.5, 15, "kW")
            for i, t in enumerate(
                ["23:45", "00:00", "00:15", "00:30", "00:45", "01:00", "01:15", "01:30", "01:45", "02:00"]
            )
        ],
        {**BERLIN, "profile": "german-load-profile"},
    ),
    Input(
        "lastgang, end stamps, the repeated hour as labels that go on to 03:00",
        "Zeitstempel;kW\n"
        + "".join(
            f"25.10.2026 {time};{value},5\n"
            for value, time in enumerate(
                ["02:00", "02:15", "02:30", "02:45", "03:00", "02:15", "02:30", "02:45", "03:00", "03:15"]
            )
        ),
        [
            (f"2026-10-{24 if i < 1 else 25} {t}", i + 0.5, 15, "kW")
            for i, t in enumerate(
                ["23:45", "00:00", "00:15", "00:30", "00:45", "01:00", "01:15", "01:30", "01:45", "02:00"]
            )
        ],
        {**BERLIN, "profile": "german-load-profile"},
    ),
    Input(
        "lastgang, hourly end stamps, 03:00 twice",
        "Datum;Uhrzeit;Verbrauch in kWh\n25.10.2026;02:00;1,0\n25.10.2026;03:00;2,0\n25.10.2026;03:00;3,0\n"
        "25.10.2026;04:00;4,0\n",
        [
            ("2026-10-24 23:00", 1.0, 60),
            ("2026-10-25 00:00", 2.0, 60),
            ("2026-10-25 01:00", 3.0, 60),
            ("2026-10-25 02:00", 4.0, 60),
        ],
        {**BERLIN, "profile": "german-load-profile", "columns": {"value": "Verbrauch in kWh"}},
    ),
    Input(
        "lastgang, end stamp at the hour that is skipped",
        "Zeitstempel;kWh\n29.03.2026 01:45;1,5\n29.03.2026 02:00;2,5\n29.03.2026 03:15;3,5\n",
        [("2026-03-29 00:30", 1.5), ("2026-03-29 00:45", 2.5), ("2026-03-29 01:00", 3.5)],
        {**BERLIN, "profile": "german-load-profile"},
    ),
    Input(
        "lastgang, status column of the profile",
        "Datum;Zeit;Wert;Status\n01.10.2026;00:15;1,5;W\n01.10.2026;00:30;1,5;E\n01.10.2026;00:45;1,5;X9\n",
        [("2026-09-30 22:00", 1.5, 15, "", "good"), ("2026-09-30 22:15", 1.5, 15, "", "estimated")],
        {**BERLIN, "profile": "german-load-profile"},
        rejected={"see --quality-map": 1},
    ),
    Input(
        "one row a day with 96 columns to 24:00",
        "Datum;" + ";".join(QUARTERS) + "\n01.10.2026;" + ";".join(f"{i},5" for i in range(96)) + "\n",
        [("2026-09-30 22:00", 0.5, 15), ("2026-09-30 22:15", 1.5, 15)],
        {**BERLIN, "profile": "german-load-profile"},
        note="one row a day: 96 columns",
    ),
    Input(
        "one row a day with 96 columns, start or end not said",
        "Datum;" + ";".join(QUARTERS) + "\n01.10.2026;" + ";".join(f"{i},5" for i in range(96)) + "\n",
        options=BERLIN,
        refused="--stamps start or --stamps end",
    ),
    Input(
        "one row a day with 24 hours from 00:00",
        "date," + ",".join(HOURS[::4]) + "\n2026-10-01," + ",".join(str(i) for i in range(24)) + "\n",
        [("2026-10-01 00:00", 0.0, 60), ("2026-10-01 01:00", 1.0, 60)],
    ),
    # SMARD (Bundesnetzagentur): download of market data as CSV
    Input(
        "SMARD, from and to in columns",
        "\ufeffDatum von;Datum bis;Netzlast [MWh] Berechnete Auflösungen\n"
        "25.10.2026 02:45;25.10.2026 02:00;11.234,25\n25.10.2026 02:00;25.10.2026 02:15;11.100,5\n"
        "25.10.2026 03:00;25.10.2026 03:15;-\n",
        [("2026-10-25 00:45", 11234.25, 15, "MWh"), ("2026-10-25 01:00", 11100.5, 15, "MWh")],
        {"profile": "smard"},
        missing=1,
    ),
    # ENTSO-E Transparency Platform: export of load and prices as CSV
    Input(
        "ENTSO-E, CET/CEST in the header, hours of a clock change",
        '"MTU (CET/CEST)","Area","Actual Total Load (MW)"\n'
        '"25/10/2026 01:00:00 - 25/10/2026 02:00:00","BZN|DE-LU","41000"\n'
        '"25/10/2026 02:00:00 - 25/10/2026 03:00:00","BZN|DE-LU","40000"\n'
        '"25/10/2026 02:00:00 - 25/10/2026 03:00:00","BZN|DE-LU","39000"\n'
        '"25/10/2026 03:00:00 - 25/10/2026 04:00:00","BZN|DE-LU","n/e"\n',
        [
            ("2026-10-24 23:00", 41000.0, 60, "MW"),
            ("2026-10-25 00:00", 40000.0, 60, "MW"),
            ("2026-10-25 01:00", 39000.0, 60, "MW"),
        ],
        {"profile": "entsoe"},
        missing=1,
        note="time zone Europe/Brussels",
    ),
    Input(
        "ENTSO-E, CEST and CET behind the stamps",
        "Time (CET/CEST),Load [MW]\n25/10/2026 02:00:00 (CEST) - 25/10/2026 02:00:00 (CET),40000\n"
        "25/10/2026 02:00:00 (CET) - 25/10/2026 03:00:00 (CET),39000\n",
        [("2026-10-25 00:00", 40000.0, 60), ("2026-10-25 01:00", 39000.0, 60)],
    ),
    Input(
        "ENTSO-E, actual and forecast: nothing tells which one",
        "MTU (UTC),Day-ahead Total Load Forecast [MW],Actual Generation [MW]\n"
        "01.10.2026 00:00 - 01.10.2026 01:00,1,2\n",
        refused="--columns value=COLUMN",
    ),
    Input(
        "header in CET alone could be a clock or an offset",
        "Time (CET),Load [MW]\n01.10.2026 00:00,1\n",
        refused="--timezone Europe/Berlin",
    ),
    # NEM12: AEMO, Meter Data File Format Specification NEM12 and NEM13
    Input(
        "NEM12, 400 records for a day of variable quality",
        nem(day([f"{i}.5" for i in range(48)], "V") + "400,1,20,A,,\n400,21,24,S14,,\n400,25,48,N,,\n"),
        [(f"2026-09-30 {14 + i // 2}:{i % 2 * 30:02}", i + 0.5, 30, "kWh", "good") for i in range(20)]
        + [("2026-10-01 00:00", 20.5, 30, "kWh", "estimated")],
        missing=24,
        note="profile nem12",
    ),
    Input(
        "NEM12, several meters and registers",
        nem(day(["1"] * 48))
        + nem(day(["2"] * 48), "200,NMI0000002,E1B1,1,B1,N1,M2,WH,30,\n").partition("\n")[2],
        [("2026-09-30 14:00", 1.0, 30, "kWh", "good", "NMI0000001-E1")],
        {"asset": None},
    ),
    Input(
        "NEM12, several registers and one asset",
        nem(day(["1"] * 48)) + "200,NMI0000001,E1B1,1,B1,N1,M2,KWH,30,\n" + day(["2"] * 48),
        refused="--where",
    ),
    Input(
        "NEM12, the register that was chosen",
        nem(day(["1"] * 48)) + "200,NMI0000001,E1B1,1,B1,N1,M2,KWH,30,\n" + day(["2"] * 48),
        [("2026-09-30 14:00", 2.0, 30)],
        {"form": FileFormat(where={"register": "B1"})},
    ),
    Input(
        "NEM12, five minutes",
        nem(day(["0.25"] * 288, "E52"), "200,NMI0000001,E1,1,E1,N1,M1,KWH,5,\n"),
        [("2026-09-30 14:00", 0.25, 5, "kWh", "estimated"), ("2026-09-30 14:05", 0.25, 5)],
    ),
    Input(
        "NEM12, fifteen minutes after thirty",
        nem(day(["2"] * 48) + "200,NMI0000001,E1,1,E1,N1,M1,KWH,15,\n" + day(["1"] * 96, date="20261002")),
        [("2026-09-30 14:00", 2.0, 30)],
    ),
    Input(
        "NEM12, days that have too few values or no date",
        nem(day(["1"] * 47) + day(["1"] * 48, date="20261399") + day(["1"] * 48) + "300\n"),
        [("2026-09-30 14:00", 1.0, 30)],
        rejected={"does not have 48 values": 2, "has no date": 1},
    ),
    # Green Button: NAESB REQ.21 (ESPI) in Atom; CSV as US utilities offer it
    Input(
        "Green Button XML, power of ten, quality",
        espi(
            reading_type(1, 72, -3),
            espi_reading(1790812800, 385000) + espi_reading(1790816400, 400000, quality="8"),
        ),
        [("2026-10-01 00:00", 385.0, 60, "Wh", "good"), ("2026-10-01 01:00", 400.0, 60, "Wh", "estimated")],
        file="x.xml",
        note="profile green-button",
    ),
    Input(
        "Green Button XML, flow of the block's own reading type",
        espi(
            reading_type(1, 72, 3) + reading_type(2, 72, 0, flow=19),
            espi_reading(1790812800, 900, 900),
            "UsagePoint/7/MeterReading/2",
        ),
        [("2026-10-01 00:00", 900.0, 15, "Wh", "good", "7-received")],
        {"asset": None},
        file="x.xml",
    ),
    Input(
        "Green Button XML, gas in therms",
        espi(reading_type(1, 169, -5), espi_reading(1790812800, 12345)),
        [("2026-10-01 00:00", 0.12345, 60, "therm")],
        file="x.xml",
    ),
    Input(
        "Green Button XML, a register that counts on",
        espi(
            reading_type(1, 72, 0, behaviour=3),
            espi_reading(1790812800, 45000, 0) + espi_reading(1790816400, 45385, 0),
        ),
        [("2026-10-01 00:00", 45000.0, None, "Wh"), ("2026-10-01 01:00", 45385.0, None, "Wh")],
        file="x.xml",
        note="a register that counts on",
    ),
    Input(
        "Green Button XML, a register that was read at the end of its intervals",
        espi(reading_type(1, 72, 0, behaviour=1), espi_reading(1790812800, 45000)),
        [("2026-10-01 01:00", 45000.0, None, "Wh")],
        {"form": END},
        file="x.xml",
    ),
    Input(
        "Green Button XML, a register with intervals",
        espi(reading_type(1, 72, 0, behaviour=3), espi_reading(1790812800, 45000)),
        file="x.xml",
        rejected={"say with --stamps start or end": 1},
    ),
    Input(
        "Green Button XML, a register that is said to be energy",
        espi(reading_type(1, 72, 0, behaviour=3), espi_reading(1790812800, 45000, 0)),
        options={"reading": Reading.ENERGY},
        file="x.xml",
        refused="not energy",
    ),
    Input(
        "Zählerstände: a register at the end of quarters, below 0 and with too many digits",
        "Datum;Zeit;Zählerstand [kWh]\n01.10.2026;00:15;4.711,5\n01.10.2026;00:30;4.712,0\n"
        "01.10.2026;00:45;-1,0\n01.10.2026;01:00;100.000,0\n",
        [("2026-09-30 22:15", 4711.5, None, "kWh"), ("2026-09-30 22:30", 4712.0, None, "kWh")],
        {**BERLIN, "profile": "german-load-profile", "reading": Reading.REGISTER, "digits": 5},
        rejected={"below 0": 1, "more digits than the register": 1},
    ),
    Input(
        "Green Button XML, document type",
        espi(reading_type(1, 72, 0), espi_reading(1790812800, 1)).replace(
            "<feed", '<!DOCTYPE feed [<!ENTITY a "1">]>\n<feed', 1
        ),
        file="x.xml",
        refused="document type",
    ),
    Input(
        "Green Button CSV, quarter hours, last minute included",
        "Name,A. N. Other\nAddress,1 Example St\n\n"
        "TYPE,DATE,START TIME,END TIME,USAGE (kWh),NOTES\n"
        "Electric usage,2026-10-01,23:30,23:44,0.12,\nElectric usage,2026-10-01,23:45,23:59,0.13,\n",
        [("2026-10-02 06:30", 0.12, 15, "kWh"), ("2026-10-02 06:45", 0.13, 15, "kWh")],
        {"timezone": "America/Los_Angeles", "profile": "green-button-csv"},
        note="header in line 4, 3 line(s) before it skipped",
    ),
    Input(
        "Green Button CSV, end on the hour, month first",
        "TYPE,DATE,START TIME,END TIME,IMPORT (kWh)\nElectric usage,10/31/2026,23:00,00:00,0.5\n",
        [("2026-11-01 06:00", 0.5, 60, "kWh")],
        {"timezone": "America/Los_Angeles"},
        note="dates as mdy",
    ),
    # Great Britain: settlement dates and periods of Elexon, half-hourly data of suppliers
    Input(
        "settlement periods on the day with 50",
        "Settlement Date,Settlement Period,kWh\n2026-10-25,3,1.5\n2026-10-25,5,2.5\n2026-10-25,50,3.5\n"
        "2026-10-25,51,4.5\n",
        [("2026-10-25 00:00", 1.5, 30), ("2026-10-25 01:00", 2.5, 30), ("2026-10-25 23:30", 3.5, 30)],
        {"profile": "uk-settlement", "interval": "30min"},
        rejected={"does not have so many periods": 1},
    ),
    Input(
        "settlement periods on the day with 46, day first",
        "Settlement Date,Settlement Period,kWh\n29/03/2026,2,1.5\n29/03/2026,3,2.5\n29/03/2026,46,3.5\n"
        "29/03/2026,47,4.5\n",
        [("2026-03-29 00:30", 1.5, 30), ("2026-03-29 01:00", 2.5, 30), ("2026-03-29 22:30", 3.5, 30)],
        {"profile": "uk-settlement", "interval": "30min"},
        rejected={"does not have so many periods": 1},
    ),
    Input(
        "settlement periods without a profile",
        "Settlement Date,Settlement Period,kWh\n2026-10-01,1,1.5\n",
        refused="--profile uk-settlement",
    ),
    Input(
        "half hours in 50 columns",
        "MPAN,Date," + ",".join(f"SP{number}" for number in PERIODS) + "\n"
        f"123,2026-10-24,{','.join(PERIODS[:48])},,\n123,2026-10-25,{','.join(PERIODS)}\n",
        [("2026-10-23 23:00", 1.0, 30), ("2026-10-23 23:30", 2.0, 30)],
        {"profile": "uk-settlement"},
    ),
    # Open-Meteo: CSV of the weather interface; one offset for all stamps (issue 488 of open-meteo/open-meteo)
    Input(
        "Open-Meteo, Fahrenheit, km/h, fixed offset over a clock change",
        "latitude,longitude,elevation,utc_offset_seconds,timezone,timezone_abbreviation\n"
        "52.5,13.4,38.0,7200,Europe/Berlin,CEST\n\n"
        "time,temperature_2m (°F),wind_speed_10m (km/h),precipitation (inch)\n"
        "2026-10-25T02:00,50.0,36.0,0.1\n2026-10-25T03:00,32.0,18.0,0.0\n2026-10-25T04:00,41.0,NaN,0.0\n",
        [("2026-10-25 00:00", 10.0), ("2026-10-25 01:00", 0.0), ("2026-10-25 02:00", 5.0)],
        {"weather": True},
        note="offset of every timestamp +02:00",
    ),
    Input(
        "weather in a unit that does not convert",
        "time,temperature (furlong)\n2026-10-01T00:00,1\n",
        options={"weather": True},
        refused="Units of temperature",
    ),
    # Spreadsheets: ECMA-376; serial days of Excel's 1900 system
    Input(
        "Excel sheet with a title, date cells and numbers",
        xlsx(
            [
                ["Lastgang Halle"],
                [""],
                ["Zeitstempel", "Verbrauch [kWh]"],
                [46296.25, 12.5],
                [46296.260416666664, 13.0],
            ]
        ),
        [("2026-10-01 04:00", 12.5, None, "kWh"), ("2026-10-01 04:15", 13.0, None, "kWh")],
        {**BERLIN, "interval": "15min"},
        file="x.xlsx",
        note="header in line 3",
    ),
    Input(
        "serial days in a CSV",
        "Zeitstempel;Wert\n46296,25;12,5\n46296,2604166667;13,5\n".replace("46296,", "46296."),
        [("2026-10-01 04:00", 12.5), ("2026-10-01 04:15", 13.5)],
        {**BERLIN, "timestamp_format": TimestampFormat(epoch=Epoch.EXCEL)},
    ),
    # Datadis (Spain) and Enedis (France): downloads of one's own meter
    Input(
        "Datadis, hours to 24:00",
        "cups;fecha;hora;consumo_kWh;metodoObtencion\nES0021;2026/10/01;01:00;0,251;Real\n"
        "ES0021;2026/10/01;24:00;0,1;Estimada\n",
        [("2026-09-30 22:00", 0.251, 60, "kWh", "good"), ("2026-10-01 21:00", 0.1, 60, "kWh", "estimated")],
        {"profile": "datadis", "interval": "60min"},
    ),
    Input(
        "Enedis, lines before the header, offset in the stamp",
        "Identifiant PRM;Type;Date de debut;Date de fin;Unite\n123;Courbe;01/10/2026;02/10/2026;W\n"
        "Horodate;Valeur\n2026-10-01T00:30:00+02:00;350\n2026-10-01T01:00:00+02:00;400\n",
        [("2026-09-30 22:00", 350.0, 30, "W"), ("2026-09-30 22:30", 400.0, 30, "W")],
        {"profile": "enedis", "interval": "30min"},
    ),
    # Numbers: CLDR number patterns of de, de-CH, fr, en-US
    Input(
        "numbers, Swiss groups",
        "Zeitstempel;Wert\n01.10.2026 00:00;1'234.5\n01.10.2026 00:15;0.25\n",
        [("2026-10-01 00:00", 1234.5), ("2026-10-01 00:15", 0.25)],
    ),
    Input(
        "numbers, French groups of narrow blanks",
        "horodate;valeur\n2026-10-01 00:00;1\u202f234,5\n2026-10-01 00:15;12 345,25\n",
        [("2026-10-01 00:00", 1234.5), ("2026-10-01 00:15", 12345.25)],
    ),
    Input(
        "numbers, quoted with groups of commas",
        'time,kWh\n2026-10-01 00:00,"1,234.5"\n2026-10-01 00:15,"1,234"\n',
        [("2026-10-01 00:00", 1234.5), ("2026-10-01 00:15", 1234.0)],
        note="thousands ','",
    ),
    Input(
        "numbers that could be either",
        "Zeitstempel;Wert\n01.10.2026 00:00;1.234\n01.10.2026 00:15;2.345\n",
        refused="--decimal",
    ),
    Input(
        "numbers that could be either, decided by option",
        "Zeitstempel;Wert\n01.10.2026 00:00;1.234\n",
        [("2026-10-01 00:00", 1234.0)],
        {"form": FileFormat(decimal=",")},
    ),
    Input(
        "numbers of both kinds",
        "Zeitstempel;Wert\n01.10.2026 00:00;1,5\n01.10.2026 00:15;2.5\n",
        refused="decimal comma and with decimal point",
    ),
    Input(
        "a lone group beside decimal commas",
        "Zeitstempel;Wert\n01.10.2026 00:00;1,5\n01.10.2026 00:15;1.234\n",
        [("2026-10-01 00:00", 1.5)],
        rejected={"see --thousands": 1},
    ),
    # Dates: CLDR date patterns of en-US, en-GB; zone names of the tz database
    Input(
        "US dates with AM and PM",
        "Start Time,kWh\n10/31/2026 11:00 PM,1\n11/1/2026 12:00 AM,2\n",
        [("2026-11-01 03:00", 1.0), ("2026-11-01 04:00", 2.0)],
        {"timezone": "America/New_York"},
        note="dates as mdy",
    ),
    Input(
        "dates that could be either",
        "time,kWh\n01/02/2026 00:00,1\n03/04/2026 00:00,2\n",
        refused="--date-format",
    ),
    Input(
        "dates that could be either, decided by option",
        "time,value\n01/02/2026 00:00,1\n",
        [("2026-02-01 00:00", 1.0)],
        {"timestamp_format": TimestampFormat(order=DateOrder.DAY)},
    ),
    Input(
        "EDT and EST in the hour that is repeated",
        "time,value\n2026-11-01 01:30 EDT,1\n2026-11-01 01:30 EST,2\n",
        [("2026-11-01 05:30", 1.0), ("2026-11-01 06:30", 2.0)],
        {"timezone": "America/New_York"},
    ),
    Input(
        "BST and GMT, month by name",
        "time,value\n25 Oct 2026 01:30 BST,1\n25-Oct-2026 01:30 GMT,2\n",
        [("2026-10-25 00:30", 1.0), ("2026-10-25 01:30", 2.0)],
        {"timezone": "Europe/London"},
    ),
    Input(
        "BST without a zone",
        "time,value\n2026-10-01 01:30 BST,1\n",
        rejected={"see --timezone": 0, "say --timezone": 1},
    ),
    Input(
        "hours 2A and 2B",
        "Datum;Zeit;Wert\n25.10.2026;2A:00;1\n25.10.2026;2B:00;2\n",
        [("2026-10-25 00:00", 1.0), ("2026-10-25 01:00", 2.0)],
        BERLIN,
    ),
    # Encodings and headers
    Input(
        "Windows-1252",
        "Zählpunkt;Zeitstempel;Wert\nGebäude 1;01.10.2026 00:00;1,5\n".encode("cp1252"),
        [("2026-10-01 00:00", 1.5, None, "", "good", "Gebäude 1")],
        {"asset": None},
        note="encoding cp1252",
    ),
    Input(
        "UTF-16 without a mark",
        "timestamp;value\n2026-10-01T00:00Z;1,5\n".encode("utf-16-le"),
        [("2026-10-01 00:00", 1.5)],
        note="encoding utf-16-le",
    ),
    Input(
        "neither Unicode nor Windows-1252", b"time;value\n2026-10-01;1\n\x81\x8d;2\n", refused="--encoding"
    ),
    Input(
        "no header",
        "2026-10-01T00:00Z;1,5\n2026-10-01T01:00Z;2,5\n",
        [("2026-10-01 00:00", 1.5), ("2026-10-01 01:00", 2.5)],
        {"form": FileFormat(header=0), "columns": {"timestamp": "1", "value": "2"}},
    ),
    Input(
        "lines before the header that are skipped by option",
        "x,y\ntime,value\nreport of,2026\ntime,value\n2026-10-01T00:00Z,1\n",
        [("2026-10-01 00:00", 1.0)],
        {"form": FileFormat(header=4)},
    ),
    Input(
        "separated by tabs",
        "time\tvalue\n2026-10-01T00:00Z\t1,5\n",
        [("2026-10-01 00:00", 1.5)],
        file="x.tsv",
    ),
]
