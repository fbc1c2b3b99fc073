"""Faults under load, on a real server: nothing lost, nothing twice, no wrong answer, no hang."""

import http.client
import itertools
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import psutil
import pytest
from conftest import DOMAINS, Postgres, eventually, forget, usual
from test_registry import flip_a_byte
from test_spool import kept, prediction, spooled

from smartcity import domains, registry
from smartcity.predict import Predictor
from smartcity.store import database as store
from smartcity.store import users
from smartcity.store.importer import import_waiting

Models = dict[str, registry.Card]
AIR = "/api/v1/predict/air-quality"
#: The input every row has a value of its own in, by which it is known again in the database.
MARK = "PT08_S5_O3"
#: Longest any single request may take; more counts as a hang.
PATIENCE = 20.0


def mark(number: int) -> float:
    return round(300 + number * 0.01, 2)


class Server:
    """``smartcity serve`` as a process, with everything it started."""

    def __init__(self, home: Path, port: int, *, workers: int = 1, **more: str) -> None:
        """Take the settings of this test and some more."""
        self.home, self.port, self.workers = home, port, workers
        own = {"SMARTCITY_API_PORT": str(port), "SMARTCITY_RATE_LIMIT": "off"}
        own |= {"SMARTCITY_KEY_RATE_LIMIT": "off"}
        self.env = {**os.environ, **own, **{f"SMARTCITY_{k.upper()}": v for k, v in more.items()}}
        # A server that is killed leaves its folder behind; it goes with this test's.
        self.temporary = home / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.env["TMPDIR"] = str(self.temporary)
        self.output = home / "server.txt"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its parent process."""
        assert self.process
        return self.process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it can answer."""
        command = [sys.executable, "-m", "smartcity", "serve", "--workers", str(self.workers)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=output, stderr=subprocess.STDOUT
            )
        if wait:
            eventually(lambda: self.probe("ready") == 200, seconds=60)
            eventually(self.importer, seconds=30)

    def probe(self, name: str) -> int:
        """Ask how it is; 0 while nobody answers."""
        with suppress(OSError, http.client.HTTPException):
            return self.get(f"/health/{name}")[0]
        return 0

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Get a route: status, body, headers."""
        return self.ask("GET", path, None, **headers)

    def ask(
        self, method: str, path: str, body: bytes | None, **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Ask once, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"content-type": "application/json", **given})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, orjson.loads(content), told

    def children(self) -> list[psutil.Process]:
        """All processes it started."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def worker_ids(self) -> list[int]:
        """Those that answer."""
        return self._having("spawn_main") if self.workers > 1 else [self.pid]

    def importer(self) -> int | None:
        """The one that imports."""
        return next(iter(self._having("import")), None)

    def _having(self, word: str) -> list[int]:
        found = []
        for child in self.children():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                command = child.cmdline()
                if any(word == each or f"{word}(" in each for each in command):
                    found.append(child.pid)
        return found

    def kill_all(self) -> None:
        """Kill it and all it started, as a machine that is out of memory does."""
        assert self.process
        everyone = self.children()
        self.process.kill()
        self.process.wait()
        for each in everyone:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        left(everyone, 10)

    def stop(self) -> float:
        """Ask it to end; give the seconds it took, all its processes gone."""
        assert self.process
        everyone, started = self.children(), time.monotonic()
        self.process.terminate()
        self.process.wait(timeout=40)
        seconds = time.monotonic() - started
        assert not left(everyone, 15), "it left processes behind"
        return seconds


def left(everyone: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; give those that do not. What nobody buries has ended too."""

    def running(each: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return bool(each.status() != psutil.STATUS_ZOMBIE)
        return False

    end = time.monotonic() + seconds
    while (alive := [each for each in everyone if running(each)]) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


@contextmanager
def serving(home: Path, port: int, *, workers: int = 1, **more: str) -> Iterator[Server]:
    """Run a server for one test; nothing of it is left afterwards."""
    server = Server(home, port, workers=workers, **more)
    try:
        server.start()
        yield server
    except BaseException:
        lines = server.output.read_text(errors="replace").splitlines()
        lines = [line[:500] for line in lines if '"request answered"' not in line]
        sys.stdout.write("\n".join(lines[-40:]))
        raise
    finally:
        if server.process:
            server.kill_all()


@dataclass
class Answer:
    """What a client was told."""

    number: int
    prediction: float
    version: str


@dataclass
class Load:
    """Clients that ask on and on, each row once, and write down all they are told."""

    server: Server
    card: registry.Card
    threads: int = 4
    pause: float = 0.002
    headers: dict[str, str] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)
    #: Other statuses, with the seconds to wait they named.
    refused: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    #: Connections that ended without an answer.
    cut: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def __post_init__(self) -> None:
        """Start with nothing asked."""
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._row = usual(self.card)
        self._run: list[threading.Thread] = []

    def row(self, number: int) -> dict[str, float | None]:
        """Give the row of a number."""
        return self._row | {MARK: mark(number)}

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._run = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.threads)]
        for thread in self._run:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, once what is under way is answered."""
        self._stop.set()
        for thread in self._run:
            thread.join(PATIENCE + 5)
        assert not any(thread.is_alive() for thread in self._run), "a request hangs"

    def run(self, seconds: float) -> None:
        """Go on for a while."""
        time.sleep(seconds)

    def more(self, count: int = 200, seconds: float = 20) -> None:
        """Go on until so many more were answered."""
        goal = len(self.answers) + count
        eventually(lambda: len(self.answers) >= goal, seconds=seconds)

    def _ask(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.wait(self.pause):
            if connection is None:
                connection = http.client.HTTPConnection(
                    "127.0.0.1", self.server.port, timeout=PATIENCE
                )
            with self._lock:
                number = next(self._numbers)
                self.asked.add(number)
            started = time.monotonic()
            headers = {"content-type": "application/json", "x-request-id": f"load-{number}"}
            try:
                connection.request(
                    "POST", AIR, orjson.dumps(self.row(number)), headers | self.headers
                )
                answer = connection.getresponse()
                self._note(number, answer, orjson.loads(answer.read()))
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.cut[type(error).__name__] += 1
                connection.close()
                connection = None
                self._stop.wait(0.02)
            self.slowest = max(self.slowest, time.monotonic() - started)
        if connection:
            connection.close()

    def _note(self, number: int, answer: http.client.HTTPResponse, body: dict[str, Any]) -> None:
        with self._lock:
            if answer.status != 200:
                assert body["success"] is False
                assert body["error"]
                assert body["request_id"] == f"load-{number}"
                self.refused[answer.status, answer.getheader("retry-after")] += 1
                return
            assert body["success"] is True
            assert body["id"] not in self.answers, "two answers have one id"
            self.answers[body["id"]] = Answer(number, body["prediction"], body["model_version"])


def assert_all_kept(load: Load, *, drained: bool = True) -> None:
    """Compare what clients were told with the database, and with the model asked here.

    Args:
        load: The clients, done.
        drained: The server is still up and its importer brings everything in; else it is done here.
    """
    if drained:
        eventually(lambda: _ids() >= set(load.answers), seconds=30)
    else:
        import_waiting()
    rows = kept()
    by_id = {str(row["id"]): row for row in rows}
    lost = set(load.answers) - set(by_id)
    assert not lost, f"{len(lost)} of {len(load.answers)} answers are lost"
    marks = Counter(row["input_data"][MARK] for row in rows)
    assert {each for each, times in marks.items() if times > 1} == set(), "kept twice"
    assert set(marks) <= {mark(number) for number in load.asked}, "nobody asked this"
    assert len(rows) <= len(load.answers) + sum(load.cut.values()), "kept, but refused"
    for key, told in load.answers.items():
        row = by_id[key]
        found = (row["prediction"], row["model_version"], row["input_data"][MARK])
        assert found == (told.prediction, told.version, mark(told.number))
    assert_right(load)
    figures = f"{len(load.asked)} asked, {len(load.answers)} answered, {len(rows)} rows, "
    figures += f"refused {dict(load.refused)}, cut {dict(load.cut)}, slowest {load.slowest:.2f} s"
    sys.stdout.write(f"{figures}\n")


def _ids() -> set[str]:
    return {str(row["id"]) for row in kept()}


def assert_right(load: Load) -> None:
    """Ask the same rows of the same version here."""
    for version in {told.version for told in load.answers.values()}:
        predictor = Predictor.load("air_quality", version)
        told = [each for each in load.answers.values() if each.version == version]
        rows = [predictor.check(load.row(each.number)) for each in told]
        right = [each.prediction for each in predictor.answer(rows)]
        assert [each.prediction for each in told] == right


@pytest.fixture(autouse=True)
def closed(home: Path) -> Iterator[None]:
    """Let go of the database after each test."""
    yield
    with suppress(Exception):
        store.close()


def test_workers_and_importer_killed_under_load_come_back_and_nothing_is_lost(
    home: Path, models: Models, free_port: int
) -> None:
    with serving(home, free_port, workers=2) as server:
        with Load(server, models["air_quality"]) as load:
            load.more()
            before, importer = server.worker_ids(), server.importer()
            assert len(before) == 2
            assert importer
            os.kill(before[0], signal.SIGKILL)
            load.more()
            os.kill(importer, signal.SIGKILL)
            load.more()
            eventually(lambda: server.importer() not in {None, importer}, seconds=15)
            eventually(lambda: len(server.worker_ids()) == 2, seconds=15)
            after = server.worker_ids()
            assert before[0] not in after
            eventually(lambda: all_answer(server, after), seconds=20)
            load.more()
        assert not load.refused
        assert sum(load.cut.values()) <= 2 * load.threads
        assert_all_kept(load)
        server.stop()


def connections(process: int) -> int:
    found = psutil.Process(process).net_connections(kind="tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED for each in found)


def all_answer(server: Server, workers: list[int]) -> bool:
    """Connect some more clients, and tell whether every worker took one."""
    more = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=5) for _ in range(8)]
    try:
        for each in more:
            each.request("GET", "/health/live")
            assert each.getresponse().read()
        return all(map(connections, workers))
    finally:
        for each in more:
            each.close()


def test_a_whole_server_killed_under_load_goes_on_where_it_was(
    home: Path, models: Models, free_port: int
) -> None:
    with serving(home, free_port, workers=2) as server:
        with Load(server, models["air_quality"]) as load:
            load.more(500)
            server.kill_all()
            server.start()
            load.more()
            server.kill_all()
            server.start()
            load.more()
        assert not load.refused
        assert_all_kept(load)
        server.stop()


def test_workers_whose_parent_is_killed_end_and_leave_the_port(
    home: Path, models: Models, free_port: int
) -> None:
    with serving(home, free_port, workers=2) as server:
        with Load(server, models["air_quality"]) as load:
            load.more()
            orphans = server.children()
            os.kill(server.pid, signal.SIGKILL)
            alive = left(orphans, 15)
            for each in alive:
                each.kill()
            assert not alive, "orphans go on answering, and hold the port"
            assert server.process
            server.process.wait()
            server.start()
            load.more()
        assert not load.refused
        assert_all_kept(load)
        server.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_told_to_stop_under_load_finishes_what_is_under_way(
    workers: int, home: Path, models: Models, free_port: int
) -> None:
    with serving(home, free_port, workers=workers) as server:
        slow = http.client.HTTPConnection("127.0.0.1", free_port, timeout=PATIENCE)
        body = orjson.dumps(usual(models["air_quality"]) | {MARK: mark(0)})
        slow.putrequest("POST", AIR)
        slow.putheader("content-type", "application/json")
        slow.putheader("content-length", str(len(body)))
        slow.endheaders()
        slow.send(body[:50])
        with Load(server, models["air_quality"]) as load:
            load.more()
            late = threading.Timer(1.0, slow.send, [body[50:]])
            late.start()
            seconds = server.stop()
            answer = slow.getresponse()
            told = orjson.loads(answer.read())
            slow.close()
        load.asked.add(0)
        assert answer.status == 200
        load.answers[told["id"]] = Answer(0, told["prediction"], told["model_version"])
        assert 1 <= seconds < 15
        assert server.process
        assert server.process.returncode == 0
        assert not load.refused
        assert_all_kept(load, drained=False)
        assert list(server.temporary.glob("smartcity-*")) == []


@pytest.fixture
def own_postgres(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """A PostgreSQL server this test may stop, with our tables in ``made``."""
    server = Postgres(Path(tempfile.mkdtemp(prefix="sc-")))
    try:
        monkeypatch.setenv("SMARTCITY_DATABASE_URL", server.url("made"))
        forget()
        store.upgrade()
        yield server
    finally:
        store.close()
        server.end()


@contextmanager
def hanging(server: Postgres) -> Iterator[None]:
    """Let a server take connections and never answer: worse than one that is gone."""
    main = psutil.Process(int((server.folder / "postmaster.pid").read_text().split()[0]))
    everyone = [main, *main.children()]
    try:
        for each in everyone:
            with suppress(psutil.NoSuchProcess):  # one may just have ended
                each.suspend()
        yield
    finally:
        for each in everyone:
            with suppress(psutil.NoSuchProcess):
                each.resume()


def test_postgresql_away_for_a_while_disturbs_no_prediction(
    home: Path, models: Models, free_port: int, own_postgres: Postgres
) -> None:
    users.add_user("ann@city.org")
    ann, unseen, third = (users.new_key("ann@city.org") for _ in range(3))
    with serving(home, free_port, require_key="true") as server:
        mine = {"x-api-key": ann}
        with Load(server, models["air_quality"], pause=0.008, headers=mine) as load:
            load.more()
            store.close()
            own_postgres.server.stop()
            away, count = time.monotonic(), len(load.answers)
            key = next(iter(load.answers))
            note = orjson.dumps({"id": key, "observed": 1.5})
            for status, body, headers in (
                server.ask("POST", "/api/v1/feedback", note, **mine),
                server.get("/api/v1/predictions", **mine),
                server.ask("POST", AIR, orjson.dumps(load.row(0)), x_api_key=unseen),
            ):
                assert (status, body["success"]) == (503, False)
                assert int(headers["retry-after"]) > 0
                assert str(own_postgres.folder) not in str(body)
            assert server.get("/health")[1]["status"] == "healthy"
            load.run(11.5 - (time.monotonic() - away))  # longer than a key is known
            load.more()
            assert len(load.answers) > count + 500
            own_postgres.server.start()
            load.more()
        assert not load.refused
        assert not load.cut
        assert load.slowest < 5
        assert_all_kept(load)
        assert server.ask("POST", "/api/v1/feedback", note, x_api_key=ann)[0] == 201
        assert {row["user_id"] for row in kept()} == {users.list_users()[0]["id"]}
        store.close()

        with hanging(own_postgres):
            assert server.ask("POST", AIR, orjson.dumps(load.row(0)), x_api_key=ann)[0] == 200
            late = server.ask("POST", AIR, orjson.dumps(load.row(0)), x_api_key=third)
            assert (late[0], late[1]["success"]) == (503, False)
            assert server.stop() < 15, "it waits for a database that says nothing"


def test_a_locked_sqlite_file_disturbs_no_prediction(
    home: Path, models: Models, free_port: int
) -> None:
    with serving(home, free_port) as server:
        with Load(server, models["air_quality"], pause=0.008) as load:
            load.more()
            store.upgrade()  # done already; or else now
            eventually(lambda: len(kept()) > 0)
            other = sqlite3.connect(home / "state" / "smartcity.db", isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            note = orjson.dumps({"id": str(kept()[0]["id"]), "observed": 1.5})
            status, body, headers = server.ask("POST", "/api/v1/feedback", note)
            assert (status, body["success"]) == (503, False)
            assert int(headers["retry-after"]) > 0
            load.run(1)
            other.execute("ROLLBACK")
            other.close()
            load.more()
        assert not load.refused
        assert not load.cut
        assert_all_kept(load)
        assert server.ask("POST", "/api/v1/feedback", note)[0] == 201
        server.stop()


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A disk of one megabyte where the spool is."""
    folder = home / "state" / "spool"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk; test_spool's short write stands in")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_withholds_answers_until_there_is_room(
    home: Path, models: Models, free_port: int, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTCITY_DATABASE_URL", f"sqlite:///{home / 'elsewhere.db'}")
    forget()
    with serving(home, free_port) as server:
        with Load(server, models["air_quality"]) as load:
            load.more()
            assert server.get("/health")[1]["recording"] == "on"
            ballast = small_disk / "ballast"
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            eventually(lambda: load.refused, seconds=20)
            eventually(lambda: server.get("/health")[1]["recording"] == "full", seconds=5)
            assert server.get("/health")[0] == 200
            body = server.ask("POST", AIR, orjson.dumps(load.row(0)))[1]
            assert "kept" in body["error"]
            ballast.unlink()
            load.more(500)
            assert server.get("/health")[1]["recording"] == "on"
        assert set(load.refused) == {(503, "5")}
        assert not load.cut
        assert_all_kept(load)
        server.stop()
    store.close()


def copied(home: Path, name: str, version: str, to: str) -> Path:
    """Publish a version once more under another number, card and checksums right."""
    import hashlib

    folder = home / "models" / name
    shutil.copytree(folder / version, folder / f".{to}")
    card = orjson.loads((folder / f".{to}" / "card.json").read_bytes()) | {"version": to}
    (folder / f".{to}" / "card.json").write_bytes(orjson.dumps(card))
    files = sorted(p for p in (folder / f".{to}").iterdir() if p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / f".{to}" / "SHA256SUMS").write_text("".join(sums))
    return (folder / f".{to}").rename(folder / to)


def test_a_damaged_new_version_leaves_the_old_one_answering_and_a_cold_start_503(
    home: Path, models: Models, free_port: int
) -> None:
    folder = home / "models" / "air_quality"

    def says(status: str, about: str = "") -> Callable[[], bool]:
        def found() -> bool:
            told = server.get("/health")[1]
            return told["status"] == status and about in told["models"]["air_quality"]

        return found

    with serving(home, free_port) as server:
        with Load(server, models["air_quality"]) as load:
            load.more()
            flip_a_byte(copied(home, "air_quality", "1.0.0", "1.0.1") / "model.onnx")
            (folder / "CURRENT").write_text("1.0.1\n")
            eventually(says("partial", "not the file that was published"))
            load.more()
            (folder / "CURRENT").write_bytes(b"\xff\x00garbage")
            eventually(says("partial", "is damaged"))
            load.more()
            (folder / "CURRENT").write_text("1.0.0\n")
            eventually(says("healthy", "1.0.0"))
            load.more()
        assert not load.refused
        assert not load.cut
        assert {told.version for told in load.answers.values()} == {"1.0.0"}
        assert_all_kept(load)
        server.stop()

        flip_a_byte(folder / "1.0.0" / "model.onnx")
        shutil.rmtree(folder / "1.0.1")
        server.start()
        status, body, headers = server.ask("POST", AIR, orjson.dumps(load.row(0)))
        assert (status, body["success"]) == (503, False)
        assert int(headers["retry-after"]) > 0
        for name in set(DOMAINS) - {"air_quality"}:
            row = orjson.dumps(usual(models[name]))
            assert server.ask("POST", f"/api/v1/predict/{domains.load(name).slug}", row)[0] == 200
        assert server.get("/health")[1]["status"] == "partial"
        assert server.get("/health")[0] == 200

        flip_a_byte(folder / "1.0.0" / "model.onnx")  # whole again
        eventually(says("healthy", "1.0.0"))
        assert server.ask("POST", AIR, orjson.dumps(load.row(0)))[0] == 200
        server.stop()


def test_a_model_published_under_load_fails_no_request(
    home: Path, models: Models, free_port: int, publish: Callable[..., registry.Card]
) -> None:
    with serving(home, free_port, workers=2) as server:
        with Load(server, models["air_quality"]) as load:
            load.more()
            card = publish("air_quality")
            eventually(lambda: card.version in {a.version for a in [*load.answers.values()]})
            load.more()
            registry.rollback("air_quality")
            load.more()
        assert not load.refused
        assert not load.cut
        assert {told.version for told in load.answers.values()} == {"1.0.0", card.version}
        assert_all_kept(load)
        server.stop()


def test_the_same_request_sent_again_is_kept_once(
    home: Path, models: Models, free_port: int
) -> None:
    row, other = (orjson.dumps(usual(models["air_quality"]) | {MARK: mark(n)}) for n in (1, 2))
    batch = b"[%b,%b]" % (row, row)
    with serving(home, free_port, workers=2) as server:
        eventually((home / "state" / "smartcity.db").exists)
        store.upgrade()
        for name in ("ann", "ben"):
            users.add_user(f"{name}@city.org")
        ann, ben = (users.new_key(f"{name}@city.org") for name in ("ann", "ben"))

        def ask(body: bytes, path: str = AIR, **headers: str) -> Any:
            status, told, said = server.ask("POST", path, body, x_request_id="r-1", **headers)
            assert status == 200
            assert said["x-request-id"] == "r-1"
            return told

        first = [ask(row) for _ in range(8)]  # workers take turns
        assert len({told["id"] for told in first}) == 1
        assert len({told["prediction"] for told in first}) == 1
        ids = {first[0]["id"], ask(other)["id"]}
        ids |= {ask(row, x_api_key=key)["id"] for key in (ann, ben, ann)}
        assert len(ids) == 4
        twice = [ask(batch, AIR.replace("/air", "/batch/air")) for _ in range(2)]
        ids |= {each["id"] for told in twice for each in told["predictions"]}
        assert len(ids) == 6, "two rows of a batch are two answers, sent twice or not"
        unnamed = [server.ask("POST", AIR, row)[1]["id"] for _ in range(2)]
        ids |= set(unnamed)
        assert len(ids) == 8
        eventually(lambda: _ids() == ids)
        server.stop()
    import_waiting()
    rows = kept()
    assert sorted(str(row["id"]) for row in rows) == sorted(ids)
    owners = {each["email"]: each["id"] for each in users.list_users()}
    assert Counter(row["user_id"] for row in rows) == {
        None: 6,
        owners["ann@city.org"]: 1,
        owners["ben@city.org"]: 1,
    }


def test_a_request_repeated_across_versions_never_changes_what_an_id_means(
    home: Path, models: Models, free_port: int
) -> None:
    """The row under an id is the answer that was given with it."""
    row = orjson.dumps(usual(models["air_quality"]))
    with serving(home, free_port) as server:
        first = server.ask("POST", AIR, row, x_request_id="again")[1]
        copied(home, "air_quality", "1.0.0", "1.0.1")
        registry.promote("air_quality", "1.0.1", force="for tests")
        eventually(lambda: "1.0.1" in server.get("/health")[1]["models"].values())
        second = server.ask("POST", AIR, row, x_request_id="again")[1]
        assert (first["model_version"], second["model_version"]) == ("1.0.0", "1.0.1")
        server.stop()
    store.upgrade()  # the importer may have been stopped before it came to it
    import_waiting()
    found = {str(each["id"]): each["model_version"] for each in kept()}
    assert found[first["id"]] == "1.0.0"
    assert found[second["id"]] == "1.0.1"


def test_clients_that_vanish_harm_nobody(home: Path, models: Models, free_port: int) -> None:
    def raw(number: int, *, rows: int = 0) -> bytes:
        body = orjson.dumps(load.row(number))
        path = AIR.replace("/air", "/batch/air") if rows else AIR
        body = b"[" + b",".join([body] * rows) + b"]" if rows else body
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def vanish(content: bytes, *, rude: bool) -> None:
        with socket.create_connection(("127.0.0.1", free_port), timeout=5) as client:
            client.sendall(content)
            if rude:  # the connection is reset, not closed
                linger = struct.pack("ii", 1, 0)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with serving(home, free_port) as server:
        with Load(server, models["air_quality"]) as load:
            load.more()
            batch = raw(200_000, rows=1000)
            for n, rude in itertools.product(range(25), (False, True)):
                vanish(batch[: len(batch) * (n + 1) // 27], rude=rude)
                number = 100_000 + 2 * n + rude
                load.asked.add(number)
                load.cut["meant"] += 1
                vanish(raw(number), rude=rude)
            load.more()
        assert not load.refused
        assert set(load.cut) == {"meant"}
        assert load.slowest < 5
        eventually(lambda: connections(server.pid) <= 4)
        assert server.probe("live") == 200
        store.upgrade()  # the importer may not have come to it yet
        assert_all_kept(load)
        server.stop()
    assert "Traceback" not in server.output.read_text()


def test_memory_does_not_grow_with_the_number_of_requests(
    home: Path, models: Models, free_port: int
) -> None:
    row = usual(models["air_quality"])

    def ask(numbers: range) -> None:
        """Send many requests at once on one connection, then read as many answers."""
        with socket.create_connection(("127.0.0.1", free_port), timeout=PATIENCE) as client:
            for first in range(numbers.start, numbers.stop, 50):
                sent = b""
                for number in range(first, first + 50):
                    body = orjson.dumps(row | {MARK: mark(number)})
                    sent += b"POST %b HTTP/1.1\r\nhost: a\r\n" % AIR.encode()
                    sent += b"x-request-id: m-%d\r\ncontent-type: application/json\r\n" % number
                    sent += b"content-length: %d\r\n\r\n%b" % (len(body), body)
                client.sendall(sent)
                told = b""
                while told.count(b'"success":true') < 50:
                    part = client.recv(1 << 20)
                    assert part, told[-200:]
                    told += part
                assert told.count(b"HTTP/1.1 200 OK") == 50

    def memory() -> int:
        return int(psutil.Process(server.pid).memory_info().rss)

    with serving(home, free_port, cache_rows="0", metrics_share="0") as server:
        ask(range(4000))
        before, started = memory(), time.monotonic()
        ask(range(4000, 24_000))
        seconds, grown = time.monotonic() - started, memory() - before
        sys.stdout.write(f"20,000 requests in {seconds:.1f} s; RSS {before:,} {grown:+,}\n")
        assert grown < 12 * 2**20
        eventually(lambda: len(_ids()) == 24_000, seconds=40)
        server.stop()


def test_probes_tell_a_start_in_its_order(home: Path, models: Models, free_port: int) -> None:
    shutil.move(home / "models", home / "away")
    server = Server(home, free_port)
    try:
        server.start(wait=False)
        seen: list[tuple[int, int, int]] = []
        end = time.monotonic() + 30
        while (0, 0) in [each[:2] for each in seen[-1:]] or not seen:
            told = (server.probe("live"), server.probe("startup"), server.probe("ready"))
            seen.append(told)
            assert time.monotonic() < end
            time.sleep(0.02)
        eventually(lambda: server.probe("startup") == 200)
        assert server.probe("live") == 200
        assert server.probe("ready") == 503, "no model"
        status, body, headers = server.get("/health/ready")
        assert body["success"] is False
        assert headers["retry-after"]
        status, body, _ = server.get("/health")
        assert (status, body["status"]) == (503, "unhealthy")

        shutil.move(home / "away", home / "models")
        eventually(lambda: server.probe("ready") == 200)
        eventually(lambda: server.get("/health")[1]["status"] == "healthy")
        server.stop()
    finally:
        server.kill_all()


def test_a_port_that_is_taken_is_said_clearly(home: Path, models: Models, free_port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        server = Server(home, free_port)
        server.start(wait=False)
        assert server.process
        assert server.process.wait(timeout=30) == 1
    said = re.sub(r"\s+", " ", server.output.read_text())
    assert f"Cannot listen on 127.0.0.1:{free_port}" in said
    assert "SMARTCITY_API_PORT" in said
    assert "Traceback" not in said


def test_an_importer_whose_parent_died_before_it_began_ends_too(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    spooled(prediction(input_data={MARK: 1.0}))
    command = [sys.executable, "-m", "smartcity", "db", "import", "--follow"]
    store.upgrade()

    subprocess.run(
        command, env={**os.environ, "SMARTCITY_PARENT": str(gone.pid)}, timeout=20, check=True
    )

    assert len(kept()) == 1
