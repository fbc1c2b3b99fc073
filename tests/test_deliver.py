"""Delivery: who wants it is told once, by real servers' word; nobody else, and no secret."""

import hashlib
import hmac
import json
import logging
import multiprocessing
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nbformat
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from pydantic import ValidationError

from smartcity import logs, reporting, runs, settings
from smartcity.errors import RunError
from smartcity.reporting import deliver, message
from smartcity.reporting.deliver import Deliver
from smartcity.reporting.message import Retry
from smartcity.store import database as store
from smartcity.store import outbox

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)
SECRET = "planted-s3cret"  # noqa: S105  # made to be looked for
ANNA = Deliver(mail=["anna@city.example"], on=["success", "failure", "change"])
FACTS = {
    "sentence": "Energy use was 2.00 kWh.",
    "glance": [
        {"domain": "energy", "title": "Energy", "sentence": "Said above.", "simulated": False},
        {"domain": "traffic", "title": "Traffic", "sentence": "It was light.", "simulated": True},
    ],
    "value": 2.0,
    "before": 1.5,
    "from": "2026-03-01T00:00:00",
    "to": "2026-03-07T23:00:00",
    "missing_share": 0.25,
    "model_version": "1.0.0",
    "verdict": "Better than the baseline.",
}


def made(home: Path, at: int = 1, *, files: dict[str, bytes] | None = None, **facts: Any) -> Any:
    """Keep the record of a report that succeeded."""
    return kept(home, at, {"metrics.json": json.dumps(FACTS | facts).encode()} | (files or {}))


def kept(home: Path, at: int, files: dict[str, bytes], **changes: Any) -> runs.Run:
    """Keep a record with its files."""
    values = {
        "id": f"20260307T0000{at:02}Z-aaaaaa",
        "notebook": "05_report",
        "domain": "energy",
        "parameters": {"domain": "energy", "site": "main", "days": 7},
        "status": "succeeded",
        "started_at": f"2026-03-07T00:00:{at:02}+00:00",
        "seconds": 1.0,
        "fingerprint": "",
        "inputs": [],
        "simulated": False,
        "model_version": "1.0.0",
        "smartcity": "0.1.0",
    }
    run = runs.Run.model_validate(values | changes)
    contents = home / f"contents-{at}"
    contents.mkdir()
    for name, content in files.items():
        (contents / name).write_bytes(content)
    runs.keep(run, contents)
    return run


def failed(home: Path, at: int = 1, source: str = "1 / 0", said: str = "division by zero") -> Any:
    """Keep the record of a report that failed in its second cell."""
    output = nbformat.v4.new_output(
        "error",
        ename="ZeroDivisionError",
        evalue=said,
        traceback=[
            *(f"line {n}" for n in range(40)),
            f"\x1b[0;31mZeroDivisionError\x1b[0m: {said}",
        ],
    )
    cells = [
        nbformat.v4.new_code_cell("days = 7", execution_count=1),
        nbformat.v4.new_code_cell(source, execution_count=2, outputs=[output]),
    ]
    notebook = json.dumps(nbformat.v4.new_notebook(cells=cells)).encode()
    error = {"cell": 2, "error": "ZeroDivisionError", "message": f"ZeroDivisionError: {said}"}
    return kept(home, at, {"notebook.ipynb": notebook}, status="failed", error=error)


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set settings for the rest of the test."""
    for name, value in variables.items():
        monkeypatch.setenv(f"SMARTCITY_{name.upper()}", value)
    settings.current.cache_clear()


def queue(run: runs.Run, to: Deliver = ANNA, **more: Any) -> None:
    deliver.queue(run, "nightly", to, more.pop("changes", []), NOW, **more)


def send(after: timedelta = timedelta(), **options: Any) -> list[tuple[str, str]]:
    """Send what is due by then; give state and reason of each."""
    return [(o.state, o.reason) for o in deliver.send(lambda: NOW + after, **options)]


class Inbox:
    """What a mail server took."""

    def __init__(self) -> None:
        """Take everything."""
        self.mails: list[Any] = []
        self.refuse = ""

    async def handle_RCPT(self, *given: Any) -> str:  # noqa: N802  # aiosmtpd's name
        """Take or refuse an address: the fourth of what is given, for the third."""
        given[2].rcpt_tos.append(given[3])
        return self.refuse or "250 OK"

    async def handle_DATA(self, *given: Any) -> str:  # noqa: N802  # aiosmtpd's name
        """Take a mail: the third of what is given."""
        self.mails.append(message_from_bytes(given[2].content, policy=policy.default))
        return "250 OK"


@contextmanager
def mail_server(port: int, inbox: Inbox, **options: Any) -> Iterator[Inbox]:
    """Run a mail server on loopback."""
    server = Controller(inbox, hostname="127.0.0.1", port=port, **options)
    server.start()
    try:
        yield inbox
    finally:
        server.stop()


@pytest.fixture
def inbox(home: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A mail server the settings name, with sending on."""
    use(monkeypatch, deliver="true", mail_url=f"smtp://127.0.0.1:{free_port}")
    use(monkeypatch, mail_from="City reports <reports@city.example>")
    with mail_server(free_port, Inbox()) as server:
        yield server


class Hook:
    """A webhook on loopback: what it got, and what it answers, one after the other."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        """Answer 200, unless told otherwise."""
        self.url = f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}"
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []


@pytest.fixture
def hook(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook that ``$CITY_HOOK`` names, with sending on."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known.got.append((dict(self.headers), body))
            code, headers = known.answers.pop(0) if known.answers else (200, {})
            self.send_response(code)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known = Hook(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        use(monkeypatch, deliver="true")
        monkeypatch.setenv("CITY_HOOK", known.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield known
        server.shutdown()


HOOKED = Deliver(webhook=["$CITY_HOOK"], on=["success", "failure", "change"])


@pytest.mark.parametrize(
    "given",
    [
        {"mail": ["anna"]},
        {"mail": ["anna@city.example\nBcc: all@city.example"]},
        {"mail": ["anna@city.example, bob@city.example"]},
        {"mail": ["Anna <anna@city.example>"]},
        {"webhook": ["ftp://city.example/in"]},
        {"webhook": ["$1"]},
        {"webhook": [f"https://user:{SECRET}@city.example/in"]},
        {"webhook": [f"https://city.example/in?token={SECRET}"]},
        {"webhook": ["https://city.example/services/T00000000/B0000/XXXX1234XXXX5678XXXX"]},
        {"on": ["always"]},
        {"mails": ["anna@city.example"]},
    ],
)
def test_what_is_no_target_or_seems_a_secret_is_refused_unrepeated(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        Deliver.model_validate(given)

    assert SECRET not in str(raised.value)
    assert "XXXX1234" not in str(raised.value)


def test_only_failures_are_told_unless_more_is_asked_for() -> None:
    given = {"mail": ["a.b+c@city.example"], "webhook": ["$HOOK", "https://city.example/in/42"]}

    assert Deliver.model_validate(given).on == ["failure"]


def test_a_success_is_mailed_with_its_figures_changes_and_report(
    database: str, inbox: Inbox, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, reports_url="https://reports.city.example/")
    run = made(home, files={"report.pdf": b"%PDF-1.7 \xff", "report.html": b"<html>"})
    queue(run, changes=[runs.Change("value", 1.0, 2.0), runs.Change("missing_share", None, 0.25)])

    assert send() == [("sent", "")]

    [mail] = inbox.mails
    assert mail["To"] == "anna@city.example"
    assert mail["From"] == "City reports <reports@city.example>"
    assert mail["Subject"] == "Figures changed: Energy, nightly"
    assert mail["Date"].datetime == NOW
    assert mail["Message-ID"].endswith("@city.example>")
    told = f"https://reports.city.example/runs/05_report/energy/{run.id}/report.html"
    for form in ("plain", "html"):
        body = mail.get_body((form,))
        assert body is not None
        text = body.get_content()
        for said in (
            "Energy use was 2.00 kWh.",
            "Traffic (simulated): It was light.",
            "75%",
            "1.50 kWh",
            told,
        ):
            assert said in text, form
        assert "not stated" in text
        assert "Said above." not in text
        assert "<script" not in text
    [attached] = mail.iter_attachments()
    assert attached.get_content() == b"%PDF-1.7 \xff"
    assert attached.get_filename() == f"05_report-energy-{run.id}.pdf"
    assert send(timedelta(days=1)) == []


def test_a_failure_mail_shows_the_cell_and_what_happens_next(
    database: str, inbox: Inbox, home: Path
) -> None:
    run = failed(home, source="share = kwh / 0  # <b>")
    queue(run, retry=Retry(3, datetime(2026, 11, 24, 5, 2, tzinfo=UTC)))

    assert send() == [("sent", "")]

    [mail] = inbox.mails
    assert mail["Subject"] == "Report failed: Energy, nightly"
    plain = mail.get_body(("plain",)).get_content()
    assert "05_report failed in cell 2: ZeroDivisionError: division by zero" in plain
    assert "share = kwh / 0  # <b>" in plain
    assert "\nZeroDivisionError: division by zero" in plain
    assert "line 39" in plain
    assert "line 3\n" not in plain
    assert "This was attempt 1 of 3. The next is at 2026-11-24 05:02 UTC." in plain
    html = mail.get_body(("html",)).get_content()
    assert "share = kwh / 0  # &lt;b&gt;" in html
    assert "<b>" not in html


def test_a_run_that_really_failed_is_told_with_its_cell(
    city: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, notebooks=str(city / "notebooks"))
    cells = ['domain: str = "energy"  # The question', "days = 0", "7 / days"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    (city / "notebooks").mkdir()
    nbformat.write(notebook, city / "notebooks" / "09_try.ipynb")
    with pytest.raises(RunError):
        reporting.run("09_try", {"domain": "energy"})
    [run] = runs.listed("09_try", "energy")

    told = message.compose(run, "nightly", "failure", [], Retry())

    assert told.error is not None
    assert told.error["source"] == "7 / days"
    assert told.error["traceback"].endswith("ZeroDivisionError: division by zero")
    assert "no further one" in told.outlook


def test_each_is_told_of_what_they_asked_for_and_of_a_run_once(database: str, home: Path) -> None:
    change = [runs.Change("value", 1.0, 2.0)]
    good, other, bad = made(home, 1), made(home, 2), failed(home, 3)
    for on in ("success", "failure", "change"):
        wanted = Deliver.model_validate({"mail": [f"{on}@city.example"], "on": [on]})
        queue(good, wanted)
        queue(good, wanted)
        queue(other, wanted, changes=change)
        queue(bad, wanted)
    both = Deliver(mail=["both@city.example"], on=["success", "change"])
    queue(made(home, 40), both, changes=change)
    queue(made(home, 41), Deliver(on=["success"]))

    told = [(row["target"].split("@")[0], row["kind"]) for row in deliver.deliveries()]
    assert sorted(told) == [
        ("both", "change"),
        ("change", "change"),
        ("failure", "failure"),
        ("success", "success"),
        ("success", "success"),
    ]


def test_only_what_differs_from_the_last_good_report_is_news(home: Path) -> None:
    first, second = made(home, 1), made(home, 2, value=3.0, verdict=None)
    failed(home, 3)
    third = made(home, 4, value=3.0, verdict=None, sentence="Other words are no news.")

    assert deliver.news(first) == []
    assert deliver.news(second) == [
        runs.Change("value", 2.0, 3.0),
        runs.Change("verdict", FACTS["verdict"], None),
    ]
    assert deliver.news(third) == []


def test_a_dry_run_sends_nothing_and_leaves_the_messages_to_be_read(
    inbox: Inbox, hook: Hook, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upgrade()
    use(monkeypatch, deliver="false")
    queue(made(home), Deliver(mail=ANNA.mail, webhook=HOOKED.webhook, on=["success"]))

    states = send()

    assert [state for state, _ in states] == ["dry run", "dry run"]
    assert (inbox.mails, hook.got) == ([], [])
    files = sorted((home / "reports" / "outbox").iterdir(), key=lambda path: path.suffix)
    assert [path.suffix for path in files] == [".eml", ".json"]
    assert message_from_bytes(files[0].read_bytes())["To"] == "anna@city.example"
    assert json.loads(files[1].read_bytes())["sentence"] == FACTS["sentence"]
    assert f"reports/outbox/{files[0].name}" in states[0][1]
    assert send(timedelta(days=1), really=True) == []


def test_a_server_that_was_down_gets_the_mail_once_when_it_is_up(
    database: str, home: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, deliver="true", mail_url=f"smtp://localhost:{free_port}")
    queue(made(home))

    [(state, reason)] = send()
    assert (state, reason) == ("waiting", "localhost cannot be reached (ConnectionRefusedError)")
    assert send(timedelta(seconds=59)) == []
    with mail_server(free_port, Inbox()) as inbox:
        assert send(timedelta(minutes=1)) == [("sent", "")]
        assert send(timedelta(hours=9)) == []

    assert len(inbox.mails) == 1
    [row] = deliver.deliveries()
    assert (row["state"], row["attempts"], row["next_at"]) == ("sent", 2, None)


def test_a_server_that_stays_down_is_given_up_after_the_last_try(
    home: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upgrade()
    use(monkeypatch, deliver="true", mail_url=f"smtp://localhost:{free_port}")
    queue(made(home))
    at, states = timedelta(), []
    for minutes in (*deliver.BACKOFF_MINUTES, 0):
        states += [state for state, _ in send(at)]
        at += timedelta(minutes=minutes)

    assert states == ["waiting"] * 5 + ["failed"]
    assert send(timedelta(days=9)) == []


def test_a_second_send_of_the_same_message_has_the_same_id(inbox: Inbox, home: Path) -> None:
    store.upgrade()
    queue(made(home))
    row = outbox.claim("a sender that dies", NOW, NOW + timedelta(minutes=10))
    assert row is not None
    deliver._deliver(row, NOW, really=True)

    assert send(timedelta(minutes=9)) == []
    assert send(timedelta(minutes=10)) == [("sent", "")]
    first, second = inbox.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert not outbox.note(
        row["id"], "a sender that dies", NOW, state="failed", reason="", next_at=NOW
    )
    assert deliver.deliveries()[0]["state"] == "sent"


def _send_all(ready: Any) -> None:
    store.close()
    ready.wait()
    deliver.send(lambda: NOW)


def test_processes_that_race_send_each_message_once(database: str, hook: Hook, home: Path) -> None:
    for at in range(12):
        queue(made(home, at), HOOKED)
    store.close()
    start = multiprocessing.get_context("fork")
    ready = start.Barrier(3)
    racers = [start.Process(target=_send_all, args=(ready,)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()

    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert len({json.loads(body)["run_id"] for _, body in hook.got}) == 12
    assert len(hook.got) == 12
    assert {row["state"] for row in deliver.deliveries()} == {"sent"}


def test_a_webhook_gets_signed_facts(
    database: str, hook: Hook, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, webhook_secret=SECRET, reports_url="https://reports.city.example")
    run = made(home)
    queue(run, HOOKED, changes=[runs.Change("value", 1.0, 2.0)])

    assert send() == [("sent", "")]

    [(headers, body)] = hook.got
    signed = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Hub-Signature-256"] == f"sha256={signed}"
    assert headers["Content-Type"] == "application/json"
    told = json.loads(body)
    assert {"report", "run_id", "domain", "status", "kind", "sentence", "error"} < set(told)
    assert told["changes"] == [{"kind": "value", "before": 1.0, "after": 2.0}]
    assert told["url"].endswith(f"/{run.id}/report.html")
    assert told["error"] is None


@pytest.mark.parametrize(
    ("answer", "headers", "state", "minutes"),
    [
        (500, {}, "waiting", 1),
        (429, {"Retry-After": "600"}, "waiting", 10),
        (503, {"Retry-After": "Tue, 24 Nov 2026 05:30:00 GMT"}, "waiting", 30),
        (503, {"Retry-After": "9" * 400}, "waiting", 1),
        (503, {"Retry-After": "999999999"}, "waiting", 240),
        (503, {"Retry-After": "soon"}, "waiting", 1),
        (404, {}, "failed", 0),
        (400, {}, "failed", 0),
        (302, {"Location": "http://127.0.0.1:9/"}, "failed", 0),
        (307, {"Location": "/elsewhere"}, "failed", 0),
    ],
)
def test_a_webhook_that_may_answer_later_is_asked_again_and_no_other(
    answer: int, headers: dict[str, str], state: str, minutes: int, hook: Hook, home: Path
) -> None:
    store.upgrade()
    queue(made(home), HOOKED)
    hook.answers = [(answer, headers)]

    assert send() == [(state, f"127.0.0.1 answered {answer}")]

    assert len(hook.got) == 1
    if state == "waiting":
        assert send(timedelta(minutes=minutes, seconds=-1)) == []
        assert send(timedelta(minutes=minutes)) == [("sent", "")]
    else:
        assert send(timedelta(days=9)) == []


@pytest.mark.parametrize(
    ("answer", "state"), [("550 No such user", "failed"), ("451 Try later", "waiting")]
)
def test_an_address_refused_for_good_is_not_tried_again(
    answer: str, state: str, inbox: Inbox, home: Path
) -> None:
    store.upgrade()
    inbox.refuse = answer
    queue(made(home))

    assert send() == [(state, f"127.0.0.1 refused the address ({answer[:3]})")]


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate for mail.city.example, a name that leads to this machine, and is trusted."""
    key, held = tmp_path / "key.pem", tmp_path / "cert.pem"
    what = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=mail"
    more = ["-addext", "subjectAltName=DNS:mail.city.example", "-keyout", str(key)]
    made = ["openssl", *what.split(), *more, "-out", str(held)]
    subprocess.run(made, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(held))
    real = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "mail.city.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(held, key)
    return context


def _knows(*_: Any) -> Callable[..., AuthResult]:
    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        is_right = (data.login, data.password) == (b"city", SECRET.encode())
        return AuthResult(success=is_right, handled=False)

    return check


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # smtps has it
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_password_goes_out_encrypted_to_a_server_that_proves_its_name(
    scheme: str, home: Path, free_port: int, monkeypatch: pytest.MonkeyPatch,
    certificate: ssl.SSLContext,
) -> None:  # fmt: skip
    store.upgrade()
    options = {"authenticator": _knows(), "auth_required": True}
    options |= {"tls_context": certificate} if scheme == "smtp" else {"ssl_context": certificate}
    options["auth_require_tls"] = scheme == "smtp"
    url = f"{scheme}://city:{SECRET}@mail.city.example:{free_port}"
    use(monkeypatch, deliver="true", mail_url=url)
    queue(made(home, 1))
    with mail_server(free_port, Inbox(), **options) as inbox:
        assert send() == [("sent", "")]
        assert inbox.mails[0]["Subject"] == "Report made: Energy, nightly"

        use(monkeypatch, mail_url=url.replace(SECRET, "wrong-s3cret"))
        queue(made(home, 2))
        assert send() == [("waiting", "mail.city.example refused the login (535)")]

        monkeypatch.setenv("SSL_CERT_FILE", str(home / "none.pem"))
        queue(made(home, 3))
        unsure = "mail.city.example shows no certificate that can be trusted"
        assert send() == [("waiting", unsure)]
        assert len(inbox.mails) == 1


def test_no_password_is_told_to_a_server_that_does_not_encrypt(
    home: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, certificate: ssl.SSLContext
) -> None:
    store.upgrade()
    url = f"smtp://city:{SECRET}@mail.city.example:{free_port}"
    use(monkeypatch, deliver="true", mail_url=url)
    queue(made(home))
    with mail_server(free_port, Inbox()) as inbox:
        plain = "mail.city.example offers no STARTTLS or no login; not sent"
        assert send() == [("waiting", plain)]
        assert inbox.mails == []


@pytest.mark.parametrize("url", ["", "imap://host", f"smtp://city:{SECRET}/@host", "smtp://h:x"])
def test_a_mail_server_that_cannot_be_read_is_named_by_its_setting_alone(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upgrade()
    use(monkeypatch, deliver="true", **({"mail_url": url} if url else {}))
    queue(made(home))

    [(state, reason)] = send()

    assert state == "waiting"
    assert reason.startswith("SMARTCITY_MAIL_URL is not set or unlike smtp://user:password@host")
    assert SECRET not in reason


def test_secrets_reach_no_log_reason_table_or_file(
    home: Path, hook: Hook, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upgrade()
    use(monkeypatch, mail_url=f"smtp://city:{SECRET}@localhost:{free_port}", log_level="DEBUG")
    use(monkeypatch, webhook_secret=f"{SECRET}-too")
    known = logging.getLogger()
    handlers, level = known.handlers, known.level
    try:
        logs.configure()
        queue(made(home), Deliver(mail=ANNA.mail, webhook=["$CITY_HOOK"], on=["success"]))
        hook.answers = [(500, {})]
        shown = str(deliver.send(lambda: NOW))
        monkeypatch.setenv("CITY_HOOK", f"http://127.0.0.1:{free_port}/services/{SECRET}")
        shown += str(deliver.send(lambda: NOW + timedelta(minutes=1)))
        shown += str(deliver.send(lambda: NOW + timedelta(hours=1), really=False))
    finally:
        for handler in known.handlers:
            handler.close()
        known.handlers, known.level = handlers, level
    store.close()

    assert "127.0.0.1 cannot be reached" in shown
    written = [path for path in home.rglob("*") if path.is_file()]
    assert {"smartcity.db", "smartcity.log"} <= {path.name for path in written}
    assert all(SECRET.encode() not in path.read_bytes() for path in written), written
    assert SECRET not in shown + str(deliver.deliveries())
    assert "anna@" not in (home / "logs" / "smartcity.log").read_text()


def test_hostile_words_stay_words(database: str, inbox: Inbox, home: Path) -> None:
    said = '</pre><script>alert(1)</script>\x00\ud800 "ä"'
    queue(failed(home, source=said, said="\x1b]0;x\x07\r\nBcc: all@city.example"))
    deliver.queue(made(home, 2), "a\r\nBcc: all@city.example", ANNA, [], NOW)

    assert send() == [("sent", ""), ("failed", "it cannot be written: ValueError")]

    [mail] = inbox.mails
    assert mail["Bcc"] is None
    html = mail.get_body(("html",)).get_content()
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", html)


def test_what_is_too_large_is_said_and_not_attached(inbox: Inbox, home: Path) -> None:
    store.upgrade()
    queue(made(home, 1, files={"report.pdf": bytes(10_000_001), "report.html": b"<html>"}))
    queue(made(home, 2, files={"report.html": b"<html>"}))
    queue(made(home, 3, files={"report.html": bytes(2_000_001)}))

    assert [state for state, _ in send()] == ["sent"] * 3

    large, page, page_too = inbox.mails
    assert [list(mail.iter_attachments()) for mail in (large, page_too)] == [[], []]
    assert "report.pdf is too large to attach (10.0 MB)." in str(large.get_body(("plain",)))
    assert [part.get_content_type() for part in page.iter_attachments()] == ["text/html"]


def test_simulated_is_said_at_the_top_of_a_mail(inbox: Inbox, home: Path) -> None:
    store.upgrade()
    queue(kept(home, 1, {}, simulated=True))

    assert send() == [("sent", "")]

    assert inbox.mails[0]["Subject"].endswith("(simulated)")
    body = inbox.mails[0].get_body(("plain",)).get_content()
    assert body.index("Simulated: everything here") < body.index("05_report was run")


def test_a_report_of_a_site_says_which_and_leads_to_its_own_page(
    home: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, reports_url="https://city.example/reports")
    values = {"parameters": {"domain": "energy", "site": "north", "days": 7}}
    run = kept(home, 1, {"metrics.json": b"{}", "report.html": b"<p>north</p>"}, **values)

    queue(run, Deliver(mail=ANNA.mail, on=["success"]))
    deliver.send(lambda: NOW)

    [path] = (home / "reports" / "outbox").glob("*.eml")
    letter = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert letter["Subject"] == "Report made: Energy, north, nightly"
    [page] = letter.iter_attachments()
    assert page.get_content() == "<p>north</p>"
    plain = letter.get_body(("plain",))
    assert plain
    assert f"/runs/05_report/energy@north/{run.id}/report.html" in plain.get_content()
