"""Make what is due now, each once, however many processes try; a run that died is taken over."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from smartcity import atomic, domains, logs, parameters, reporting, runs, settings
from smartcity.domains import ALL, MAIN
from smartcity.errors import SmartCityError, UsageError
from smartcity.reporting import schedule
from smartcity.reporting.schedule import Entry
from smartcity.reporting.ticket import Ticket
from smartcity.runs import Run
from smartcity.store import alarms, claims
from smartcity.store.claims import ClaimLostError, Due, Only

log = logs.get(__name__)

#: Seconds between two looks at the clock while runs are under way.
BEAT_SECONDS = 15
#: What is noticed later than this was missed: no scheduler was there when it was due.
_LATE = timedelta(minutes=10)
#: How often alarms are looked for.
_LOOK_EVERY = timedelta(hours=1)
#: A process may end for no fault of the run's, so one that did is tried again up to here anyway.
_DEATHS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of one try.

    Attributes:
        due: What was tried.
        state: ``waiting`` for another try; ``lost`` if somebody else took over meanwhile.
        run_id: The record that was kept, if one was.
        reason: Why it was not made.
    """

    due: Due
    state: claims.State | Literal["lost"]
    run_id: str | None = None
    reason: str | None = None


def _run(*given: Any, **more: Any) -> Run:
    """Run a notebook; what that takes is imported when the first one is due."""
    return reporting.run(*given, **more)


def _watch(now: datetime) -> object:
    """Look for alarms; what that takes is imported once an hour."""
    from smartcity.reporting import watch

    return watch.look(now)


@dataclass(frozen=True)
class Maker:
    """Makes reports; the clock and all effects are what it is given.

    Attributes:
        now: Gives the time, UTC.
        sleep: Waits some seconds.
        run: Runs a notebook, as ``runner.run``.
        look: Looks for alarms, as ``watch.look``.
        settled: Called with each record kept, its entry and, where it failed, the time of the next
            try; called again for the same one if this process ends before that is noted.
        progress: Called with what is being made, cells done and cells in all, from several threads.
    """

    now: Callable[[], datetime]
    sleep: Callable[[float], None] = time.sleep
    run: Callable[..., Run] = _run
    look: Callable[[datetime], object] = _watch
    settled: Callable[[Run, Entry, datetime | None], None] = lambda run, entry, again: None
    progress: Callable[[Due, int, int], None] = lambda due, done, cells: None

    def due(self) -> list[Outcome]:
        """Make all that is due, wait for further tries of what failed, and end.

        Whatever another process began and did not end is taken over.

        Returns:
            What became of every try, in order.

        Raises:
            UsageError: The schedule does not fit.
            DatabaseError: The database is out of reach.
            StorageError: The reports folder cannot be written.
        """
        home = settings.current().reports
        for left in [*atomic.sweep(home, ".running-*"), *atomic.sweep(home / "runs", "*/*/.tmp-*")]:
            log.warning("leftover of a killed run removed", folder=left.name)
        entries = schedule.read()
        if any(entry.cron == schedule.ON_ALARM for entry in entries.values()):
            self._look()
        return self._work(entries, None)

    def make(
        self, entry: Entry, times: Sequence[tuple[datetime, str]], *, again: bool = False
    ) -> list[Due]:
        """Make a report for some times, those apart that were made already.

        Args:
            entry: The report.
            times: Each time, UTC, and what is passed on as ``as_of``; empty for nothing.
            again: Make anew what was made already.

        Returns:
            What became of each, the oldest first.

        Raises:
            DatabaseError: The database is out of reach.
        """
        now, rows = self.now(), list(_rows(entry, times))
        reopened: list[claims.State] = ["failed", "missed", "skipped"]
        if again:
            reopened.append("succeeded")
        claims.add(rows, now, reopened)
        only = Only(entry.name, times[0][0], times[-1][0])
        self._work({entry.name: entry}, only)
        wanted = {(row.as_of, row.parameters) for row in rows}
        return [row for row in claims.of(only) if (row.as_of, row.parameters) in wanted]

    def rest(self, entry: Entry, *, paused: bool) -> None:
        """Let a report rest, or go on; what it is due meanwhile is noted, and not made.

        Raises:
            DatabaseError: The database is out of reach.
        """
        self._note(entry)
        claims.pause(entry.name, self.now(), paused=paused)

    def _work(self, entries: Mapping[str, Entry], only: Only | None) -> list[Outcome]:
        jobs = settings.current().jobs
        resting = [entry.name for entry in entries.values() if entry.paused]
        outcomes: list[Outcome] = []
        going: dict[Future[Outcome], Due] = {}
        noted, renewed = None, self.now()
        with ThreadPoolExecutor(jobs) as pool:
            while True:
                now = self.now()
                minute = now.replace(second=0, microsecond=0)
                if only is None and minute != noted:
                    noted = minute
                    self._note_all(entries)
                if now - renewed >= timedelta(seconds=BEAT_SECONDS):
                    renewed = now
                    claims.renew(going.values(), now)
                while len(going) < jobs:
                    claim = claims.take(self.now(), jobs, resting=resting, only=only)
                    if claim is None:
                        break
                    going[pool.submit(self._make, _entry(entries, claim), claim)] = claim
                if going:
                    ended, _ = wait(going, BEAT_SECONDS, FIRST_COMPLETED)
                    outcomes += [future.result() for future in ended if going.pop(future)]
                elif at := claims.retry_at(now, resting=resting, only=only):
                    self.sleep(min(max((at - now).total_seconds(), 1), BEAT_SECONDS))
                else:
                    return outcomes

    def _look(self) -> None:
        """Look for alarms, if nobody has of late; what goes wrong there holds up no report."""
        try:
            if alarms.turn(self.now(), _LOOK_EVERY):
                self.look(self.now())
        except Exception:
            log.exception("looking for alarms failed")

    def _note_all(self, entries: Mapping[str, Entry]) -> None:
        for entry in entries.values():
            self._note(entry)
        for path in runs.asked():
            self._note_wish(path)

    def _note(self, entry: Entry) -> None:
        now, stale = self.now(), timedelta(hours=entry.max_stale_hours)
        claims.note(entry.name, now, partial(_plan, entry, now), stale)

    def _note_wish(self, path: Path) -> None:
        """Turn what somebody asked for on the page into a row; two replicas make the same one."""
        try:
            at = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
            wish = json.loads(path.read_bytes())
            notebook = parameters.find(str(wish["notebook"]))
            known, values = parameters.read(notebook), dict(wish["parameters"])
            domain = parameters.check(notebook, values)["domain"]
        except FileNotFoundError:
            return  # another has just taken it
        except (UsageError, ValueError, KeyError, TypeError) as error:
            log.warning("wish for a report refused", note=path.name, error=str(error))
        else:
            given = {n: v for n, v in values.items() if n != "domain" and known[n].kind != "run"}
            entry = schedule.once(schedule.ON_REQUEST, notebook.stem, (domain,), given)
            claims.add(list(_rows(entry, [(at, "")])), self.now())
        path.unlink(missing_ok=True)

    def _make(self, entry: Entry | None, claim: Due) -> Outcome:
        if entry is None:
            return self._end(claim, "missed", None, "It is not on the schedule any more.")
        if claim.died and (outcome := self._take_over(entry, claim)):
            return outcome
        ticket = Ticket(
            id=_run_id(entry, claim, claim.attempts),
            report=claim.report,
            attempt=claim.attempts,
            seconds=entry.timeout_minutes * 60,
            confirm=lambda: claims.confirm(claim, self.now()),
        )
        given = {"domain": claim.domain} | claim.given
        try:
            made = self.run(
                claim.notebook, given, ticket=ticket, progress=partial(self.progress, claim)
            )
        except ClaimLostError as error:
            return Outcome(claim, "lost", None, str(error))
        except SmartCityError as error:
            return self._failed(entry, claim, error)
        except Exception as error:
            log.exception("run broke", report=claim.report, domain=claim.domain)
            return self._failed(entry, claim, error)
        self._settle(made, entry, None)
        return self._end(claim, "succeeded", made.id, None)

    def _take_over(self, entry: Entry, claim: Due) -> Outcome | None:
        """See what the process that was at it has left; None if it is to be made again."""
        before = _record(entry, claim, claim.attempts - 1)
        if before and before.status == "succeeded":  # it ended between record and note
            self._settle(before, entry, None)
            return self._end(claim, "succeeded", before.id, None)
        if claim.attempts > max(entry.attempts, _DEATHS):
            why = f"The process that made it ended without a word, try {claim.attempts - 1}."
            return self._end(claim, "failed", None, why)
        return None

    def _failed(self, entry: Entry, claim: Due, error: Exception) -> Outcome:
        """Note a failure: another try in a while, unless it was the last or would be refused."""
        again = None
        if not isinstance(error, UsageError) and claim.attempts % entry.attempts:
            doubled = 2 ** (claim.attempts % entry.attempts - 1)
            again = self.now() + timedelta(minutes=entry.backoff_minutes * doubled)
        record = _record(entry, claim, claim.attempts)
        if record:
            self._settle(record, entry, again)
        state: claims.State = "waiting" if again else "failed"
        return self._end(claim, state, record.id if record else None, str(error), again)

    def _end(
        self,
        claim: Due,
        state: claims.State,
        run_id: str | None,
        reason: str | None,
        again: datetime | None = None,
    ) -> Outcome:
        told = {"run_id": run_id, "reason": reason}
        if not claims.finish(claim, state, self.now(), next_at=again, **told):
            return Outcome(claim, "lost", run_id, reason)
        about = {"report": claim.report, "domain": claim.domain, "attempt": claim.attempts}
        log.info("report settled", as_of=claim.as_of.isoformat(), state=state, **about, **told)
        return Outcome(claim, state, run_id, reason)

    def _settle(self, run: Run, entry: Entry, again: datetime | None) -> None:
        """Do what follows a run; what goes wrong there does not make the run any worse."""
        try:
            self.settled(run, entry, again)
        except Exception:
            log.exception("what follows a run failed", run=run.id)


def between(entry: Entry, first: date, last: date, now: datetime) -> list[tuple[datetime, str]]:
    """List the times of a report between two days, as ``Maker.make`` takes them.

    Args:
        entry: The report; one that is not on the schedule is made for the end of each day.
        first: The first day, in the entry's zone.
        last: The last day, itself included.
        now: The time; nothing is made for later.

    Raises:
        UsageError: There is none, or the report cannot be made for a moment of the past.
    """
    if "as_of" not in parameters.read(parameters.find(entry.notebook)):
        raise UsageError(
            f"{entry.notebook} has no parameter 'as_of', so it cannot be made for the past. "
            "Leave out --from and --to to make it now."
        )
    if "as_of" in entry.parameters:
        raise UsageError("Parameter 'as_of' is filled in by --from and --to: leave it out.")
    zone = ZoneInfo(entry.timezone)
    begin = datetime(first.year, first.month, first.day, tzinfo=zone).astimezone(UTC)
    after = last + timedelta(days=1)
    end = datetime(after.year, after.month, after.day, tzinfo=zone).astimezone(UTC)
    second = timedelta(seconds=1)
    if entry.cron:
        found = schedule.slots(entry, begin - second, min(end - second, now))
        times = [(at, schedule.wall(entry, at)) for at in found]
    else:
        days = [first + timedelta(days=n) for n in range((min(last, now.date()) - first).days + 1)]
        times = [(_moment(day.isoformat()), day.isoformat()) for day in days]
    if not times:
        raise UsageError(
            f"{entry.name} is never due from {first} to {last}, as far as that has come. "
            "Give days of the past, the earlier one by --from: --from 2026-01-01 --to 2026-01-31"
        )
    return times


def _plan(entry: Entry, now: datetime, since: datetime, paused: bool, busy: set[str]) -> list[Due]:
    """Give the rows of the times an entry became due, with what is to become of each."""
    if entry.cron == schedule.ON_ALARM:
        return list(_alarmed(entry, paused=paused or entry.paused, now=now))
    found = schedule.slots(entry, since, now)
    rows = []
    for row in _rows(entry, [(at, schedule.wall(entry, at)) for at in found]):
        state: claims.State = "missed"
        reason = None
        if paused or entry.paused:
            reason = "The report was paused."
        elif entry.missed == "latest" and row.as_of != found[-1]:
            reason = 'A later time was due as well (missed = "latest").'
        elif entry.missed == "skip" and now - row.as_of > _LATE:
            reason = 'No scheduler was there when it was due (missed = "skip").'
        elif entry.overlap == "skip" and row.parameters in busy:
            state = "skipped"
            reason = 'The one before was still being made (overlap = "skip").'
        if reason:
            rows.append(replace(row, state=state, reason=reason, next_at=None))
        else:
            rows.append(row)
    return rows


def _alarmed(entry: Entry, *, paused: bool, now: datetime) -> Iterator[Due]:
    """Give a row for each site with alarms nobody has seen; those noticed together share one."""
    takes = parameters.read(parameters.find(entry.notebook))
    for alarm in alarms.listed():
        if alarm.state(now) == "new" and alarm.domain in entry.domains:
            site = alarm.site if "site" in takes else MAIN
            asked = entry.model_copy(update={"domains": (alarm.domain,), "sites": (site,)})
            at = max(alarm.noticed_at, alarm.silenced_until or alarm.noticed_at)
            for row in _rows(asked, [(at, "")]):
                reason = "The report was paused."
                yield replace(row, state="missed", reason=reason, next_at=None) if paused else row


def _rows(entry: Entry, times: Sequence[tuple[datetime, str]]) -> Iterator[Due]:
    takes = times and "as_of" in parameters.read(parameters.find(entry.notebook))
    sites = [(name, site) for name in entry.domains for site in _sites(entry, name)]
    for (at, as_of), (domain, site) in product(times, sites if times else ()):
        values = entry.parameters | ({"site": site} if site != MAIN else {})
        given = values | ({"as_of": as_of} if takes and as_of else {})
        digest = _digest(entry.notebook, domain, values)
        yield Due(entry.name, at, digest, entry.notebook, domain, given, next_at=at)


def _sites(entry: Entry, domain: str) -> Sequence[str]:
    if ALL not in entry.sites:
        return entry.sites
    from smartcity import data  # at one look in a thousand

    return data.present(domains.load(domain))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _entry(entries: Mapping[str, Entry], claim: Due) -> Entry | None:
    """Give the entry a row was noted for, though it may have changed; None if it is gone."""
    if claim.report in {schedule.ON_REQUEST, claim.notebook}:
        return schedule.once(claim.report, claim.notebook, (claim.domain,), claim.given)
    return entries.get(claim.report)


def _run_id(entry: Entry, claim: Due, attempt: int) -> str:
    """Name the run of a try, the same whoever asks: first the moment it speaks for."""
    at = claim.as_of
    if not entry.cron and claim.given.get("as_of"):
        at = _moment(claim.given["as_of"])
    digest = _digest(claim.report, claim.as_of.isoformat(), claim.parameters)[:6]
    return f"{at:%Y%m%dT%H%M%SZ}-{digest}{f'-{attempt}' if attempt > 1 else ''}"


def _moment(as_of: str) -> datetime:
    """Read ``as_of``; a day alone means its last second."""
    at = datetime.fromisoformat(as_of).replace(tzinfo=UTC)
    return at + timedelta(days=1, seconds=-1) if len(as_of) == len("2004-12-31") else at


def _record(entry: Entry, claim: Due, attempt: int) -> Run | None:
    """Read the record a try has left, if it left one."""
    place = runs.place(claim.notebook, claim.domain, claim.given.get("site", MAIN))
    home = place / _run_id(entry, claim, attempt)
    try:
        return Run.model_validate_json((home / "manifest.json").read_bytes())
    except OSError:
        return None
