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
from smartcity.data.summary import standing, trend
from smartcity.errors import DataError, UsageError
from smartcity.registry import CardInput


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


def hourly(days: int, value: Callable[[pd.Series], pd.Series], column: str) -> pd.DataFrame:
    """Readings every hour from midnight, their values made from the number of the day."""
    times = pd.Series(pd.date_range("2026-03-01", periods=24 * days, freq="h"))
    day = (times - times[0]).dt.days
    return pd.DataFrame({"recorded_at": times, column: value(day).astype(float)})


def test_the_days_so_far_say_what_is_usual() -> None:
    energy = domains.load("energy")
    readings = hourly(21, lambda day: day + 1, "consumption_kwh")

    facts = data.summarise(energy, readings, days=2)

    assert [day["value"] for day in facts["daily"]] == list(range(8, 22))
    assert facts["daily"][0] == {"day": "2026-03-08", "value": 8.0, "readings": 24}
    assert facts["usual"] == {"low": 3.0, "high": 19.0}
    assert facts["value"] == 20.5
    assert (facts["standing"], facts["band"], facts["trend"]) == ("high", "high", "rising")
    assert facts["advice"] == energy.target.advice.high  # type: ignore[union-attr]


def test_days_without_readings_are_left_out_and_days_cut_short_are_not_usual() -> None:
    readings = hourly(10, lambda day: day * 0 + 2, "consumption_kwh")
    hour, day = readings["recorded_at"].dt.hour, readings["recorded_at"].dt.day
    readings.loc[day == 4, "consumption_kwh"] = float("nan")
    readings.loc[(day == 10) & (hour > 0), "consumption_kwh"] = float("nan")
    readings.loc[(day == 10) & (hour == 0), "consumption_kwh"] = 90

    facts = data.summarise(domains.load("energy"), readings, days=7)

    assert [each["day"][-2:] for each in facts["daily"]] == [
        *("01", "02", "03", "05", "06", "07", "08", "09", "10")
    ]
    assert facts["daily"][-1] == {"day": "2026-03-10", "value": 90.0, "readings": 1}
    assert facts["usual"] == {"low": 2.0, "high": 2.0}


def test_a_single_day_is_usual_and_goes_nowhere() -> None:
    facts = data.summarise(
        domains.load("energy"), hourly(1, lambda day: day * 0 + 0.1, "consumption_kwh"), days=7
    )

    assert facts["usual"] == {"low": pytest.approx(0.1), "high": pytest.approx(0.1)}
    assert (facts["standing"], facts["trend"], facts["before"]) == ("usual", None, None)
    assert facts["advice"] == "As usual here; nothing more to do."


def test_days_all_alike_are_usual_and_steady() -> None:
    facts = data.summarise(
        domains.load("energy"), hourly(9, lambda day: day * 0 + 0.1, "consumption_kwh"), days=3
    )

    assert (facts["standing"], facts["trend"]) == ("usual", "steady")


def test_a_class_is_told_by_its_most_frequent_level() -> None:
    traffic = domains.load("traffic")
    readings = hourly(4, lambda day: day, "traffic_level")

    calm = data.summarise(traffic, readings[:30], days=1)
    even = data.summarise(traffic, readings[:36], days=1)
    heavy = data.summarise(traffic, readings, days=1)

    assert (calm["band"], calm["advice"]) == ("low", traffic.target.levels[0].advice)
    assert even["band"] == "medium"  # as many readings of either: the higher
    assert (heavy["band"], heavy["advice"]) == ("very high", traffic.target.levels[3].advice)
    assert [day["value"] for day in heavy["daily"]] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("value", "before", "expected"),
    [
        (5.49, 5.0, "steady"),
        (4.51, 5.0, "steady"),
        (5.5, 5.0, "rising"),
        (4.5, 5.0, "falling"),
        (5.0, None, None),
    ],
)
def test_a_change_counts_from_a_twentieth_of_the_usual_span(
    value: float, before: float | None, expected: str | None
) -> None:
    assert trend(value, before, 10.0) == expected


def test_a_bound_of_what_is_usual_is_usual() -> None:
    assert [standing(v, 1.0, 2.0) for v in (0.9, 1.0, 1.5, 2.0, 2.1)] == [
        *("low", "usual", "usual", "usual", "high")
    ]
    assert standing(0.1 + 0.2, 0.0, 0.3) == "usual"  # a rounding error is no difference


def seen(name: str, low: float, high: float, *, typical: float) -> CardInput:
    edges = (low + 1, high - 1)
    shown = {"label": name.title(), "unit": "", "optional": False}
    return CardInput(name=name, low=low, high=high, edges=edges, typical=typical, **shown)


def test_readings_that_moved_are_told_beside_what_a_model_has_seen() -> None:
    none = float("nan")
    readings = pd.DataFrame(
        {
            "recorded_at": pd.date_range("2026-03-01", periods=4, freq="h"),
            "heat": [44.6, 44.7, 40.0, 20.0],
            "wind": [5.0, none, none, none],
            "rain": [none] * 4,
        }
    )
    inputs = [
        seen("heat", 0, 44.599998, typical=21.0),  # what float32 makes of 44.6
        seen("wind", 0, 12, typical=6.0),
        seen("rain", 0, 9, typical=1.0),
        seen("hour", 0, 23, typical=12.0),
    ]

    moved = data.drift(readings, inputs, learned_to="2026-03-01T01:00:00")

    heat, wind, rain = moved["inputs"]
    assert (heat["name"], heat["label"], heat["outside"]) == ("heat", "Heat", 0.25)
    assert heat["shift"] == pytest.approx((42.3 - 21) / 42.6, rel=1e-3)
    assert (wind["outside"], wind["shift"]) == (0.0, pytest.approx(-0.1))
    assert (rain["outside"], rain["shift"]) == (None, None)
    assert (moved["outside"], moved["fresh"]) == (0.2, 0.5)
    assert "50% of these readings are newer" in moved["sentence"]
    assert "20.0% of the measured values lie beyond" in moved["sentence"]


def test_what_a_model_learned_from_cannot_lie_beyond_it() -> None:
    readings = hourly(2, lambda day: day, "heat")

    known = data.drift(readings, [seen("heat", 0, 3, typical=1.0)], learned_to="2026-03-02T23:00")
    unmeasured = data.drift(readings, [seen("hour", 0, 23, typical=1.0)], learned_to="2026-03-01")

    assert (known["outside"], known["fresh"]) == (0.0, 0.0)
    assert "learned from all of these readings" in known["sentence"]
    assert (unmeasured["outside"], unmeasured["inputs"]) == (None, [])
    assert "No input was measured" in unmeasured["sentence"]
