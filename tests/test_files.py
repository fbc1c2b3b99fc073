"""Whole files: every row answered as the API would, or set aside; at any size, after any end."""

import csv
import functools
import gzip
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from conftest import DOMAINS, usual
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from smartcity import domains, registry
from smartcity.errors import InputError, SmartCityError, StorageError
from smartcity.predict import Predictor, files_in, files_out
from smartcity.predict.files import Progress, answer_file
from smartcity.predict.files_in import number
from smartcity.predict.files_rows import Rows

Models = dict[str, registry.Card]
TRAFFIC = ["car_count", "bike_count", "bus_count", "truck_count"]


def some_rows(card: registry.Card, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Make rows in and out of what a model has seen, some with a sensor silent."""
    rng = np.random.default_rng(seed)
    specs = {spec.name: spec for spec in domains.load(card.domain).inputs}
    rows = []
    for _ in range(size):
        row: dict[str, Any] = {"station": f"no. {rng.integers(9)}"}
        for seen in card.inputs:
            spec = specs[seen.name]
            if spec.sum_of:
                continue
            span = seen.high - seen.low
            value = float(rng.uniform(seen.low - 0.02 * span, seen.high + 0.02 * span))
            value = min(max(value, spec.low), spec.high)
            row[seen.name] = round(value) if spec.whole else value
            if spec.optional and rng.random() < 0.2:
                row[seen.name] = None
        if row.get("month") == 2:
            row["day"] = min(row["day"], 28)
        rows.append(row)
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as a file of the kind its name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Read a file of either kind."""
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def as_said(predictor: Predictor, row: dict[str, Any]) -> dict[str, object]:
    """Answer a row by itself, as the columns of a file."""
    said = predictor.predict({k: v for k, v in row.items() if k != "station"})
    return {
        "prediction": said.prediction,
        "label": said.label,
        "low": said.interval.low if said.interval else None,
        "high": said.interval.high if said.interval else None,
        "confidence": said.confidence,
        "warnings": " ".join(said.warnings),
        "model_version": said.model_version,
    }


def typed(row: dict[str, Any]) -> dict[str, object]:
    """Give the answer in a row as values, whichever kind of file it was in."""
    told = {name: row[name] for name in ("label", "warnings", "model_version")}
    numbers = ("prediction", "low", "high", "confidence")
    told |= {name: None if row[name] in {"", None} else float(row[name]) for name in numbers}
    return told | {"label": told["label"] or None}


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("target", ["out.csv", "out.parquet"])
@pytest.mark.parametrize("name", DOMAINS)
def test_a_file_is_answered_as_each_of_its_rows(
    tmp_path: Path, models: Models, monkeypatch: Any, name: str, source: str, target: str
) -> None:
    monkeypatch.setattr(files_in, "_BLOCK", 4096)
    monkeypatch.setattr(files_in, "_ROWS", 50)
    predictor, rows = Predictor.load(name), some_rows(models[name], 300)

    done = answer_file(predictor, write(tmp_path / source, rows), tmp_path / target)

    found = read(tmp_path / target)
    assert (done.answered, done.refused, done.rejected) == (300, 0, None)
    assert [typed(row) for row in found] == [as_said(predictor, row) for row in rows]
    assert [row["station"] for row in found] == [row["station"] for row in rows]
    assert not [*tmp_path.glob("*.parts")]
    if name == "air_quality":
        assert any("is missing" in row["warnings"] for row in found)
        assert any("anything the model has seen" in row["warnings"] for row in found)


@pytest.mark.parametrize("name", ["day.csv", "day.parquet"])
def test_parts_of_time_come_from_a_timestamp(tmp_path: Path, models: Models, name: str) -> None:
    predictor = Predictor.load("energy")
    times = ["2022-02-01T08:20", "2022-02-28 23:40:30", None, "2022-12-31T00:00:00.5"]
    rows = [{"timestamp": time, "station": "A"} for time in times]

    done = answer_file(predictor, write(tmp_path / name, rows), tmp_path / "out.csv")

    told = [as_said(predictor, rows[n]) for n in (0, 1, 3)]
    assert [typed(row) for row in read(tmp_path / "out.csv")] == told
    assert done.refused == 1
    [refused] = read(tmp_path / "out.rejected.csv")
    assert "hour: is missing" in refused["problems"]


def test_a_parquet_file_brings_its_own_types(tmp_path: Path, models: Models) -> None:
    predictor = Predictor.load("energy")
    times = np.array(["2022-02-01T08:20:00.123456789", "2022-02-02"], dtype="M8[ns]")
    zoned = pa.array(times).cast(pa.timestamp("ns", "UTC"))
    parquet.write_table(pa.table({"timestamp": pa.array(times)}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"timestamp": zoned}), tmp_path / "b.parquet")
    counts = {name: pa.array([1, 2], pa.int16()) for name in TRAFFIC}
    counts["car_count"] = pa.array([True, False])
    parquet.write_table(pa.table(counts), tmp_path / "c.parquet")

    good = answer_file(predictor, tmp_path / "a.parquet", tmp_path / "a.csv")
    bad = answer_file(predictor, tmp_path / "b.parquet", tmp_path / "b.csv")
    answer_file(Predictor.load("traffic"), tmp_path / "c.parquet", tmp_path / "c.csv")

    assert (good.answered, bad.refused) == (2, 2)
    assert "leave the zone out" in read(tmp_path / "b.rejected.csv")[0]["problems"]
    assert read(tmp_path / "c.rejected.csv")[0]["problems"] == "car_count: must be a number"


class Clocked:
    """A model whose champion looks at the clock, and says what it saw."""

    def __init__(self, card: registry.Card) -> None:
        """Take the place of a model."""
        now = card.parts[registry.NOW]
        parts = {
            registry.NOW: now,
            "clocked": now.model_copy(
                update={
                    "view": now.view.model_copy(update={"clock": True}),
                    "coverage": {"level": 0.8},
                }
            ),
        }
        self.card = card.model_copy(update={"champion": "clocked", "parts": parts})

    def scores(self, rows: Any, part: str = registry.NOW) -> Any:
        """Answer with the sum of what is seen."""
        del part
        return np.nan_to_num(rows).sum(axis=1).astype(np.float64) / 1000


def test_a_champion_that_looks_at_the_clock_is_asked_where_there_is_a_time(
    tmp_path: Path, models: Models
) -> None:
    clocked: Any = Clocked(models["air_quality"])
    predictor = Predictor(domains.load("air_quality"), clocked)
    rows = some_rows(models["air_quality"], 40)
    rows = [
        row | {"timestamp": "2022-02-01T08:20" if n % 3 else None} for n, row in enumerate(rows)
    ]

    answer_file(predictor, write(tmp_path / "in.csv", rows), tmp_path / "out.csv")

    found = read(tmp_path / "out.csv")
    assert [typed(row) for row in found] == [as_said(predictor, row) for row in rows]
    assert {row["confidence"] for row in found} == {"0.8", "0.9"}


PUBLISHED = (
    "Date;CO(GT);PT08.S1(CO);NMHC(GT);C6H6(GT);PT08.S2(NMHC);NOx(GT);PT08.S3(NOx);NO2(GT);"
    "PT08.S4(NO2);PT08.S5(O3);T;RH;AH;;\r\n"
    "10/03/2004;2,6;1360;150;11,9;1046;;1056;113;1692;1268;13,6;48,9;0,7578;;\r\n"
)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "tabs.csv", "in.CSV"])
def test_every_layout_of_text_is_read(
    tmp_path: Path, models: Models, name: str, start: bytes
) -> None:
    text = PUBLISHED
    if name == "tabs.csv":
        text = text.replace(",", ".").replace(";", "\t")
    content = start + text.encode()
    source = tmp_path / name
    source.write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    predictor = Predictor.load("air-quality")
    answer_file(predictor, source, tmp_path / "out.csv")

    [row] = read(tmp_path / "out.csv")
    inputs = (1360, 150, 11.9, 1046, None, 1056, 113, 1692, 1268, 13.6, 48.9, 0.7578)
    said = as_said(predictor, dict(zip(predictor.domain.names, inputs, strict=True)))
    assert typed(row) == said
    assert row["T"] == ("13.6" if name == "tabs.csv" else "13,6")


def test_what_python_reads_as_a_number_is_one(tmp_path: Path, models: Models) -> None:
    source = tmp_path / "in.csv"
    header = ", ".join(TRAFFIC)
    source.write_text(f"{header},\n 60 ,10.0,+8,1e0,x\n1_0,١,08,5.,y\n1,2,0x3,nan,z\n")

    done = answer_file(Predictor.load("traffic"), source, tmp_path / "out.csv")

    assert (done.answered, done.refused) == (2, 1)
    assert [row[""] for row in read(tmp_path / "out.csv")] == ["x", "y"]
    [refused] = read(tmp_path / "out.rejected.csv")
    assert refused["problems"] == (
        "bus_count: must be a number; truck_count: must be a finite number"
    )


def test_refused_rows_are_set_aside_with_line_reason_and_cells(
    tmp_path: Path, models: Models
) -> None:
    lines = [
        "car_count,bike_count,bus_count,truck_count,total,note",
        "1,2,3,4,10,fine",
        "",
        '1,2,3,4,,"two',
        'lines, ""quoted"""',
        "1,2,3,4,11,wrong sum",
        "1,2,3",
        ",,,,,",
        "1,2,3,4,10,fine,more,and more",
        '-1,2.5,,x,,"a, b"',
        "1,2,3,4,,last",
    ]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    predictor = Predictor.load("traffic")

    done = answer_file(predictor, tmp_path / "in.csv", tmp_path / "out.csv")

    notes = [row["note"] for row in read(tmp_path / "out.csv")]
    refused = read(tmp_path / "out.rejected.csv")
    with pytest.raises(InputError) as error:
        predictor.predict(dict(zip([*TRAFFIC, "total"], (-1, 2.5, None, "x", None), strict=True)))
    assert (done.answered, done.refused) == (3, 4)
    assert notes == ["fine", 'two\nlines, "quoted"', "last"]
    assert [row["input_line"] for row in refused] == ["6", "7", "9", "10"]
    assert "total is 11, but" in refused[0]["problems"]
    assert refused[1]["problems"] == "row: it has 3 fields, the header has 6"
    assert (refused[1]["bus_count"], refused[1]["note"]) == ("3", "")
    assert refused[2]["problems"] == "row: it has 8 fields, the header has 6"
    assert refused[3]["problems"] == str(error.value)
    assert (refused[3]["car_count"], refused[3]["note"]) == ("-1", "a, b")


def test_the_mark_of_a_missing_reading_is_explained(tmp_path: Path, models: Models) -> None:
    row = usual(models["air_quality"])
    source = write(tmp_path / "in.csv", [row, row | {"C6H6_GT": -200}])

    answer_file(Predictor.load("air_quality"), source, tmp_path / "out.csv")

    [refused] = read(tmp_path / "out.rejected.csv")
    assert "C6H6_GT: -200 stands for a missing reading" in refused["problems"]
    assert len(read(tmp_path / "out.csv")) == 1


def test_what_is_no_text_goes_to_parquet_only(tmp_path: Path, models: Models) -> None:
    source = write(tmp_path / "in.parquet", [dict.fromkeys(TRAFFIC, 1) | {"tags": ["a", "b"]}])
    predictor = Predictor.load("traffic")

    with pytest.raises(SmartCityError, match="cannot be CSV"):
        answer_file(predictor, source, tmp_path / "out.csv")
    answer_file(predictor, source, tmp_path / "out.parquet")

    assert read(tmp_path / "out.parquet")[0]["tags"] == ["a", "b"]


def test_broken_rows_keep_their_places_over_many_batches(
    tmp_path: Path, models: Models, monkeypatch: Any
) -> None:
    monkeypatch.setattr(files_in, "_BLOCK", 200)
    rng = np.random.default_rng(3)
    kinds = rng.integers(6, size=500).tolist()
    rows = [["7", "1,2", "x,2,3,4,5"][kind] if kind < 3 else "1,2,3,4,5" for kind in kinds]
    rows[:40] = ["1,2"] * 40  # whole batches of nothing else
    (tmp_path / "in.csv").write_text("\n".join([",".join([*TRAFFIC, "note"]), *rows, "8"]))

    done = answer_file(Predictor.load("traffic"), tmp_path / "in.csv", tmp_path / "out.csv")

    bad = [n for n, row in enumerate([*rows, "8"], start=2) if row != "1,2,3,4,5"]
    assert [int(row["input_line"]) for row in read(tmp_path / "out.rejected.csv")] == bad
    assert done.answered == 501 - len(bad)


CELLS = st.one_of(
    st.none(),
    st.integers(-300, 6000).map(str),
    st.floats(-300, 6000).map(repr),
    st.sampled_from(
        ["-200", "-200.0", "1e400", "nan", "inf", "+3", " 4", "5 ", "x", "1_0", "2.5", "31", "30"]
    ),
    st.text(max_size=6),
)
TIMES = st.one_of(
    st.none(),
    st.datetimes().map(lambda t: t.isoformat()),
    st.sampled_from(
        [
            "2022-02-30T08:20",
            "1890-01-01T00:00",
            "2022-02-01T08:20Z",
            "2022-02-01T24:00",
            "0000-01-01T00:00",
            "8:20",
        ]
    ),
    st.text(max_size=12),
)


@pytest.fixture(scope="module")
def predictors(published: Path) -> dict[str, Predictor]:
    return {name: Predictor.load(name, folder=published) for name in DOMAINS}


@pytest.mark.parametrize("name", DOMAINS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_passes_quickly_the_row_model_accepts(
    predictors: dict[str, Predictor], name: str, data: st.DataObject
) -> None:
    predictor = predictors[name]
    usually = {k: None if v is None else repr(v) for k, v in usual(predictor.card).items()}
    header = [*(n for n in predictor.domain.names if data.draw(st.integers(0, 9)) or n in usually)]
    if name == "energy" and data.draw(st.booleans()):
        header = data.draw(st.sampled_from([["timestamp"], ["timestamp", *header]]))
    elif data.draw(st.booleans()):
        header = ["timestamp", *header]
    delimiter = data.draw(st.sampled_from([",", ";"]))
    kinds = [TIMES if n == "timestamp" else st.just(usually.get(n)) | CELLS for n in header]
    rows = data.draw(st.lists(st.tuples(*kinds), min_size=1, max_size=8))
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    reader = Rows(predictor, header, delimiter, typed=False)

    values, at, sure = reader.read(files_in.Batch(columns, np.arange(len(rows))))

    for n in np.flatnonzero(sure):
        cells = dict(zip(header, rows[n], strict=True))
        row = {
            k: v if k == "timestamp" or v is None else number(v, delimiter)
            for k, v in cells.items()
        }
        checked = predictor.check(row)  # it raises what it does not accept
        read_as = {name: None if np.isnan(found[n]) else found[n] for name, found in values.items()}
        assert read_as == {name: checked[name] for name in values}
        assert at[n] == np.datetime64(checked["timestamp"], "us") or checked["timestamp"] is None


@pytest.mark.parametrize("name", DOMAINS)
def test_usual_rows_pass_quickly(
    predictors: dict[str, Predictor], name: str, monkeypatch: Any, tmp_path: Path
) -> None:
    rows = some_rows(predictors[name].card, 50)
    monkeypatch.setattr(Predictor, "check", lambda *_: pytest.fail("the slow way"))

    done = answer_file(predictors[name], write(tmp_path / "in.csv", rows), tmp_path / "out.csv")

    assert done.answered == 50


RUN = """
import sys
from pathlib import Path
from smartcity.predict import Predictor, files_in, files_out
from smartcity.predict.files import answer_file
files_in._BLOCK, files_in._ROWS, files_out._COMMIT = 1000, 20, 3
calls = 0
def told(progress):
    global calls
    calls += 1
    if calls == int(sys.argv[4]):
        print("far enough", flush=True)
        sys.stdin.read()  # for ever
answer_file(Predictor.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), told)
"""


def mixed(card: registry.Card, size: int = 1500) -> list[dict[str, Any]]:
    """Make rows of which some will be refused."""
    rows = some_rows(card, size)
    return [row | ({} if n % 17 else {"car_count": -1}) for n, row in enumerate(rows)]


@pytest.fixture
def small(monkeypatch: Any) -> None:
    """Read in the small batches of ``RUN``."""
    monkeypatch.setattr(files_in, "_BLOCK", 1000)
    monkeypatch.setattr(files_in, "_ROWS", 20)
    monkeypatch.setattr(files_out, "_COMMIT", 3)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_run_killed_in_the_middle_goes_on(
    tmp_path: Path, models: Models, small: None, kind: str
) -> None:
    source = write(tmp_path / f"in.{kind}", mixed(models["traffic"]))
    whole, target = tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    predictor, seen = Predictor.load("traffic"), list[Progress]()
    answer_file(predictor, source, whole)
    with subprocess.Popen(
        [sys.executable, "-c", RUN, "traffic", source, target, "10"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"far enough\n"
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not target.exists()

    answer_file(predictor, source, target, seen.append)

    assert 0 < seen[0].resumed < 1500
    rejected = [path.with_name(f"{path.stem}.rejected.csv") for path in (whole, target)]
    assert rejected[0].read_bytes() == rejected[1].read_bytes()
    if kind == "csv":
        assert whole.read_bytes() == target.read_bytes()
    else:
        assert parquet.read_table(whole).equals(parquet.read_table(target))
    assert not [*tmp_path.glob("*.parts")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_full_disk_is_said_and_the_run_goes_on_later(
    tmp_path: Path, models: Models, small: None, kind: str
) -> None:
    source = write(tmp_path / "in.csv", mixed(models["traffic"]))
    predictor, target = Predictor.load("traffic"), tmp_path / f"out.{kind}"
    answer_file(predictor, source, tmp_path / f"whole.{kind}")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, limit[1]))
    seen: list[Progress] = []

    run = subprocess.run(
        [sys.executable, "-c", RUN, "traffic", source, target, "0"],
        capture_output=True,
        text=True,
        preexec_fn=full,
        check=False,
    )
    assert f"StorageError: Cannot write {target}" in run.stderr
    assert not target.exists()
    answer_file(predictor, source, target, seen.append)

    assert seen[0].resumed > 0
    assert read(target) == read(tmp_path / f"whole.{kind}")


def stop(after: int) -> Callable[[Progress], None]:
    """Interrupt a run after some batches."""
    count = iter(range(after))

    def told(_: Progress) -> None:
        if next(count, None) is None:
            raise KeyboardInterrupt

    return told


@pytest.mark.parametrize("change", ["input", "version"])
def test_what_has_changed_is_begun_anew(
    tmp_path: Path, models: Models, small: None, change: str
) -> None:
    source = write(tmp_path / "in.csv", mixed(models["traffic"]))
    target, predictor = tmp_path / "out.csv", Predictor.load("traffic")
    with pytest.raises(KeyboardInterrupt):
        answer_file(predictor, source, target, stop(8))
    if change == "input":
        write(source, mixed(models["traffic"], 1490))
    else:
        predictor.card.version = "9.9.9"
    seen: list[Progress] = []

    answer_file(predictor, source, target, seen.append)

    assert seen[0].resumed == 0
    answer_file(predictor, source, tmp_path / "whole.csv")
    assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_two_runs_never_write_the_same_file(tmp_path: Path, models: Models) -> None:
    source = write(tmp_path / "in.csv", some_rows(models["traffic"], 5))
    predictor, target = Predictor.load("traffic"), tmp_path / "out.csv"

    def again(progress: Progress) -> None:
        if progress.share < 1:
            with pytest.raises(StorageError, match="Another run"):
                answer_file(predictor, source, target)

    assert answer_file(predictor, source, target, again).answered == 5


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: gzip.compress(text)[:-500], "ended before the end-of-stream marker"),
        (lambda text: gzip.compress(text + b"1,2,3,\xff4,5\n"), "line 6002, is not UTF-8"),
        (lambda text: gzip.compress(text + b"1,\xff2\n"), "line 6002, is not UTF-8"),
        (lambda text: gzip.compress(text + b'1,2,3,4,"5\n' + text), "a quote is opened"),
        (lambda text: gzip.compress(text + b'1,2,3,4,"5\n1,2,3,4,5\n'), "line 6002: a quote is"),
    ],
)
def test_a_damaged_end_is_named_and_what_was_before_stays(
    tmp_path: Path, models: Models, small: None, damage: Callable[[bytes], bytes], said: str
) -> None:
    rows = some_rows(models["traffic"], 6000)  # Arrow reads 32 blocks ahead
    text = write(tmp_path / "good.csv", rows).read_bytes()
    source = tmp_path / "in.csv.gz"
    source.write_bytes(damage(text))
    predictor, seen = Predictor.load("traffic"), list[Progress]()

    for _ in range(2):
        with pytest.raises(SmartCityError, match=said) as error:
            answer_file(predictor, source, tmp_path / "out.csv", seen.append)

    assert str(source) in str(error.value)
    assert not (tmp_path / "out.csv").exists()
    assert [p.resumed for p in seen if p.share == 0][1] > 0


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("in.csv", "in.csv", "same file"),
        ("out.rejected.csv", "out.csv", "same file"),
        ("in.csv", "out.xlsx", "must end in"),
        ("in.xlsx", "out.csv", "must end in"),
        ("in.csv", "folder.csv", "no ordinary file"),
        ("gone.csv", "out.csv", "No such file"),
        ("bad.parquet", "out.csv", "Cannot read"),
        ("other.csv", "out.csv", "has no column"),
        ("less.csv", "out.csv", "has no column truck_count"),
        ("twice.csv", "out.csv", r"columns \['CarCount', 'car_count'\] are"),
        ("ours.csv", "out.csv", r"columns \['label'\] are ours"),
        ("header.csv", "out.csv", "has no row"),
        ("empty.csv", "out.csv", "has no column"),
        ("wide.csv", "out.csv", "not UTF-8"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tmp_path: Path, models: Models, source: str, target: str, said: str
) -> None:
    header = ",".join(TRAFFIC)
    texts = {
        "in.csv": f"{header}\n1,2,3,4\n",
        "out.rejected.csv": f"{header}\n1,2,3,4\n",
        "bad.parquet": "no table",
        "other.csv": "a,b\n1,2\n",
        "less.csv": "car_count,bike_count,bus_count\n1,2,3\n",
        "twice.csv": f"CarCount,{header}\n1,1,2,3,4\n",
        "ours.csv": f"{header},label\n1,2,3,4,5\n",
        "header.csv": f"{header}\n",
        "empty.csv": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "wide.csv").write_text(texts["in.csv"], encoding="utf-16")
    (tmp_path / "folder.csv").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    with pytest.raises(SmartCityError, match=said):
        answer_file(Predictor.load("traffic"), tmp_path / source, tmp_path / target)

    new = {path.name for path in tmp_path.iterdir()} - {path.name for path in before}
    assert not {name for name in new if name.startswith(("out", "in"))}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.is_file())


def smartcity(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smartcity", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_sums_up(tmp_path: Path, models: Models) -> None:
    header = ",".join(TRAFFIC)
    (tmp_path / "in.csv").write_text(f"{header}\n1,2,3,4\n1,2,3,4,5\n")
    (tmp_path / "bad.csv").write_text(f"{header}\n1,2,3,-4\n")
    files = ("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")

    told = smartcity("predict", "traffic", *files)
    as_json = smartcity("predict", "traffic", *files, "--json")
    none = smartcity(
        "predict", "traffic", "--input", tmp_path / "bad.csv", "--output", tmp_path / "o.csv"
    )

    aside = tmp_path / "out.rejected.csv"
    assert told.stdout == f"1 rows answered: {tmp_path / 'out.csv'}; 1 refused: {aside}\n"
    assert (told.returncode, told.stderr) == (0, "")  # no bar where nobody looks
    found = json.loads(as_json.stdout)
    assert (found["answered"], found["refused"], found["rejected"]) == (1, 1, str(aside))
    assert (found["model_version"], found["output"]) == ("1.0.0", str(tmp_path / "out.csv"))
    assert none.returncode == 1
    assert f"{tmp_path / 'o.rejected.csv'} says why" in none.stderr
    assert read(tmp_path / "o.csv") == []


PEAK = """
import sys
from pathlib import Path
from smartcity.predict import Predictor
from smartcity.predict.files import answer_file
answer_file(Predictor.load("traffic"), Path(sys.argv[1]), Path(sys.argv[2]))
[line] = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")]
print(int(line.split()[1]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts memory there")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, models: Models, kind: str) -> None:
    rng, peaks = np.random.default_rng(0), []
    for rows in (60_000, 600_000):
        usually = {name: round(usual(models["traffic"])[name] or 0) for name in TRAFFIC}
        table = pa.table({k: rng.integers(v, v + 3, rows) for k, v in usually.items()})
        table = table.append_column("note", pa.array(["carried along"]).take(np.zeros(rows, int)))
        source = tmp_path / f"in.{kind}"
        if kind == "csv":
            arrow_csv.write_csv(table, source)
        else:
            parquet.write_table(table, source)
        words = [sys.executable, "-c", PEAK, str(source), str(tmp_path / f"out.{kind}")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))

    assert max(peaks) < 400
    assert peaks[1] - peaks[0] < 60
