"""Whole folders: the same answers on every backend, whoever dies; one manifest, last of all."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from conftest import forget, usual
from distributed import LocalCluster
from pyarrow import parquet

from smartcity import registry
from smartcity.errors import ModelError, SmartCityError, StorageError, UsageError
from smartcity.predict import Predictor, files_folder, files_parts
from smartcity.predict.files import Progress, answer_file
from smartcity.predict.files_folder import answer_folder

Models = dict[str, registry.Card]
Told = Callable[[Progress], object]
FILES = {"site=north/a.parquet": 900, "site=north/b.parquet": 250, "site=south/a.parquet": 640}


def use(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SMARTCITY_{name.upper()}", str(value))
    forget()


@contextmanager
def cluster(workers: int) -> Iterator[LocalCluster]:
    made = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    )
    with made:
        yield made


@contextmanager
def worker(scheduler: str, variables: dict[str, str]) -> Iterator[None]:
    """Run a worker as on another machine, with an environment of its own.

    It has two threads: to a cluster of one, nothing is sent.
    """
    words = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "2"]
    words += ["--no-nanny", "--no-dashboard"]
    with subprocess.Popen(words, env=os.environ | variables, stderr=subprocess.DEVNULL) as run:
        try:
            yield
        finally:
            run.kill()


def write(path: Path, card: registry.Card, rows: int, seed: int = 0) -> None:
    """Write air readings in row groups of a hundred: some lacking, some odd, some impossible."""
    rng, usually = np.random.default_rng(seed), usual(card)
    table: dict[str, Any] = {}
    for name, value in usually.items():
        column = (value or 1.0) * rng.lognormal(0, 0.5, rows)
        table[name] = pa.array(column, mask=rng.random(rows) < 0.02)
    table["NMHC_GT"] = pa.array(rng.uniform(1, 900, rows), mask=rng.random(rows) < 0.5)
    table["humidity"] = pa.array(np.clip(table["humidity"].fill_null(50).to_numpy(), 0, 100))
    table["note"] = pa.array([f"no. {n}" for n in range(rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(table), path, row_group_size=100)


@pytest.fixture
def folder(tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of readings of two sites, which falls into eleven parts."""
    monkeypatch.setattr(files_folder, "_ROWS", 200)
    for seed, (name, rows) in enumerate(FILES.items()):
        write(tmp_path / "in" / name, models["air_quality"], rows, seed)
    return tmp_path / "in"


def manifest(target: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((target / "_manifest.json").read_text())
    return found


def files(target: Path) -> dict[str, bytes]:
    """Read all that lies in a folder, but for its lock."""
    found = [p for p in target.rglob("*") if p.is_file() and p.name != ".lock"]
    return {p.relative_to(target).as_posix(): p.read_bytes() for p in found}


def expected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Answer the folder in this process."""
    use(monkeypatch, backend="sequential")
    answer_folder(Predictor.load("air_quality"), folder, folder.parent / "expected")
    return files(folder.parent / "expected")


def test_a_folder_is_answered_as_each_of_its_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="threading", jobs=2)
    predictor, target = Predictor.load("air_quality"), tmp_path / "out"

    done = answer_folder(predictor, folder, target)

    told = manifest(target)
    assert (done.answered + done.refused, done.share) == (sum(FILES.values()), 1.0)
    assert (told["answered"], told["refused"]) == (done.answered, done.refused)
    assert (told["model"], told["model_version"]) == ("air_quality", "1.0.0")
    assert done.rejected == target / "_rejected"
    for name in FILES:
        answer_file(predictor, folder / name, tmp_path / "one.parquet")
        parts = [part for part in told["parts"] if part["source"] == name]
        assert {Path(part["path"]).parent.as_posix() for part in parts} == {name[: name.find("/")]}
        found = [r for p in parts for r in parquet.read_table(target / p["path"]).to_pylist()]
        rows = [{k: v for k, v in row.items() if k != "site"} for row in found]
        assert rows == parquet.read_table(tmp_path / "one.parquet").to_pylist()
        lines = [line for p in parts if p["refused"] for line in read(target / p["rejected"])]
        assert lines == read(tmp_path / "one.rejected.csv")
    assert parquet.read_table(target).num_rows == done.answered  # rejected rows are not in the way
    assert len(told["parts"]) == 11


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_threads_and_processes_write_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, jobs: int
) -> None:
    wanted = expected(folder, monkeypatch)
    use(monkeypatch, backend=backend, jobs=jobs)

    answer_folder(Predictor.load("air_quality"), folder, tmp_path / "out")

    assert files(tmp_path / "out") == wanted


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_cluster_writes_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    wanted = expected(folder, monkeypatch)
    with cluster(workers) as made:
        use(monkeypatch, scheduler=made.scheduler_address)

        answer_folder(Predictor.load("air_quality"), folder, tmp_path / "out")

    assert files(tmp_path / "out") == wanted


def killing(find: Callable[[], list[int]]) -> tuple[Told, list[int]]:
    """Give what kills one of some processes, once, when something is done and something left."""
    killed: list[int] = []

    def told(now: Progress) -> None:
        if not killed and 0 < now.share < 1:
            killed.append(find()[0])
            os.kill(killed[0], signal.SIGKILL)

    return told, killed


def test_a_process_that_is_killed_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(folder, monkeypatch)
    use(monkeypatch, backend="loky", jobs=2)

    def workers() -> list[int]:
        children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
        return [p.pid for p in children if "popen_loky" in " ".join(p.cmdline())]

    told, killed = killing(workers)

    answer_folder(Predictor.load("air_quality"), folder, tmp_path / "out", told)

    assert killed
    assert files(tmp_path / "out") == wanted


def test_a_worker_of_a_cluster_that_is_killed_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(folder, monkeypatch)
    with cluster(2) as made:
        use(monkeypatch, scheduler=made.scheduler_address)
        told, killed = killing(lambda: [worker.pid for worker in made.workers.values()])

        answer_folder(Predictor.load("air_quality"), folder, tmp_path / "out", told)

    assert killed
    assert files(tmp_path / "out") == wanted


RUN = """
import sys
from pathlib import Path
from smartcity.predict import Predictor, files_folder
files_folder._ROWS = 200
def told(progress):
    if progress.share > 0.5:
        print("far enough", flush=True)
        sys.stdin.read()  # for ever
predictor = Predictor.load("air_quality")
files_folder.answer_folder(predictor, Path(sys.argv[1]), Path(sys.argv[2]), told)
"""


@pytest.mark.parametrize("backend", ["sequential", "loky"])
def test_a_command_killed_in_the_middle_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    wanted, target = expected(folder, monkeypatch), tmp_path / "out"
    use(monkeypatch, backend=backend)
    with subprocess.Popen(
        [sys.executable, "-c", RUN, folder, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"far enough\n"
        run.send_signal(signal.SIGKILL)
    assert not (target / "_manifest.json").exists()
    seen: list[Progress] = []

    last = answer_folder(Predictor.load("air_quality"), folder, target, seen.append)

    assert 0 < seen[0].resumed == last.resumed
    assert files(target) == wanted


def test_only_what_changed_is_done_again(
    folder: Path, tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="sequential")
    predictor, target = Predictor.load("air_quality"), tmp_path / "out"
    answer_folder(predictor, folder, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.parquet")}
    damaged = target / "site=north" / "b-00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (target / "_rejected" / "site=north" / "a-00002.csv").unlink()
    (target / "site=north" / ".tmp-left").touch()
    write(folder / "site=south" / "a.parquet", models["air_quality"], 150, seed=9)

    done = answer_folder(predictor, folder, target)

    again = {path for path in before if path.exists() and path.stat().st_mtime_ns != before[path]}
    north, south = target / "site=north", target / "site=south"
    assert again == {damaged, north / "a-00002.parquet", south / "a-00000.parquet"}
    assert done.resumed == 900 + 250 - 200 - 200
    fresh = tmp_path / "fresh"
    answer_folder(predictor, folder, fresh)
    assert files(target) == files(fresh)


def test_another_version_begins_anew(
    folder: Path, tmp_path: Path, publish: Callable[..., registry.Card], monkeypatch: Any
) -> None:
    use(monkeypatch, backend="sequential")
    target = tmp_path / "out"
    answer_folder(Predictor.load("air_quality"), folder, target)
    card = publish("air_quality", run="another")

    done = answer_folder(Predictor.load("air_quality", card.version), folder, target)

    assert done.resumed == 0
    assert manifest(target)["model_version"] == card.version != "1.0.0"
    versions = parquet.read_table(target)["model_version"].unique().to_pylist()
    assert versions == [card.version]


def test_rows_that_cannot_be_answered_leave_an_empty_table(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="sequential")
    (tmp_path / "in" / "_old").mkdir(parents=True)
    (tmp_path / "in" / ".hidden").write_text("passed over")
    (tmp_path / "in" / "_old" / "notes.txt").write_text("passed over")
    bad = pa.table({name: [-1, -2] for name in ("car_count", "bike_count")})
    bad = bad.append_column("bus_count", pa.array([1, 1])).append_column(
        "truck_count", pa.array([1, 1])
    )
    parquet.write_table(bad, tmp_path / "in" / "bad.parquet")
    parquet.write_table(bad.slice(0, 0), tmp_path / "in" / "none.parquet")

    done = answer_folder(Predictor.load("traffic"), tmp_path / "in", tmp_path / "out")

    assert (done.answered, done.refused) == (0, 2)
    table = parquet.read_table(tmp_path / "out" / "bad-00000.parquet")
    assert (table.num_rows, table.schema.names[-1]) == (0, "model_version")
    told = read(tmp_path / "out" / "_rejected" / "bad-00000.csv")
    assert [row["input_line"] for row in told] == ["1", "2"]
    assert "car_count" in told[0]["problems"]
    assert not (tmp_path / "out" / "none-00000.parquet").exists()


@pytest.mark.parametrize("truth", ["right", "wrong"])
def test_a_worker_without_the_model_gets_it_and_checks_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: str
) -> None:
    wanted, checksum = expected(folder, monkeypatch), ""
    away = {"SMARTCITY_MODELS": str(tmp_path / "none"), "SMARTCITY_STATE": str(tmp_path / "away")}
    checksum, packed = registry.pack("air_quality", "1.0.0")
    if truth == "wrong":
        checksum = "0" * 64
        monkeypatch.setattr(registry, "pack", lambda *_: (checksum, packed))
    with cluster(0) as made, worker(made.scheduler_address, away):
        use(monkeypatch, scheduler=made.scheduler_address)
        predictor = Predictor.load("air_quality")

        if truth == "wrong":
            with pytest.raises(ModelError, match="not what was published"):
                answer_folder(predictor, folder, tmp_path / "out")
        else:
            answer_folder(predictor, folder, tmp_path / "out")

    cache = tmp_path / "away" / "models" / checksum / "air_quality" / "1.0.0"
    assert (cache / registry.SUMS).exists() == (truth == "right")
    assert not (tmp_path / "none").exists()
    assert files(tmp_path / "out") == (wanted if truth == "right" else {})


@pytest.mark.parametrize("change", ["byte", "end", "other"])
def test_a_model_that_changed_on_the_way_is_not_opened(
    home: Path, published: Path, change: str
) -> None:
    checksum, packed = registry.pack("traffic", "1.0.0", published)
    if change == "byte":
        packed = packed.copy()
        packed[packed.size // 2] ^= 1
    elif change == "end":
        packed = packed[:-100]
    else:
        checksum, _ = registry.pack("energy", "1.0.0", published)

    with pytest.raises(ModelError, match="Nothing of it was opened"):
        registry.unpack(packed, "traffic", "1.0.0", checksum)

    assert not (home / "state").exists()


def test_a_model_is_unpacked_once_and_opens(home: Path, published: Path) -> None:
    checksum, packed = registry.pack("traffic", "1.0.0", published)

    place = registry.unpack(packed, "traffic", "1.0.0", checksum)
    again = registry.unpack(packed[:0], "traffic", "1.0.0", checksum)

    row = {"car_count": 60, "bike_count": 10, "bus_count": 8, "truck_count": 5}
    own = Predictor.load("traffic", folder=published).predict(row)
    assert place == again == home / "state" / "models" / checksum
    assert Predictor.load("traffic", "1.0.0", place).predict(row) == own
    shutil.copytree(published, home / "models")
    assert registry.unpack(packed, "traffic", "1.0.0", checksum) == home / "models"


def test_a_file_that_changes_meanwhile_is_refused(
    folder: Path, tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="sequential")

    def told(now: Progress) -> None:
        if now.share == 0:
            write(folder / "site=south" / "a.parquet", models["air_quality"], 640, seed=8)

    with pytest.raises(SmartCityError, match="changed while it was answered"):
        answer_folder(Predictor.load("air_quality"), folder, tmp_path / "out", told)

    assert not (tmp_path / "out" / "_manifest.json").exists()


def no_folder(source: Path, target: Path) -> None:
    target.touch()


def foreign(source: Path, target: Path) -> None:
    target.mkdir()
    shutil.copy(source / "site=north" / "a.parquet", target)


def no_parquet(source: Path, target: Path) -> None:
    (source / "bad.parquet").write_text("no table")


def other_kind(source: Path, target: Path) -> None:
    (source / "rows.csv").write_text("a,b\n1,2\n")


def other_table(source: Path, target: Path) -> None:
    parquet.write_table(pa.table({"a": [1]}), source / "bad.parquet")


def nothing(source: Path, target: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()


@pytest.mark.parametrize(
    ("prepare", "error", "said"),
    [
        (no_folder, StorageError, "it is no folder"),
        (foreign, StorageError, "not made by this command"),
        (no_parquet, SmartCityError, "Cannot read .*bad.parquet"),
        (other_kind, UsageError, "rows.csv does not end in .parquet"),
        (other_table, SmartCityError, "has no column"),
        (nothing, SmartCityError, "has no row"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, prepare: Any, error: type[Exception], said: str
) -> None:
    target = tmp_path / "out"
    prepare(folder, target)
    before = files(target) if target.is_dir() else {}

    with pytest.raises(error, match=said):
        answer_folder(Predictor.load("air_quality"), folder, target)

    assert (files(target) if target.is_dir() else {}) == before


def test_folders_must_not_lie_in_each_other(folder: Path) -> None:
    predictor = Predictor.load("air_quality")

    for target in (folder, folder / "out", folder.parent):
        with pytest.raises(UsageError, match="in each other"):
            answer_folder(predictor, folder, target)


def test_two_runs_never_write_the_same_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="sequential")
    predictor, target = Predictor.load("air_quality"), tmp_path / "out"

    def again(progress: Progress) -> None:
        if progress.share < 1:
            with pytest.raises(StorageError, match="Another run"):
                answer_folder(predictor, folder, target)

    assert answer_folder(predictor, folder, target, again).answered


def test_a_part_that_cannot_be_written_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, backend="sequential")
    predictor, target = Predictor.load("air_quality"), tmp_path / "out"
    in_the_way = target / "site=south" / "a-00006.parquet"

    def told(now: Progress) -> None:
        if now.share > 0.5:
            in_the_way.mkdir(parents=True, exist_ok=True)

    with pytest.raises(StorageError, match=f"Cannot write {in_the_way}"):
        answer_folder(predictor, folder, target, told)

    assert not [*target.rglob(".tmp-*")]
    assert not (target / "_manifest.json").exists()
    in_the_way.rmdir()
    assert answer_folder(predictor, folder, target).resumed > 0


def test_the_command_answers_a_folder(folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "smartcity", "predict", "air-quality", "--input", str(folder)]
    words += ["--output", str(tmp_path / "out")]

    told = subprocess.run(words, capture_output=True, text=True, check=False)
    again = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)

    found, sums = json.loads(again.stdout), manifest(tmp_path / "out")
    aside = tmp_path / "out" / "_rejected"
    said = (
        f"{sums['answered']} rows answered: {tmp_path / 'out'}; {sums['refused']} refused: {aside}"
    )
    assert (told.stdout, told.stderr) == (f"{said}\n", "")
    assert (found["answered"], found["refused"]) == (sums["answered"], sums["refused"])
    assert found["resumed"] == sum(FILES.values())


def test_a_part_done_twice_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(folder, monkeypatch)
    card, target = registry.card("air_quality"), tmp_path / "expected"
    checksum, packed = registry.pack("air_quality", card.version)
    domain = Predictor.load("air_quality").domain
    asked = files_parts.Asked(domain, "main", card.name, card.version, checksum)
    mark = files_parts.mark(asked, folder, "site=north/b.parquet", 0, 2)
    part = files_parts.Part("site=north/b.parquet", 0, 2, 200, mark)

    again = [files_parts.answer_part(asked, packed, folder, target, part) for _ in range(2)]

    assert again[0] == again[1]
    assert files(target) == wanted
    with pytest.raises(SmartCityError, match="changed while"):
        files_parts.answer_part(asked, packed, folder, target, replace(part, last=1))
