"""A visitor's own file: read however it is written, answered as anywhere else, or told why not."""

import csv
import io
import itertools
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from conftest import DOMAINS, usual
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet  # type: ignore[import-untyped]
from test_files import some_rows

from smartcity.dashboard import upload, upload_panel
from smartcity.dashboard.upload import ANSWER, Answered, UploadError
from smartcity.dashboard.upload_panel import UploadPanel
from smartcity.predict import Predictor, files_rows
from smartcity.predict.files import answer_file
from smartcity.predict.files_in import number

Predictors = dict[str, Predictor]
TRAFFIC = "car_count,bike_count,bus_count,truck_count"


@pytest.fixture(scope="session")
def predictors(published: Path) -> Predictors:
    return {name: Predictor.load(name, folder=published) for name in DOMAINS}


@pytest.fixture
def traffic(predictors: Predictors) -> Predictor:
    return predictors["traffic"]


def write(
    rows: Sequence[dict[str, Any]],
    delimiter: str = ",",
    decimal: str = ".",
    quoting: Any = csv.QUOTE_MINIMAL,
    newline: str = "\n",
) -> str:
    """Write rows as people's programs do."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=newline)
    writer.writerow(rows[0])
    for row in rows:
        cells = ["" if v is None else v for v in row.values()]
        shown = [repr(v).replace(".", decimal) if isinstance(v, float) else v for v in cells]
        writer.writerow(shown)
    return text.getvalue()


def answered(content: bytes | str, predictor: Predictor, **given: Any) -> Answered:
    """Answer a file as it is guessed to be."""
    content = content.encode() if isinstance(content, str) else content
    layout = upload.guess(content, predictor.domain, **given)
    return upload.answer(content, layout, predictor)


def answers(done: Answered) -> list[dict[str, Any]]:
    """Give the answers alone, by name."""
    return [dict(zip(ANSWER, row[-len(ANSWER) :], strict=True)) for row in done.rows]


def as_said(predictor: Predictor, row: dict[str, Any]) -> dict[str, Any]:
    """Answer a row by itself, as the columns of a file."""
    said = predictor.predict({k: v for k, v in row.items() if k != "station"})
    return {
        "prediction": said.prediction,
        "label": said.label,
        "low": said.interval.low if said.interval else None,
        "high": said.interval.high if said.interval else None,
        "confidence": said.confidence,
        "inputs_outside_training": ", ".join(said.inputs_outside_training),
        "inputs_at_edge": ", ".join(said.inputs_at_edge),
        "unusual_combination": said.unusual_combination,
        "warnings": " ".join(said.warnings),
        "model_version": said.model_version,
        "simulated": True,
    }


def reads(content: bytes, delimiter: str = ",") -> list[list[str]]:
    """Read a CSV file of ours back."""
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig")), delimiter=delimiter))


def cells(content: bytes) -> Iterator[list[tuple[str, str]]]:
    """Read a workbook's first sheet: each cell's type and text, blank ones too."""
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        sheet = ET.fromstring(book.read("xl/worksheets/sheet1.xml"))  # noqa: S314  # our own
        strings = ET.fromstring(book.read("xl/sharedStrings.xml"))  # noqa: S314
    texts = ["".join(part.itertext()) for part in strings]
    width = 0
    for row in sheet.iter(f"{main}row"):
        assert not [*row.iter(f"{main}f")]  # no formula anywhere
        found: dict[int, tuple[str, str]] = {}
        for cell in row:
            place = 0
            for letter in re.sub(r"\d", "", cell.attrib["r"]):
                place = 26 * place + ord(letter) - 64
            kind, value = cell.get("t", "n"), cell.findtext(f"{main}v") or ""
            found[place - 1] = (kind, texts[int(value)] if kind == "s" else value)
        width = width or len(found)
        yield [found.get(n, ("n", "")) for n in range(width)]


# --- reading -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    name=st.sampled_from(DOMAINS),
    delimiter=st.sampled_from(upload.DELIMITERS),
    decimal=st.sampled_from(upload.DECIMALS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252"]),
    seed=st.integers(0, 9),
)
def test_a_file_is_answered_as_each_of_its_rows_however_it_is_written(
    predictors: Predictors, seed: int, name: str, encoding: str, **dialect: Any
) -> None:
    predictor = predictors[name]
    rows = [row | {"station": "Süd; 3,\t|"} for row in some_rows(predictor.card, 12, seed)]
    content = write(rows, **dialect).encode(encoding)

    layout = upload.guess(content, predictor.domain)
    done = upload.answer(content, layout, predictor)

    assert layout.delimiter == dialect["delimiter"]
    assert answers(done) == [as_said(predictor, row) for row in rows]
    assert {row[0] for row in done.rows} == {"Süd; 3,\t|"}


@given(st.text("0123456789.,-+eE_ nainf\t%") | st.text())
@example("1_0")
def test_a_cell_is_read_as_the_command_reads_it(cell: str) -> None:
    for mark, delimiter in ((".", ","), (",", ";")):
        assert repr(upload._number(cell, mark)) == repr(number(cell, delimiter))


@pytest.mark.parametrize("make", [upload.sample, upload.broken])
@pytest.mark.parametrize("name", DOMAINS)
def test_the_command_says_the_same_of_the_same_file(
    tmp_path: Path, predictors: Predictors, name: str, make: Any
) -> None:
    predictor, content = predictors[name], make(predictors[name])
    (tmp_path / "in.csv").write_bytes(content)

    answer_file(predictor, tmp_path / "in.csv", tmp_path / "out.parquet")
    done = answered(content, predictor)

    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    ours = [{**said, "warnings": said["warnings"]} for said in answers(done)]
    assert [{n: row[n] for n in files_rows.ANSWER} for row in table] == [
        {n: row[n] for n in files_rows.ANSWER} for row in ours
    ]
    if make is upload.broken:
        theirs = reads((tmp_path / "out.rejected.csv").read_bytes())
        assert reads(upload.refused_as_csv(done)) == theirs


@pytest.mark.parametrize(
    "header",
    [
        TRAFFIC,
        "CarCount,BikeCount,BusCount,TruckCount",
        " car count ,BIKE_COUNT,Bus-Count,truckCount",
        "Cars,Bikes,Buses,Trucks",
        "Cars (vehicles in 15 min),Bikes,Buses,Trucks",
        "car_counts,bike_cnt,bus_count,trucks_count",
        "car_count,Bikes,BusCount,truck_count",
    ],
)
def test_columns_are_found_by_name(traffic: Predictor, header: str) -> None:
    layout = upload.guess(f"{header}\n1,2,3,4\n".encode(), traffic.domain)

    assert dict(layout.mapping) == {n: i for i, n in enumerate(TRAFFIC.split(","))}


def test_published_names_and_a_comma_for_a_point_are_found(predictors: Predictors) -> None:
    domain = predictors["air_quality"].domain
    content = f"{';'.join(domain.format.header)}\r\n10/03/2004;18.00.00;2,6;1360;-200;1,5{';' * 11}"

    layout = upload.guess(content.encode(), domain)

    assert (layout.delimiter, layout.decimal) == (";", ",")
    found = {layout.columns[place]: name for name, place in layout.mapping.items()}
    assert found["Date"] == "timestamp"
    assert found["T"] == "temperature"
    assert {*layout.mapping} == {*domain.names, "timestamp", "time"}
    assert layout.columns[-2:] == ("column 16", "column 17")


@pytest.mark.parametrize(
    "text",
    [
        "timestamp\n2022-02-01T08:20\n",
        "when,what\n2022-02-01 08:20:00,x\n",
        "Date;Time;x\n2022-02-01;08:20;1\n",
        ",TxnDate,TxnTime,Consumption\n0,01 Feb 2022,08:20:00,1.2\n",
        "day|month|hour|minute\n1|2|8|20\n",
        "timestamp,day,month,hour,minute\n2022-02-01 08:20,9,9,9,9\n",
        "2022-02-01 08:20\n",
        "1\t2\t8\t20\n",
    ],
)
def test_a_time_is_found_however_it_is_given(predictors: Predictors, text: str) -> None:
    predictor = predictors["energy"]

    [said] = answers(answered(text, predictor))

    row = {"day": 1, "month": 2, "hour": 8, "minute": 20}
    assert said["prediction"] == predictor.predict(row).prediction


def test_a_time_of_day_alone_is_no_date(traffic: Predictor) -> None:
    text = f"Time,Date,Day of the week,{TRAFFIC}\n12:00:00 AM,10,Tuesday,1,2,3,4\n"

    done = answered(text, traffic)

    assert "timestamp" not in done.layout.mapping
    assert len(done.rows) == 1


def test_a_file_without_names_is_taken_in_order_and_says_so(traffic: Predictor) -> None:
    done = answered("60;10;8;5\n61;11;8;5\n", traffic)

    assert not done.layout.header
    assert done.layout.columns == ("column 1", "column 2", "column 3", "column 4")
    assert [note for note, _ in done.layout.notes] == ["unnamed"]
    row = dict(zip(TRAFFIC.split(","), (60, 10, 8, 5), strict=True))
    assert answers(done)[0] == as_said(traffic, row)
    assert done.lines == [1, 2]


def test_a_sum_and_inputs_that_may_lack_need_no_column(predictors: Predictors) -> None:
    row = usual(predictors["air_quality"].card)
    lean = {k: v for k, v in row.items() if k not in {"NMHC_GT", "NOx_GT", "NO2_GT"}}
    full = lean | dict.fromkeys(("NMHC_GT", "NOx_GT", "NO2_GT"))

    done = answered(write([lean]), predictors["air_quality"])
    summed = answered(f"{TRAFFIC},Total\n1,2,3,4,10\n1,2,3,4,11\n", predictors["traffic"])

    assert answers(done) == [as_said(predictors["air_quality"], full)]
    [refused] = summed.refused
    assert refused.why.startswith("row: total is 11, but car_count + bike_count + bus_count + ")


def test_what_is_told_is_not_guessed(traffic: Predictor) -> None:
    content = f"{TRAFFIC.replace(',', ';')}\n1;2;3;4\n".encode("cp1252")

    layout = upload.guess(
        content, traffic.domain, encoding="latin-1", delimiter="|", decimal=",", header=False
    )

    assert (layout.encoding, layout.delimiter, layout.decimal) == ("latin-1", "|", ",")
    assert layout.columns == ("column 1",)


def test_every_column_has_a_name_of_its_own(traffic: Predictor) -> None:
    done = answered(f"{TRAFFIC},T,T,T (2),,label\n1,2,3,4,a,b,c,d,e\n", traffic)

    own = done.layout.columns[4:]
    assert own == ("T", "T (2)", "T (2) (2)", "column 8", "label (2)")
    assert len({*done.names}) == len(done.names)


def test_two_columns_of_one_input_are_told(traffic: Predictor) -> None:
    done = answered(f"CarCount,{TRAFFIC}\n9,1,2,3,4\n", traffic)

    told = {"first": "CarCount", "second": "car_count", "field": ("Cars",)}
    assert done.layout.notes == (("twice", told),)
    assert done.layout.mapping["car_count"] == 0


def test_lines_are_counted_as_an_editor_does(traffic: Predictor) -> None:
    text = f'{TRAFFIC},note\r\n1,2,3,4,"a\nb"\n\n,,,,\r1,2,3,x,c\n1,2,3,4\n1,2,3,"4"5,d\n1,2,3,4,e'

    done = answered(text, traffic)

    assert done.lines == [2, 9]
    assert [(row.line, row.why) for row in done.refused] == [
        (6, "truck_count: must be a number"),
        (7, "row: it has 4 fields, the header has 5"),
        (8, "row: a cell goes on after its closing quotation mark"),
    ]
    assert done.refused[1].cells == ("1", "2", "3", "4", "")


def test_reasons_are_counted(traffic: Predictor) -> None:
    done = answered(f"{TRAFFIC}\n1,2,3,x\n1,y,3,z\n1,2,3,9999\n", traffic)

    assert done.reasons()[0] == ("truck_count", "must be a number", 2)
    assert sum(count for *_, count in done.reasons()) == 4
    assert done.refused[1].problems[0] == ("bike_count", "y", "must be a number")


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "The file is empty"),
        (b"\xef\xbb\xbf \r\n", "The file is empty"),
        (TRAFFIC.encode(), "no row under its names"),
        (f"{TRAFFIC}\n,,,\n\n".encode(), "no row under its names"),
        (b"PK\x03\x04", "an Excel workbook or a zip archive"),
        (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
        (b"PAR1....", "a Parquet file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"%PDF-1.7", "a PDF"),
        (f"{TRAFFIC}\n1,2,3,4\n1,\0,3,4\n".encode(), "Line 3 holds a NUL"),
        ("a,b\n1,2\n".encode("utf-16"), "Line 1 holds a NUL"),
        (b"x" * 300_000, "Line 1 has a cell of more than 131072 characters"),
        (f'{TRAFFIC}\n1,2,3,4\n1,"2,3,4\n1,2,3,4\n'.encode(), "Line 3: a quotation mark is opened"),
        (f'{TRAFFIC}\n1,"{"2,3,4" * 99999}'.encode(), "Line 2 has a cell of more than"),
        (b'"car_count"s,bike_count\n1,2\n', "Line 1: a name goes on after"),
        (b"," * 1000 + b"\n", "No column is chosen"),
        (b"a," * 1000 + b"\n", "has 1001 columns; at most 200"),
        (b"a,b\n1,2\n", "No column is chosen for Cars, Bikes, Buses, Trucks"),
        (b"hello", "No column is chosen for Cars"),
        (b"x" * 5_000_001, "has 5.1 MB; at most 5.0 MB"),
    ],
)
def test_what_is_no_table_is_said_in_a_sentence(
    traffic: Predictor, content: bytes, said: str
) -> None:
    with pytest.raises(UploadError, match=said):
        answered(content, traffic)


def test_too_many_rows_are_counted_and_none_is_answered(traffic: Predictor) -> None:
    row = "1,2,3,4\n"

    assert len(answered(f"{TRAFFIC}\n{row * 50_000}", traffic).rows) == 50_000
    with pytest.raises(UploadError, match="has 50001 rows; at most 50000"):
        answered(f"{TRAFFIC}\n{row * 50_001}", traffic)


def test_another_encoding_may_not_fit(traffic: Predictor) -> None:
    content = f"{TRAFFIC},ort\n1,2,3,4,Süd\n".encode("cp1252")

    assert answered(content, traffic).rows[0][4] == "Süd"
    with pytest.raises(UploadError, match="cannot be read as utf-8-sig"):
        answered(content, traffic, encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("name", "mapping", "said"),
    [
        ("traffic", dict(zip(TRAFFIC.split(","), (0, 0, 1, 2), strict=True)), "a .* Cars, Bikes"),
        ("traffic", {"car_count": 0}, "No column is chosen for Bikes, Buses, Trucks"),
        ("energy", {}, "No column is chosen for Date and time"),
        ("energy", {"day": 0, "hour": 1}, "No column is chosen for Month, Minute"),
        ("energy", {"timestamp": 0, "day": 1}, "both|for Date and time and for Day of the month"),
    ],
)
def test_columns_chosen_wrongly_are_told(
    predictors: Predictors, name: str, mapping: dict[str, int], said: str
) -> None:
    content, predictor = b"a,b,c,d\n1,2,3,4\n", predictors[name]
    layout = replace(upload.guess(content, predictor.domain), mapping=mapping)

    with pytest.raises(UploadError, match=said):
        upload.answer(content, layout, predictor)


NAMES = ["car_count", "CarCount", "timestamp", "label", " "]
CELLS = ["1", "-200", "1,5", "nan", "1e999", "2022-02-01", "=1+1", "\0", "\x1a", "\ufffe"]
MARKS = [",", ";", "\t", "|", '"', "\n", "\r", "\ufeff"]
PIECES = st.lists(st.sampled_from([*NAMES, *CELLS, *MARKS]), max_size=60).map("".join)


@settings(deadline=None)
@given(st.binary() | PIECES.map(str.encode))
@example(b'\n"')
@example(b"\xff\xfe")
def test_hostile_bytes_meet_a_sentence(predictors: Predictors, content: bytes) -> None:
    for name, names in (("traffic", TRAFFIC), ("energy", "timestamp")):
        for text in (content, f"{names}\n".encode() + content):
            try:
                done = answered(text, predictors[name])
            except UploadError:
                continue
            upload.as_csv(done)
            upload.refused_as_csv(done)
            assert len([*cells(upload.as_xlsx(done))]) == len(done.rows) + 1


# --- taking away ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delimiter", "decimal"), [(",", "."), (";", ","), ("\t", ","), ("|", ".")]
)
@pytest.mark.parametrize("name", DOMAINS)
def test_answers_come_back_in_full_from_csv_in_the_files_own_dialect(
    predictors: Predictors, name: str, delimiter: str, decimal: str
) -> None:
    rows = some_rows(predictors[name].card, 30)
    done = answered(write(rows, delimiter, decimal), predictors[name])

    names, *lines = reads(upload.as_csv(done), delimiter)

    assert tuple(names) == done.names
    for line, row in zip(lines, done.rows, strict=True):
        for text, value in zip(line, row, strict=True):
            if isinstance(value, bool):
                assert text == str(value).lower()
            elif isinstance(value, float):
                assert float(text.replace(decimal, ".")) == value
            else:
                assert text == (value or "")


@pytest.mark.parametrize("name", DOMAINS)
def test_answers_come_back_from_parquet_and_excel(predictors: Predictors, name: str) -> None:
    done = answered(write(some_rows(predictors[name].card, 30)), predictors[name])

    table = parquet.read_table(io.BytesIO(upload.as_parquet(done)))
    names, *lines = cells(upload.as_xlsx(done))

    assert [tuple(row.values()) for row in table.to_pylist()] == done.rows
    assert {str(table.schema.field(n).type) for n in ("prediction", "low")} == {"double"}
    assert tuple(text for _, text in names) == tuple(table.column_names) == done.names
    for line, row in zip(lines, done.rows, strict=True):
        for (kind, text), value in itertools.zip_longest(line, row, fillvalue=("n", "")):
            if isinstance(value, bool):
                assert (kind, text) == ("b", str(int(value)))
            elif isinstance(value, float):
                assert kind == "n"
                assert float(text) == pytest.approx(value, rel=1e-15)
            else:
                assert text == (value or "")


def test_no_answer_is_a_table_too(traffic: Predictor) -> None:
    done = answered(f"{TRAFFIC}\n1,2,3,x\n", traffic)

    assert reads(upload.as_csv(done)) == [[*done.names]]
    assert parquet.read_table(io.BytesIO(upload.as_parquet(done))).num_rows == 0
    assert len([*cells(upload.as_xlsx(done))]) == 1


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1+1", "\t=1+1", "＝1+1", '=HYPERLINK("x")']
)
def test_text_is_never_a_formula(traffic: Predictor, text: str) -> None:
    quoted = '"' + text.replace('"', '""') + '"'
    done = answered(f"{TRAFFIC},{quoted}\n1,2,3,4,{quoted}\n1,2,3,{quoted},-5\n", traffic)

    good, bad = reads(upload.as_csv(done)), reads(upload.refused_as_csv(done))
    sheet = [*cells(upload.as_xlsx(done))]

    assert good[0][4] == f"'{text.strip()}"
    assert good[1][4] == bad[1][5] == f"'{text}"
    assert bad[1][6] == "-5"  # a number is one
    assert sheet[1][4] == ("s", text)
    assert (
        parquet.read_table(io.BytesIO(upload.as_parquet(done))).to_pylist()[0][text.strip()] == text
    )


def test_nothing_is_written_to_disk(
    traffic: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    done = answered(upload.sample(traffic), traffic)

    for written in (upload.as_xlsx, upload.as_parquet, upload.as_csv):
        assert written(done)


def test_answering_stays_lean() -> None:
    asked = (
        "import sys; from smartcity.dashboard import upload; "
        "print(*{n.split('.')[0] for n in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    heavy = {"pyarrow", "xlsxwriter", "pandas", "sklearn"}
    assert not heavy & {*done.stdout.split()}


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOMAINS)
def test_the_sample_is_simulated_and_wholly_answered(predictors: Predictors, name: str) -> None:
    content = upload.sample(predictors[name])

    done = answered(content, predictors[name])

    assert content == upload.sample(predictors[name])
    assert (len(done.rows), done.refused) == (60, [])
    assert {row[done.names.index("source")] for row in done.rows} == {"simulated"}
    assert not any(said["inputs_outside_training"] for said in answers(done))


@pytest.mark.parametrize("name", DOMAINS)
def test_the_broken_sample_has_every_fault(predictors: Predictors, name: str) -> None:
    done = answered(upload.broken(predictors[name]), predictors[name])

    whys = " ".join(row.why for row in done.refused)
    values = [value for row in done.refused for _, value, _ in row.problems]
    assert (len(done.rows), len(done.refused)) == (12, 7)
    assert values == ["", "n/a", "-200", "1,5", "99999", "", ""]
    for fault in ("null", "a number", "must lie in", "fields, the header has"):
        assert fault in whys


# --- the panel -----------------------------------------------------------------------------------


class Visitor:
    """Who sits before a panel: sends what the script would, keeps what comes back."""

    def __init__(self, predictor: Predictor, say: Any = str) -> None:
        """Sit down."""
        self.panel = UploadPanel(predictor, say)
        self.got: list[tuple[dict[str, Any], bytes]] = []
        self.panel.send = lambda content, buffers: self.got.append((content, buffers[0]))

    def tell(self, kind: str, content: bytes | None = None, **more: Any) -> dict[str, Any]:
        """Send a message, and give what is shown then."""
        buffers = [] if content is None else [memoryview(content)]
        self.panel._handle_custom_msg({"kind": kind, **more}, buffers)
        view: dict[str, Any] = self.panel.view
        return view

    def download(self, name: str) -> bytes:
        """Ask for a file, and put its parts together."""
        self.got = []
        self.tell("download", name=name, to="me")
        assert [about["part"] for about, _ in self.got] == list(range(self.got[0][0]["parts"]))
        assert {about["to"] for about, _ in self.got} == {"me"}
        return b"".join(part for _, part in self.got)


def test_a_file_is_shown_answered_and_taken_away(
    traffic: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor, content = Visitor(traffic), upload.broken(traffic)
    monkeypatch.setattr(upload_panel, "_PART", 1000)

    view = visitor.tell("file", content, name="mine.csv")

    assert (view["name"], view["error"]) == ("mine.csv", None)
    assert view["counts"] == {"total": 19, "answered": 12, "refused": 7}
    assert view["problems"][0][:3] == [3, "car_count", ""]
    assert ["car_count: must lie in 0 to 2000 vehicles in 15 min", 1] in view["reasons"]
    assert view["answers"][0][:2] == [2, answers(answered(content, traffic))[0]["label"]]
    assert all(len(row) == len(view["columns"]) for row in view["answers"])
    done = answered(content, traffic)
    assert visitor.download("csv") == upload.as_csv(done)
    assert visitor.download("parquet") == upload.as_parquet(done)
    assert visitor.download("refused") == upload.refused_as_csv(done)
    assert len([*cells(visitor.download("xlsx"))]) == 13
    assert visitor.got[0][0]["name"] == "traffic-answers.xlsx"


@pytest.mark.parametrize("name", DOMAINS)
def test_examples_are_tried_and_downloaded(predictors: Predictors, name: str) -> None:
    visitor = Visitor(predictors[name])

    assert visitor.tell("example", name="sample")["counts"]["refused"] == 0
    assert visitor.tell("example", name="broken")["counts"]["refused"] == 7
    assert visitor.download("broken") == upload.broken(predictors[name])
    assert "simulated" in visitor.got[0][0]["name"]


def test_columns_and_marks_are_told_anew(traffic: Predictor) -> None:
    visitor = Visitor(traffic)
    content = b"a;b;c;d\n60;10;8;5\n"

    view = visitor.tell("file", content, name="x")
    assert view["error"]["values"]["fields"] == "Cars, Bikes, Buses, Trucks"
    view = visitor.tell("layout", mapping=dict(zip(TRAFFIC.split(","), range(4), strict=True)))
    assert view["counts"]["answered"] == 1
    view = visitor.tell("layout", decimal=",")
    assert (view["layout"]["decimal"], view["counts"]["answered"]) == (",", 1)
    view = visitor.tell("layout", header=False)
    assert view["layout"]["columns"][0] == "column 1"
    assert view["counts"] == {"total": 2, "answered": 1, "refused": 1}
    view = visitor.tell("layout", delimiter=",")
    assert len(view["layout"]["columns"]) == 1
    assert "counts" not in view


def test_clearing_forgets_the_file(traffic: Predictor) -> None:
    visitor = Visitor(traffic)
    visitor.tell("file", upload.sample(traffic), name="mine.csv")

    view = visitor.tell("clear")

    assert {*view} == {"turn"}
    assert (visitor.panel._content, visitor.panel._done) == (b"", None)
    visitor.tell("download", name="csv")
    assert visitor.got == []


def test_the_same_again_is_a_new_turn(traffic: Predictor) -> None:
    visitor = Visitor(traffic)

    first = visitor.tell("file", b"", name="x")
    again = visitor.tell("file", b"", name="x")

    assert first["error"] == again["error"]
    assert first["turn"] != again["turn"]  # or the script would wait for ever


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "file"},
        {"kind": "example", "name": ["sample"]},
        {"kind": "layout", "mapping": {"car_count": 99, "x": 0}},
        {"kind": "layout", "mapping": [1]},
        {"kind": "layout", "delimiter": "xy", "encoding": "zlib", "header": "?", "decimal": []},
        {"kind": "download", "name": "../x"},
    ],
)
def test_a_message_nobody_sends_does_no_harm(traffic: Predictor, message: dict[str, Any]) -> None:
    visitor = Visitor(traffic)
    visitor.tell("file", upload.sample(traffic), name="x")

    visitor.panel._handle_custom_msg(message, [])

    assert visitor.panel.view["layout"]["delimiter"] == ","


def test_every_text_is_said_in_the_readers_language(traffic: Predictor) -> None:
    visitor = Visitor(traffic, lambda text: f"«{text}»")
    view = visitor.tell("example", name="broken")
    wrong = visitor.tell("file", b"a\n1\n", name="x")

    assert {*visitor.panel.words.values()} == {f"«{text}»" for text in upload_panel.WORDS.values()}
    assert all(row[-1].startswith("«") for row in view["problems"])
    assert view["problems"][-1][1] == "«whole row»"
    assert view["columns"][1] == "«Traffic level»"
    assert wrong["error"]["text"] == f"«{upload.TEXTS['lacking']}»"
    assert wrong["error"]["values"]["fields"].startswith("«Cars», «Bikes»")


def test_the_script_says_nothing_of_its_own_and_trusts_no_text() -> None:
    script = UploadPanel._esm
    text = Path(str(getattr(script, "_path", script))).read_text(encoding="utf-8")
    used = {*re.findall(r'words\.(\w+)|"(get_\w+|take_\w+|sample|broken|clear)"', text)}
    named = {name for pair in used for name in pair if name}
    dynamic = {*upload.DELIMITERS, *upload.DECIMALS, *upload.ENCODINGS}
    dynamic |= {"delimiter", "decimal", "encoding"}  # asked for by key
    dynamic |= {"low", "high", "confidence", "mind", "edge", "row"}  # said by the panel

    assert named | dynamic == {*upload_panel.WORDS}
    assert not re.search(
        r"innerHTML|insertAdjacent|outerHTML|eval\(|new Function|\son[a-z]+=", text
    )
