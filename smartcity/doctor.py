"""Checks an installation from top to bottom, and says of each fault what to do."""

import json
import os
import shutil
import ssl
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from smartcity import domains, registry, settings, stack
from smartcity.errors import SmartCityError

#: Bytes that should be free on a disk, and without which nothing can be counted on.
_ROOM, _LEAST = 10**9, 2 * 10**8
#: Days a certificate should still be good for; seconds a file may come from the future.
_DAYS, _SKEW = 21, 120
#: Seconds an answer may wait for the database, and a report for its time, before we wonder.
_WAIT = 900
#: What is set by us for processes of ours, and is no setting.
_OURS = {"SMARTCITY_PAGE", "SMARTCITY_PARENT"}


@dataclass(frozen=True)
class Check:
    """What was looked at and how it is.

    Attributes:
        check: Its name.
        state: How it is; a problem keeps something from working, a warning may come to that.
        seen: What was found. Never a secret.
        remedy: What to do; empty if it is in order.
    """

    check: str
    state: Literal["ok", "warning", "problem"]
    seen: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything; nothing is changed, and nobody is asked but this machine's own."""
    looks: list[Callable[[], Iterable[Check]]] = [
        *(_packages, _settings, _secrets, _folders, _disks, _clock, _models, _database, _spool),
        *(_schedule, _ports, _tools, _certificates),
    ]
    return [check for look in looks for check in _looked(look)]


def _looked(look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Give what a look finds; one that fails is a finding too."""
    try:
        yield from look()
    except (SmartCityError, OSError, ValueError) as error:
        remedy = "" if isinstance(error, SmartCityError) else "Mend that, then ask again."
        yield Check(look.__name__[1:], "problem", str(error), remedy)


def _packages() -> Iterator[Check]:
    wanted = SpecifierSet(metadata.metadata("smartcity")["Requires-Python"] or "")
    python = sys.version.split()[0]
    fits = wanted.contains(python, prereleases=True)
    how = "" if fits else f"Make the environment anew with a Python that is {wanted}."
    yield Check("python", "ok" if fits else "problem", f"{python}, wanted {wanted}", how)
    wrong = []
    for line in metadata.requires("smartcity") or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            there = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            there = "nothing"
        if there == "nothing" or not needed.specifier.contains(there, prereleases=True):
            wrong.append(f"{needed.name} is {there}, wanted {needed.specifier}")
    if wrong:
        yield Check("packages", "problem", "; ".join(wrong), "Install them anew: make setup")
    else:
        yield Check("packages", "ok", "all there, in versions that fit")


def _settings() -> Iterator[Check]:
    found = [*_clashing(settings.current()), *_strange()]
    yield from found or [Check("settings", "ok", "they go together")]


def _clashing(known: settings.Settings) -> Iterator[Check]:
    """Give settings that do not go together."""
    token = known.dashboard_token
    if known.deliver and not known.mail_url:
        how = "Name the mail server: SMARTCITY_MAIL_URL"
        yield Check("settings", "warning", "SMARTCITY_DELIVER is on, but no mail can go out", how)
    if known.backup_repository and not known.backup_password:
        seen = "SMARTCITY_BACKUP_REPOSITORY is set without a password"
        how = "Set SMARTCITY_BACKUP_PASSWORD, and keep it elsewhere too."
        yield Check("settings", "problem", seen, how)
    if known.api_port == known.dashboard_port:
        seen = f"API and dashboard share port {known.api_port}"
        how = "Set SMARTCITY_API_PORT or SMARTCITY_DASHBOARD_PORT to another."
        yield Check("settings", "problem", seen, how)
    if token is not None and not token.get_secret_value():
        seen, how = "SMARTCITY_DASHBOARD_TOKEN is empty", "Set a token, or leave it out."
        yield Check("settings", "problem", seen, how)
    if known.host not in {"127.0.0.1", "::1", "localhost"} and not known.require_key:
        seen = f"the API answers whoever reaches {known.host}"
        how = "Let only a proxy reach it, or ask for keys: SMARTCITY_REQUIRE_KEY=true"
        yield Check("settings", "warning", seen, how)


def _strange() -> Iterator[Check]:
    """Give variables that look like settings and are none."""
    fields = [f"SMARTCITY_{name.upper()}" for name in settings.Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith("SMARTCITY_") and name not in {*fields, *_OURS}:
            near = get_close_matches(name, fields, n=1)
            how = f"Did you mean {near[0]}?" if near else "Leave it out."
            yield Check("settings", "warning", f"{name} is set, but is no setting", how)


def _secrets() -> Iterator[Check]:
    home = settings.current().notebooks.parent
    places = {*home.glob(".env*"), *Path.cwd().glob(".env*"), Path("/etc/smartcity/environment")}
    places |= {path for name, path in _named_files() if not name.endswith("certificate")}
    found = False
    for path in sorted(p for p in places if p.is_file() and p.suffix != ".example"):
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            found = True
            yield Check("secrets", "problem", f"anybody may read {path}", f"chmod 600 {path}")
    if not found:
        yield Check("secrets", "ok", "no file of secrets is open to everybody")


def _named_files() -> Iterator[tuple[str, Path]]:
    """Give the files of keys, passwords and certificates that settings name."""
    for name in settings.Settings.model_fields:
        value = getattr(settings.current(), name)
        if name.endswith(("certificate", "certificate_key", "_file")) and value:
            yield name, Path(str(value))


def _folders() -> Iterator[Check]:
    known = settings.current()
    for name in ("models", "reports", "logs", "state"):
        folder: Path = getattr(known, name)
        try:
            stack.require_writable(folder, f"SMARTCITY_{name.upper()}")
        except SmartCityError as error:
            yield Check(name, "problem", str(error), f"ls -ld {folder}")
        else:
            there = "can be written" if folder.exists() else "is made when it is needed"
            yield Check(name, "ok", f"{folder} {there}")
    if os.access(known.datasets, os.R_OK | os.X_OK):
        yield Check("datasets", "ok", f"{known.datasets} can be read")
    else:
        seen = f"{known.datasets} cannot be read, so nothing can be trained or reported"
        yield Check("datasets", "warning", seen, "smartcity data fetch, or SMARTCITY_DATASETS=...")


def _disks() -> Iterator[Check]:
    known = settings.current()
    seen = set()
    for folder in (known.state, known.reports, known.models, known.logs):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if (device := there.stat().st_dev) not in seen:
            seen.add(device)
            free = shutil.disk_usage(there).free
            state: Any = "problem" if free < _LEAST else "warning" if free < _ROOM else "ok"
            how = "Free some space: smartcity report tidy" if free < _ROOM else ""
            yield Check("disk", state, f"{free / 1e9:.1f} GB free at {there}", how)


def _clock() -> Iterator[Check]:
    known = settings.current()
    files = [Path(__file__), *known.models.glob("*/CURRENT"), *known.state.glob("*")]
    files += known.reports.glob("*")
    ahead = max(path.stat().st_mtime for path in files) - time.time()
    if ahead > _SKEW:
        yield Check(
            "clock",
            "problem",
            f"files were written {timedelta(seconds=round(ahead))} after now",
            "Set the clock: timedatectl set-ntp true",
        )
        return
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=2, check=True)
        if done.stdout.strip() == "no":
            how = "Let it be: timedatectl set-ntp true"
            yield Check("clock", "warning", "it is not set from the network", how)
            return
    yield Check("clock", "ok", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, later than every file")


def _models() -> Iterator[Check]:
    for name in domains.load_all():
        try:
            version = registry.verify(name).version
        except SmartCityError as error:
            yield Check(f"model {name}", "problem", str(error), f"smartcity models list {name}")
        else:
            yield Check(f"model {name}", "ok", f"{version} opens, every file as published")


def _database() -> Iterator[Check]:
    from smartcity.store import database

    url = database.address()
    where = database.where(url)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        yield Check("database", "ok", f"{where} is made when it is needed")
        return
    problems = database.check()
    how = "" if not problems else "See docs/runbook.md, when the database fails."
    state: Any = "problem" if problems else "ok"
    yield Check("database", state, f"{where}: {'; '.join(problems) or 'up to date'}", how)


def _spool() -> Iterator[Check]:
    from smartcity.store import spool

    limit, waiting = settings.current().spool_mb << 20, spool.waiting()
    old = [path for path in spool.files() if path.stat().st_mtime < time.time() - _WAIT]
    refused = [*(spool.place() / "quarantine").glob("*.jsonl")]
    seen, how = f"{waiting / 1e6:.1f} MB wait for the database", ""
    if old or waiting > limit / 2:
        how = "Bring them in: smartcity db import"
    if refused:
        seen += f"; the database refused {len(refused)} files of answers: {refused[0].parent}"
        how += " The reason stands in each line; move them away once they were looked at."
    yield Check("spool", "warning" if how else "ok", seen, how.strip())


def _schedule() -> Iterator[Check]:
    from smartcity.reporting import schedule
    from smartcity.store import claims, database

    entries, now = schedule.read(), datetime.now(UTC)
    yield Check("schedule", "ok", f"{len(entries)} reports; {schedule.path()} is in order")
    url = database.address()
    is_new = url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists()
    if is_new or not entries:
        return
    looked = claims.looked()
    for entry in entries.values():
        rows = claims.last(entry.name)
        failed = [row for row in rows if row.state == "failed"]
        since, is_paused = looked.get(entry.name, (now, False))
        due = schedule.next_slot(entry, since)
        if failed:
            seen = f"failed for {', '.join(row.domain for row in failed)}: {failed[0].reason}"
            how = f"smartcity report list; then: smartcity report run {entry.name}"
            yield Check(f"report {entry.name}", "warning", seen, how)
        elif entry.paused or is_paused:
            yield Check(f"report {entry.name}", "ok", "it rests")
        elif due and now - due > timedelta(seconds=_WAIT):
            seen = f"was due at {due:%F %R} UTC; nobody looked since {since:%F %R}"
            how = "Let smartcity report due be called: see docs/reports.md"
            yield Check(f"report {entry.name}", "warning", seen, how)
        else:
            last = f"last for {rows[0].as_of:%F %R} UTC: {rows[0].state}" if rows else "not yet due"
            yield Check(f"report {entry.name}", "ok", last)


def _ports() -> Iterator[Check]:
    known = settings.current()
    page = f"{known.dashboard_port}{known.dashboard_base_url}smartcity/health"
    for name, port, path, key in (
        ("API", known.api_port, f"{known.api_port}/health/live", "status"),
        ("dashboard", known.dashboard_port, page, "sessions"),
    ):
        try:
            stack.require_free(port, f"SMARTCITY_{name.upper()}_PORT")
        except SmartCityError as error:
            host = "127.0.0.1" if known.host == "0.0.0.0" else known.host  # noqa: S104
            if _answers(f"http://{host}:{path}", key):
                yield Check(f"port of {name}", "ok", f"{name} answers on {port}")
            else:
                yield Check(f"port of {name}", "problem", str(error), f"ss -ltnp 'sport = {port}'")
        else:
            yield Check(f"port of {name}", "ok", f"{port} is free")


def _answers(address: str, key: str) -> bool:
    """Tell whether it is ours that listens on a port."""
    try:
        with urllib.request.urlopen(address, timeout=1) as answer:  # noqa: S310  # http, to us
            return key in json.load(answer)
    except (OSError, ValueError, TypeError):
        return False


def _tools() -> Iterator[Check]:
    from smartcity.reporting import pdf
    from smartcity.store import database

    if pdf.find():
        yield Check("browser", "ok", f"{pdf.find()} prints PDFs")
    else:
        how = "Install Chromium, Chrome or Edge, if PDFs are wanted."
        yield Check("browser", "warning", "none is on the PATH: reports come without PDF", how)
    if not settings.current().backup_repository:
        return
    wanted = ["restic"]
    if database.address().get_backend_name() == "postgresql":
        wanted.append("pg_dump")
    for tool in wanted:
        debian = next(Path("/usr/lib/postgresql").glob(f"*/bin/{tool}"), None)
        if path := shutil.which(tool) or debian:
            yield Check(tool, "ok", str(path))
        else:
            how = f"Install {tool}, as with the system's package manager."
            yield Check(tool, "problem", "it is not on the PATH, so no backup is made", how)


def _certificates() -> Iterator[Check]:
    for name, path in _named_files():
        if not name.endswith("certificate"):
            continue
        path.open("rb").close()  # whoever may not read it learns which it is
        # What the standard library reads certificates with, and only its own tests call.
        decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]  # noqa: SLF001
        days = (ssl.cert_time_to_seconds(decoded["notAfter"]) - time.time()) / 86400
        state: Any = "problem" if days < 0 else "warning" if days < _DAYS else "ok"
        how = "" if state == "ok" else "Renew it, then reload the proxy: see docs/runbook.md"
        told = f"{path} ended {-days:.0f} days ago" if days < 0 else f"{path}: {days:.0f} days left"
        yield Check("certificate", state, told, how)
