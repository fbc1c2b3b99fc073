"""Readings: what is read, what is refused, what is found, and that nothing vanishes silently."""

import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from conftest import DOMAINS, at_home

from smartcity import data, domains, settings
from smartcity.errors import DataError, UsageError


def first_file(home: Path, name: str) -> Path:
    return home / "datasets" / name / domains.load(name).files[0].name


@pytest.mark.parametrize("name", DOMAINS)
def test_the_simulated_city_is_the_same_byte_for_byte(name: str, tmp_path: Path) -> None:
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        with at_home(folder):
            digests.append([s.sha256 for s in data.simulate(domains.load(name), seed=7, rows=500)])

    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", DOMAINS)
def test_simulated_readings_say_so(name: str, city: Path) -> None:
    assert data.read(name).simulated


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "air_quality",
            {"sentinel", "out of range", "duplicate time", "gap", "flat line", "spike", "unsorted"},
        ),
        (
            "traffic",
            {"out of range", "duplicate time", "gap", "flat line", "spike", "unsorted", "sum rule"},
        ),
        ("energy", {"out of range", "duplicate time", "gap", "flat line", "spike", "unsorted"}),
    ],
)
def test_every_fault_put_in_is_found(name: str, expected: set[str], city: Path) -> None:
    findings = data.check(data.read(name))

    assert expected <= set(findings["reason"])


@pytest.mark.parametrize("name", DOMAINS)
def test_every_row_left_out_has_a_finding(name: str, city: Path) -> None:
    readings = data.read(name)
    findings = data.check(readings)

    clean = data.clean(readings, findings)
    kept, left_out = data.usable(readings.domain, clean)

    dropped = findings.loc[findings["action"] == "row left out", "row"].nunique()
    assert len(clean) == len(readings.frame) - dropped
    assert len(kept) == len(clean) - sum(left_out.values())


def test_clean_readings_hold_no_sentinel_and_are_in_order(city: Path) -> None:
    readings = data.read("air_quality")

    clean = data.clean(readings, data.check(readings))

    assert not (clean.drop(columns="recorded_at") == -200).any().any()
    assert clean["recorded_at"].is_monotonic_increasing
    assert clean["recorded_at"].is_unique


def test_a_finding_names_file_line_and_value(city: Path) -> None:
    path = first_file(city, "traffic")
    lines = path.read_text().splitlines()
    lines[10] = lines[10].replace(lines[10].split(",")[3], "many", 1)
    path.write_text("\n".join([*lines, ""]))

    findings = data.check(data.read("traffic"))

    found = findings[findings["reason"] == "unreadable"].iloc[0]
    assert (found["file"], found["line"], found["value"]) == ("Traffic.csv", 11, "many")


def cut_off(text: str) -> str:
    return text[: int(len(text) * 0.6)]


def ends_in_a_whole_number(text: str) -> str:
    return text.rstrip("\r\n")[:-1]


def other_delimiter(text: str) -> str:
    return text.replace(";", "|").replace(",", "|")


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_off, "cut off"),
        (ends_in_a_whole_number, "cut off"),
        (other_delimiter, "delimiter"),
        (lambda text: "", "is empty"),
        (lambda text: text.splitlines()[0] + "\n", "no readings"),
    ],
)
def test_refuses_a_spoiled_file(
    name: str, spoil: Callable[[str], str], says: str, city: Path
) -> None:
    path = first_file(city, name)
    path.write_text(spoil(path.read_text()))

    with pytest.raises(DataError, match=says) as refused:
        data.read(name)

    assert path.name in str(refused.value)


def test_names_the_domain_a_file_really_belongs_to(city: Path) -> None:
    first_file(city, "air_quality").write_bytes(first_file(city, "traffic").read_bytes())

    with pytest.raises(DataError, match="first line is that of 'traffic'"):
        data.read("air_quality")


def test_refuses_bytes_that_are_no_text(city: Path) -> None:
    first_file(city, "energy").write_bytes(bytes(range(256)))

    with pytest.raises(DataError, match="as text"):
        data.read("energy")


def test_blank_lines_are_passed_over_and_counted(city: Path) -> None:
    path = first_file(city, "traffic")
    before = data.read("traffic")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["", *lines[:50], "", *lines[50:], "", ""]))

    after = data.read("traffic")

    assert len(after.frame) == len(before.frame)
    assert after.blank == 3


@pytest.mark.parametrize("day", ["xx", "", "0", "32", "1e300", "inf", "1.5"])
def test_a_day_that_cannot_be_is_a_finding(day: str, city: Path) -> None:
    path = first_file(city, "traffic")
    lines = path.read_text().splitlines()
    cells = lines[20].split(",")
    lines[20] = ",".join([cells[0], day, *cells[2:]])
    path.write_text("\n".join([*lines, ""]))

    readings = data.read("traffic")

    found = data.check(readings)
    assert set(found.loc[found["reason"] == "unreadable", "line"]) == {21}
    assert readings.frame["recorded_at"].iloc[20] == pd.Timestamp("2023-10-10 05:00")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("\n12", '\n"12', 1), "not a table|fields where"),
        (lambda text: text.replace("BikeCount", "CarCount"), "lacks the columns"),
        (lambda text: text.replace("Day of the week", "CarCount"), "twice"),
        (lambda text: text.replace(" AM", " ??").replace(" PM", " ??"), "cannot be read in"),
    ],
)
def test_refuses_a_table_that_makes_no_sense(
    spoil: Callable[[str], str], says: str, city: Path
) -> None:
    path = first_file(city, "traffic")
    path.write_text(spoil(path.read_text()))

    with pytest.raises(DataError, match=says):
        data.read("traffic")


def test_fetch_refuses_a_file_of_something_else(city: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "Traffic.csv").write_bytes(first_file(city, "energy").read_bytes())
    before = first_file(city, "traffic").read_bytes()

    with pytest.raises(DataError, match="is not a file of 'traffic'.*Nothing was changed"):
        list(data.fetch(domains.load("traffic"), wrong))

    assert first_file(city, "traffic").read_bytes() == before


def test_missing_readings_say_how_to_get_them(home: Path) -> None:
    with pytest.raises(DataError, match="smartcity data fetch energy"):
        data.read("energy")


def test_bare_days_become_dates_across_a_month(city: Path) -> None:
    times = data.read("traffic").frame["recorded_at"]

    assert times.iloc[0] == pd.Timestamp("2023-10-10 00:00")
    assert times.iloc[200] == pd.Timestamp("2023-10-12 02:00")


def test_two_sites_are_never_joined(city: Path) -> None:
    main = first_file(city, "traffic")
    main.with_name("TrafficTwoMonth.csv").write_bytes(main.read_bytes())

    both = [data.read("traffic", site) for site in ("main", "second")]

    assert [len(readings.sources) for readings in both] == [1, 1]
    with pytest.raises(UsageError, match="Did you mean 'second'"):
        data.read("traffic", "secnd")


def test_energy_joins_its_files_in_time(city: Path) -> None:
    readings = data.read("energy")

    clean = data.clean(readings, data.check(readings))

    assert len(readings.sources) == 3
    assert clean["recorded_at"].is_monotonic_increasing


def test_fetch_takes_files_and_archives_from_a_folder(city: Path, tmp_path: Path) -> None:
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    with zipfile.ZipFile(by_hand / "archive.zip", "w") as archive:
        archive.write(first_file(city, "traffic"), "data/Traffic.csv")
    with at_home(tmp_path / "new"):
        sources = list(data.fetch(domains.load("traffic"), by_hand))

        assert [s.path.name for s in sources] == ["Traffic.csv"]
        assert not sources[0].published
        assert len(data.read("traffic").frame) > 100


def test_fetch_keeps_the_label_of_simulated_files(city: Path, tmp_path: Path) -> None:
    with at_home(tmp_path / "new"):
        list(data.fetch(domains.load("energy"), city / "datasets"))

        assert data.read("energy").simulated


def test_fetch_from_a_folder_without_the_file_says_where_it_looked(home: Path) -> None:
    with pytest.raises(DataError, match="neither in"):
        list(data.fetch(domains.load("energy"), home))


class _Publisher(BaseHTTPRequestHandler):
    """A publisher on loopback: an archive, a broken-off one, or nothing."""

    def __init__(self, archive: bytes, *args: object) -> None:
        self.archive = archive
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()
        is_cut = self.path == "/cut"
        self.wfile.write(self.archive[: len(self.archive) // 2] if is_cut else self.archive)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def publisher(city: Path) -> Iterator[str]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(first_file(city, "air_quality"), "AirQualityUCI.csv")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Publisher, packed.getvalue()))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def published_at(url: str) -> domains.Domain:
    domain = domains.load("air_quality")
    file = domain.files[0].model_copy(update={"archive": url, "archive_sha256": None})
    return domain.model_copy(update={"files": (file,)})


def test_fetch_downloads_from_a_publisher(publisher: str, tmp_path: Path) -> None:
    with at_home(tmp_path / "new"):
        [source] = data.fetch(published_at(f"{publisher}/archive.zip"), progress=False)

        assert source.path.parent == settings.current().datasets / "air_quality"
        assert len(data.read("air_quality").frame) > 100


@pytest.mark.parametrize("path", ["/gone", "/cut"])
def test_a_failed_download_leaves_no_readings_behind(
    path: str, publisher: str, tmp_path: Path
) -> None:
    with at_home(tmp_path / "new"):
        with pytest.raises(DataError, match="smartcity data fetch air_quality --from"):
            list(data.fetch(published_at(publisher + path), progress=False))

        assert not list((tmp_path / "new").rglob("*.csv"))


def test_an_archive_that_changed_is_refused(publisher: str, tmp_path: Path) -> None:
    domain = published_at(f"{publisher}/archive.zip")
    file = domain.files[0].model_copy(update={"archive_sha256": "0" * 64})
    with at_home(tmp_path / "new"), pytest.raises(DataError, match="another archive"):
        list(data.fetch(domain.model_copy(update={"files": (file,)}), progress=False))


def test_fetch_without_a_network_says_what_to_do(tmp_path: Path, free_port: int) -> None:
    with at_home(tmp_path), pytest.raises(DataError, match="no connection.*--from FOLDER"):
        list(data.fetch(published_at(f"http://127.0.0.1:{free_port}/x.zip"), progress=False))


@pytest.mark.parametrize("name", DOMAINS)
def test_the_summary_is_one_sentence_with_figures(name: str, city: Path) -> None:
    readings = data.read(name)
    clean = data.clean(readings, data.check(readings))

    facts = data.summarise(readings.domain, clean, days=2)

    assert facts["sentence"].endswith("before.")
    assert facts["readings"] > 0
    assert facts["before"] is not None
