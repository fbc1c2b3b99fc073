"""Who is told about a run: queued once, sent by mail or webhook, tried again, and noted."""

import hashlib
import hmac
import logging
import os
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr, parsedate_to_datetime
from secrets import token_hex
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import requests
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from smartcity import __version__, atomic, logs, runs, settings
from smartcity.errors import SmartCityError, StorageError
from smartcity.reporting import message
from smartcity.reporting.message import Kind, Message, Retry
from smartcity.runs import Change, Run
from smartcity.store import outbox

log = logs.get(__name__)
# At DEBUG urllib3 logs whole addresses, and a webhook's is a secret.
logging.getLogger("urllib3").setLevel(logging.INFO)

State = Literal["sent", "dry run", "waiting", "failed"]
#: Minutes until the next try, after the first, the second and so on; then it is given up.
BACKOFF_MINUTES = (1, 5, 15, 60, 240)
_LEASE = timedelta(minutes=10)
_SECONDS = 10
_MAIL_URL = "smtp://user:password@host:587 or smtps://user:password@host:465"
_VARIABLE = re.compile(r"\$[A-Za-z_]\w*")
_TOKEN = re.compile(r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[\w-]{20,}", re.ASCII)


def _webhook(target: str) -> str:
    """Take a variable's name, or an address that holds no secret: it stands in a file."""
    if _VARIABLE.fullmatch(target):
        return target
    parts = urlsplit(target)
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", target):
        raise ValueError("a webhook is an http(s) address, or $NAME of a variable that holds one")
    secret = parts.username or parts.password or parts.query or parts.fragment
    if secret or any(map(_TOKEN.fullmatch, parts.path.split("/"))):
        raise ValueError(
            f"the address at {parts.hostname} seems to hold a secret; put it into a variable of "
            "the environment and write $NAME here"
        )
    return target


#: As in HTML's ``<input type=email>``, with a dot: one address, nothing that could be a header.
Address = Annotated[
    str,
    StringConstraints(
        max_length=254,
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
    ),
]
Webhook = Annotated[str, StringConstraints(max_length=500), AfterValidator(_webhook)]


class Deliver(BaseModel):
    """Who is told about a report's runs, and about which of them.

    Attributes:
        mail: Addresses.
        webhook: Addresses, or ``$NAME`` of the environment variable that holds one.
        on: ``failure``; ``change``, when the figures differ from the last report's; ``alarm``, when
            one had it made; ``success``.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    mail: list[Address] = []
    webhook: list[Webhook] = []
    on: list[Kind] = ["failure"]


@dataclass(frozen=True)
class Outcome:
    """What became of one message.

    Attributes:
        run_id: The run it tells of.
        channel: ``mail`` or ``webhook``.
        target: The address; of a webhook only its host or variable.
        state: ``waiting`` means that it is tried again.
        reason: Why it was not sent; empty if it was.
    """

    run_id: str
    channel: str
    target: str
    state: State
    reason: str


class _UndeliveredError(Exception):
    """A message did not get through; ``final`` if it never will."""

    def __init__(self, reason: str, *, final: bool = False, wait: timedelta = timedelta()) -> None:
        super().__init__(reason)
        self.final = final
        self.wait = wait


def news(run: Run) -> list[Change]:
    """Tell what a report states otherwise than the last good one of the same site and length.

    Args:
        run: The report, kept.
    """
    last = runs.before(run.notebook, run.domain, run.id, run.parameters)
    now = runs.facts(run)
    if last is None or now is None:
        return []
    now |= {"simulated": run.simulated}
    compared = [name for name in last if name not in {"run", "site", "days"}]
    return [Change(n, last[n], now.get(n)) for n in compared if last[n] != now.get(n)]


def queue(  # noqa: PLR0913  # each says something else
    run: Run,
    report: str,
    deliver: Deliver,
    changes: Sequence[Change],
    now: datetime,
    retry: Retry = Retry(),  # immutable
    *,
    alarm: bool = False,
) -> None:
    """Note who is to be told about a run; once, however many replicas do so.

    Args:
        run: The run, kept.
        report: Its entry in the schedule.
        deliver: Who wants to be told of what.
        changes: What it states otherwise than the last report; none if nothing.
        now: The time.
        retry: For a failed run, what happens next.
        alarm: Whether an alarm had it made.

    Raises:
        DatabaseError: The database is out of reach.
    """
    kind = _kind(run, deliver, changes, alarm=alarm)
    targets = [("mail", t) for t in deliver.mail] + [("webhook", t) for t in deliver.webhook]
    if kind is None or not targets:
        return
    content = message.compose(run, report, kind, changes, retry).model_dump(mode="json")
    common = {"run_id": run.id, "report": report, "kind": kind, "content": content}
    outbox.add([common | {"channel": c, "target": t} for c, t in targets], now)


def _kind(run: Run, deliver: Deliver, changes: Sequence[Change], *, alarm: bool) -> Kind | None:
    """Say as what a run is told; of several kinds as the one that says most."""
    is_told: dict[Kind, bool] = {"alarm": alarm, "change": bool(changes), "success": True}
    kinds: list[Kind] = [kind for kind, told in is_told.items() if told]
    if run.status == "failed":
        kinds = ["failure"]
    return next((kind for kind in kinds if kind in deliver.on), None)


def send(now: Callable[[], datetime], *, really: bool | None = None) -> list[Outcome]:
    """Send what waits and is due; several processes may do so at once.

    A message whose sender dies is sent again after its lease: the same Message-ID, or run id,
    lets its reader see that it is the same.

    Args:
        now: Tells the time.
        really: False writes the messages to ``reports/outbox/`` instead; the setting by default.

    Returns:
        What became of each message.

    Raises:
        DatabaseError: The database is out of reach.
    """
    really = settings.current().deliver if really is None else really
    owner = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
    outcomes = []
    while row := outbox.claim(owner, now(), now() + _LEASE):
        state, reason, wait = _deliver(row, now(), really=really)
        at = now()
        outbox.note(row["id"], owner, at, state=state, reason=reason, next_at=at + wait)
        told = Outcome(row["run_id"], row["channel"], _shown(row["target"]), state, reason)
        host = told.target.rpartition("@")[2]  # people's addresses stay out of the log
        facts = {"run": told.run_id, "channel": told.channel, "host": host, "state": state}
        level = "warning" if state in {"waiting", "failed"} else "info"
        getattr(log, level)("message handled", **facts, attempt=row["attempts"], reason=reason)
        outcomes.append(told)
    return outcomes


def _deliver(row: dict[str, Any], at: datetime, *, really: bool) -> tuple[State, str, timedelta]:
    """Try once; give state, reason, and how long to wait until the next try."""
    form, post = _CHANNELS[row["channel"]]
    try:
        content = form(Message.model_validate(row["content"]), row["target"], at)
        if really:
            post(content, row["target"], at)
            return "sent", "", timedelta()
        return "dry run", f"dry run: see {_keep(row, content)}", timedelta()
    except _UndeliveredError as fault:
        if fault.final or row["attempts"] > len(BACKOFF_MINUTES):
            return "failed", str(fault), timedelta()
        wait = timedelta(minutes=BACKOFF_MINUTES[row["attempts"] - 1])
        return "waiting", str(fault), max(wait, fault.wait)
    except (SmartCityError, ValueError) as error:  # it must not stand in the way of the others
        return "failed", f"it cannot be written: {type(error).__name__}", timedelta()


def _keep(row: dict[str, Any], content: bytes) -> str:
    """Write a message to a file instead of sending it; give the file's name."""
    ending = {"mail": "eml", "webhook": "json"}[row["channel"]]
    name = f"{row['run_id']}-{_key(row['run_id'], row['target'])[:8]}.{ending}"
    try:
        atomic.write(settings.current().reports / "outbox" / name, content)
    except StorageError:
        raise _UndeliveredError("reports/outbox cannot be written") from None
    return f"reports/outbox/{name}"


def _key(run_id: str, target: str) -> str:
    """Name a message the same at every try."""
    return hashlib.sha256(f"{run_id} {target}".encode()).hexdigest()[:32]


def _as_mail(told: Message, target: str, at: datetime) -> bytes:
    return message.mail(told, target, at, key=_key(told.run_id, target)).as_bytes()


def _mail(content: bytes, target: str, _: datetime) -> None:
    """Hand a mail to the server; its password and its words stay out of what is raised."""
    known = settings.current()
    url = known.mail_url.get_secret_value() if known.mail_url else ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in {"smtp", "smtps"}:
        raise _UndeliveredError(f"SMARTCITY_MAIL_URL is not set or unlike {_MAIL_URL}")
    try:
        server = _connected(parts, host, port)
        try:
            server.sendmail(parseaddr(known.mail_from)[1], [target], content)
        finally:
            with suppress(smtplib.SMTPException, OSError):
                server.quit()  # what it says now does not change what it took
    except (smtplib.SMTPException, OSError) as error:
        raise _refusal(error, host) from None


def _refusal(error: Exception, host: str) -> _UndeliveredError:
    """Say why a mail server did not take a mail, in our words: its own may repeat secrets."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            code = max(code for code, _ in error.recipients.values())
            return _UndeliveredError(f"{host} refused the address ({code})", final=code >= 500)
        case smtplib.SMTPAuthenticationError():  # mended here, not by another address
            return _UndeliveredError(f"{host} refused the login ({error.smtp_code})")
        case smtplib.SMTPResponseException():
            code = error.smtp_code
            return _UndeliveredError(f"{host} refused the mail ({code})", final=code >= 500)
        case smtplib.SMTPNotSupportedError():
            return _UndeliveredError(f"{host} offers no STARTTLS or no login; not sent")
        case ssl.SSLError():
            return _UndeliveredError(f"{host} shows no certificate that can be trusted")
    return _UndeliveredError(f"{host} cannot be reached ({type(error).__name__})")


def _connected(parts: SplitResult, host: str, port: int | None) -> smtplib.SMTP:
    """Connect and log in; what leaves this machine is encrypted."""
    if parts.scheme == "smtps":
        context = ssl.create_default_context()
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, port or 465, timeout=20, context=context)
    else:
        server = smtplib.SMTP(host, port or 587, timeout=20)
    try:
        is_here = host in {"localhost", "::1"} or host.startswith("127.")
        if parts.scheme == "smtp" and not is_here:
            server.starttls(context=ssl.create_default_context())
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
    except BaseException:
        server.close()
        raise
    return server


def _as_json(told: Message, _: str, __: datetime) -> bytes:
    return told.model_dump_json().encode()


def _post(content: bytes, target: str, at: datetime) -> None:
    """Post a message to a webhook; its address stays out of what is raised."""
    url = os.environ.get(target[1:], "") if target.startswith("$") else target
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _UndeliveredError(f"{target} of the environment holds no http(s) address")
    headers = {"Content-Type": "application/json", "User-Agent": f"SmartCity/{__version__}"}
    if secret := settings.current().webhook_secret:
        signed = hmac.new(secret.get_secret_value().encode(), content, hashlib.sha256)
        headers["X-Hub-Signature-256"] = f"sha256={signed.hexdigest()}"
    try:
        # Streamed: what is said matters, not how much; redirected nowhere: a POST would not
        # arrive as one, and what is said here is not for others.
        answer = requests.post(
            url, content, headers=headers, timeout=_SECONDS, allow_redirects=False, stream=True
        )
    except (requests.RequestException, ValueError) as error:
        kind = type(error).__name__
        raise _UndeliveredError(f"{parts.hostname} cannot be reached ({kind})") from None
    with answer:
        if 200 <= answer.status_code < 300:
            return
        raise _UndeliveredError(
            f"{parts.hostname} answered {answer.status_code}",
            final=answer.status_code < 500 and answer.status_code != 429,
            wait=_asked_wait(answer.headers.get("Retry-After", ""), at),
        )


def _asked_wait(given: str, at: datetime) -> timedelta:
    """Read ``Retry-After``, seconds or a date; no longer than our own longest wait."""
    try:
        asked = timedelta(seconds=int(given)) if given.isdigit() else _until(given, at)
    except (ValueError, OverflowError):
        return timedelta()
    return min(asked, timedelta(minutes=BACKOFF_MINUTES[-1]))


def _until(given: str, at: datetime) -> timedelta:
    moment = parsedate_to_datetime(given)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - at


_CHANNELS = {"mail": (_as_mail, _mail), "webhook": (_as_json, _post)}


def _shown(target: str) -> str:
    """Name a target without what may be a secret: of a web address only the host."""
    return urlsplit(target).hostname or "" if "://" in target else target


def deliveries(limit: int = 100) -> list[dict[str, Any]]:
    """List what was to be delivered and what became of it, the newest first, as plain data.

    Raises:
        DatabaseError: The database is out of reach.
    """
    return [
        {
            **row,
            "target": _shown(row["target"]),
            "next_at": row["next_at"].isoformat() if row["state"] == "waiting" else None,
            "updated_at": row["updated_at"].isoformat(),
        }
        for row in outbox.listed(limit)
    ]
