"""Backups in a restic repository: made, listed, checked, restored and tried out."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from smartcity import __version__, atomic, logs, settings
from smartcity.errors import SmartCityError, UsageError
from smartcity.predict import Predictor
from smartcity.store import database, dumps, importer, spool, tables

log = logs.get(__name__)

#: The last backup of each of so many days, weeks and months is kept.
KEPT = ("--keep-daily=7", "--keep-weekly=4", "--keep-monthly=12")
#: The same wherever it is made: a container's name changes, and a machine's is nobody's business.
_HOST = "--host=smartcity"
#: Files up to this size are copied, as somebody may be editing them; larger ones never change.
_SMALL = 256 * 1024


class BackupError(SmartCityError):
    """A backup could not be made, or is not what it should be."""


class _NoRepositoryError(BackupError):
    """Where the repository should be there is none."""


class Manifest(BaseModel):
    """What a backup holds; ``manifest.json`` in it is this record.

    Attributes:
        rows: Table -> its rows; empty if there was no database yet.
        files: Path of each other file -> its sha256.
    """

    made_at: str
    smartcity: str
    rows: dict[str, int]
    files: dict[str, str]

    @property
    def database(self) -> str | None:
        """Name of the database's file, or None."""
        return next((n for n in dumps.NAMES.values() if f"database/{n}" in self.files), None)


class Drill(BaseModel):
    """What came of a drill; its report is this record.

    Attributes:
        models: Domain -> version that opened.
        rows: Table -> rows found.
        compared: Recorded predictions that were made again.
        left_out: Those that cannot be, as their recent readings are not kept.
        differences: One sentence each; none if the backup is good.
    """

    started_at: str
    ended_at: str = ""
    snapshot: str = ""
    files: int = 0
    models: dict[str, str] = {}
    rows: dict[str, int] = {}
    compared: int = 0
    left_out: int = 0
    differences: list[str] = []


def _environment() -> dict[str, str]:
    """Give restic's environment: repository and password stand in no list of processes."""
    known = settings.current()
    if known.backup_repository is None or known.backup_password is None:
        raise UsageError(
            "Backups need SMARTCITY_BACKUP_REPOSITORY, as in /srv/backup, and "
            "SMARTCITY_BACKUP_PASSWORD, without which none can be read: keep it elsewhere too."
        )
    place = known.backup_repository.get_secret_value()
    place = place if ":" in place else str(Path(place).expanduser().absolute())
    ours = ("SMARTCITY_", "RESTIC_PASSWORD", "RESTIC_REPOSITORY", "PGPASSWORD")
    rest = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    password = known.backup_password.get_secret_value()
    return rest | {"RESTIC_REPOSITORY": place, "RESTIC_PASSWORD": password}


def _restic(*words: str, folder: Path | None = None) -> str:
    """Call restic and give what it prints.

    Raises:
        BackupError: It is not installed, or could not do it; the message has no secret.
    """
    environment = _environment()
    if shutil.which("restic") is None:
        raise BackupError("restic is not installed: apt-get install restic, or https://restic.net")
    done = subprocess.run(
        ["restic", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if not done.returncode:
        return done.stdout
    told = " ".join(f"{done.stdout} {done.stderr}".split())
    told = told.replace(environment["RESTIC_PASSWORD"], "***")
    if "wrong password" in told:
        raise BackupError("SMARTCITY_BACKUP_PASSWORD does not open the repository; nothing is done")
    if "Is there a repository" in told:
        raise _NoRepositoryError(
            "SMARTCITY_BACKUP_REPOSITORY names no repository. Should it be there, look after its "
            "disk or host; to begin a new one: smartcity backup create --init"
        )
    told = re.sub(r"://[^/@\s]*@", "://***@", told)[-600:]
    raise BackupError(f"restic {words[0]} failed; earlier backups are as they were. {told}")


def create(*, init: bool = False) -> dict[str, Any]:
    """Save database, spool, models, reports and configuration, then forget old backups.

    Args:
        init: Begin a new repository if there is none.

    Returns:
        ``snapshot`` (its id), ``files``, ``rows``, and how many backups there are now, ``kept``.

    Raises:
        BackupError: It was not made; earlier ones are as they were.
        DatabaseError: The database is out of reach or damaged; nothing was saved.
        StorageError: There is no room to put it together; nothing was saved.
    """
    try:
        _restic("cat", "config", "--no-lock")
    except _NoRepositoryError:
        if not init:
            raise
        _restic("init")
    _restic("unlock")  # what a killed backup left; locks of living ones stay
    with _scratch() as stage:
        manifest = _stage(stage)
        told = _restic("backup", _HOST, "--json", ".", folder=stage)
    made = {"snapshot": json.loads(told.splitlines()[-1])["snapshot_id"][:8]}
    counts = {"files": len(manifest.files), "rows": sum(manifest.rows.values())}
    log.info("backup made", **made, **counts)
    _restic("forget", _HOST, "--group-by=host", *KEPT, "--prune")
    return made | counts | {"kept": len(listed())}


def listed() -> list[dict[str, str]]:
    """List the backups there are, the oldest first, as ``snapshot`` and ``time``.

    Raises:
        BackupError: The repository cannot be read.
    """
    found = json.loads(_restic("snapshots", _HOST, "--json", "--no-lock")) or []
    return [{"snapshot": each["short_id"], "time": each["time"]} for each in found]


@contextmanager
def _scratch() -> Iterator[Path]:
    state = settings.current().state
    atomic.sweep(state, ".backup-*")
    with atomic.scratch(".backup-", state) as folder, atomic.storage(folder):
        yield folder


def _stage(stage: Path) -> Manifest:
    """Put together what is saved; models after the answers that name them."""
    known = settings.current()
    (stage / "database").mkdir()
    with importer.paused():
        rows = dumps.save(stage / "database")
        for path in _files(spool.place()):
            lines = path.read_bytes()
            whole = lines[: lines.rfind(b"\n") + 1]  # its writer may be in the middle of the next
            _place(stage / "spool" / path.relative_to(spool.place())).write_bytes(whole)
    for name in ("models", "reports", "domains"):
        folder = getattr(known, name)
        for path in _files(folder) if folder else ():
            with suppress(FileNotFoundError):  # tidied up since
                _take(path, _place(stage / name / path.relative_to(folder)))
    given = {f"SMARTCITY_{n.upper()}": getattr(known, n) for n in sorted(known.model_fields_set)}
    told = [f"# {n}: secret" if isinstance(v, SecretStr) else f"{n}={v}" for n, v in given.items()]
    (stage / "environment").write_text("\n".join(told) + "\n", encoding="utf-8")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(made_at=now, smartcity=__version__, rows=rows, files=_sums(stage))
    (stage / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    return manifest


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder but those that are hidden: they are being written."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts):
            yield path


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _take(path: Path, target: Path) -> None:
    """Copy a file, or give it a second name: that takes neither time nor room."""
    if path.stat().st_size > _SMALL:
        with suppress(OSError):  # on another disk
            os.link(path.resolve(), target)
            return
    shutil.copy2(path, target)


def _sums(folder: Path) -> dict[str, str]:
    """Give the sha256 of each file but the manifest."""
    sums = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sums[path.relative_to(folder).as_posix()] = digest
    sums.pop("manifest.json", None)
    return sums


def verify(snapshot: str = "latest") -> Manifest:
    """Read the whole repository, and one backup file by file beside its manifest.

    Raises:
        BackupError: Something is damaged or lacking.
    """
    _restic("check", "--read-data", "--no-lock")
    with _scratch() as folder:
        return _fetch(snapshot, folder)


def _fetch(snapshot: str, target: Path) -> Manifest:
    """Bring a backup to a folder, and compare it with its manifest."""
    latest = (_HOST,) if snapshot == "latest" else ()
    # Without the cache: what lies on this disk already proves nothing.
    _restic("restore", *latest, f"--target={target}", "--no-lock", "--no-cache", "--", snapshot)
    try:
        manifest = Manifest.model_validate_json((target / "manifest.json").read_bytes())
    except (OSError, ValidationError):
        raise BackupError(f"Snapshot {snapshot} has no manifest of ours; choose another.") from None
    if wrong := sorted({n for n, _ in manifest.files.items() ^ _sums(target).items()}):
        raise BackupError(
            f"{len(wrong)} files are not as the manifest says, {wrong[0]} among them. Choose "
            "another backup: smartcity backup list"
        )
    return manifest


def restore(target: Path, snapshot: str = "latest", into: str | None = None) -> list[str]:
    """Bring a backup to a folder of its own, never over what is live.

    Args:
        target: The folder; empty, or not there.
        snapshot: Which; ``listed`` names them.
        into: Address of an empty PostgreSQL database for the dump.

    Returns:
        The commands that put it in place.

    Raises:
        UsageError: The folder or the database is not empty.
        BackupError: The backup is damaged or lacking; nothing was restored.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not empty. Name an empty folder, or one that is not there.")
    url = dumps.empty(into) if into else None
    with atomic.folder(target) as beside:
        manifest = _fetch(snapshot, beside)
    target.chmod(0o700)
    if url is not None:
        dumps.load(url, target / "database" / dumps.NAMES["postgresql"])
    return _steps(target, manifest)


def _steps(target: Path, manifest: Manifest) -> list[str]:
    """Write the commands that put a restored backup in place; what is there is moved aside."""
    known, url = settings.current(), database.address()
    places = {"models": known.models, "reports": known.reports, "spool": spool.place()}
    places |= {"domains": known.domains} if known.domains else {}
    old, last = list(places.values()), [["smartcity", "db", "check"]]
    if manifest.database == dumps.NAMES["sqlite"] and url.get_backend_name() == "sqlite":
        live = places[f"database/{manifest.database}"] = Path(str(url.database))
        # The log beside the old file would be played into the new one.
        old += [Path(f"{live}{end}") for end in ("", "-wal", "-shm")]
    elif manifest.database:
        dump = str(target / "database" / manifest.database)
        address = database.programs(url)[0] if url.get_backend_name() == "postgresql" else "URL"
        last.insert(0, ["pg_restore", *dumps.LOAD, f"--dbname={address}", dump])
    new = {target / name: place for name, place in places.items() if (target / name).exists()}
    aside = f".before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    moves = [(shlex.quote(str(path)), shlex.quote(f"{path}{aside}")) for path in old]
    steps = [["mkdir", "-p", *sorted({str(place.parent) for place in new.values()})]]
    steps += [["cp", "-a", str(path), str(place)] for path, place in new.items()]
    moved = [f"[ ! -e {path} ] || mv {path} {away}" for path, away in moves]
    return moved + [shlex.join(words) for words in (*steps, *last)]


def drill(snapshot: str = "latest", most: int = 10_000) -> tuple[Drill, Path]:
    """Restore into a scratch place, open the models, and ask them again what they answered.

    Args:
        snapshot: Which backup.
        most: How many of the newest recorded predictions are made again.

    Returns:
        What came of it, and the file that tells it; a text is beside it.

    Raises:
        UsageError: Settings lack what a drill needs.
        StorageError: The report cannot be written.
    """
    now = datetime.now(UTC)
    done = Drill(started_at=now.isoformat(timespec="seconds"), snapshot=snapshot)
    _environment()  # what the settings lack is no fault of the backup
    try:
        _restic("check", "--read-data", "--no-lock")
        with _scratch() as folder:
            manifest = _fetch(snapshot, folder)
            done.snapshot, done.files = f"made {manifest.made_at}", len(manifest.files)
            for path in sorted((folder / "models").glob("*/CURRENT")):
                opened = Predictor.load(path.parent.name, None, folder / "models")
                done.models[path.parent.name] = opened.card.version
            if manifest.database:
                with dumps.opened(folder / "database" / manifest.database) as url:
                    _try_database(url, folder / "models", manifest, most, done)
    except SmartCityError as error:
        done.differences.append(str(error))
    done.ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    place = settings.current().reports / "drills" / f"{now:%Y%m%dT%H%M%SZ}.json"
    atomic.write(place, done.model_dump_json(indent=2))
    atomic.write(place.with_suffix(".txt"), summary(done))
    return done, place


def summary(done: Drill) -> str:
    """Tell a drill in a few lines."""
    told = f"""Drill of {done.started_at}: the backup is {"NOT " * bool(done.differences)}good.
Backup: {done.snapshot}, {done.files} files as its manifest says.
{len(done.models)} models opened, {sum(done.rows.values())} rows in {len(done.rows)} tables.
{done.compared} recorded predictions made again; {done.left_out} cannot be without recent readings.
"""
    return told + "".join(f"{line}\n" for line in done.differences)


def _try_database(url: Any, models: Path, manifest: Manifest, most: int, done: Drill) -> None:
    """Compare its rows with the manifest, and its predictions with those made again."""
    known, groups = tables.predictions, defaultdict(list)
    with database.transaction(at=url) as connection:
        done.rows = dumps.rows(connection)
        query = known.select().order_by(known.c.timestamp.desc()).limit(most)
        for row in connection.execute(query).mappings():
            groups[row["model_name"], row["model_version"]].append(row)
    for table in sorted({name for name, _ in manifest.rows.items() ^ done.rows.items()}):
        source, found = manifest.rows.get(table), done.rows.get(table)
        done.differences.append(f"Table {table}: {source} rows in the source, {found} here.")
    for (name, version), rows in groups.items():
        repeatable = [row for row in rows if "recent" not in row["input_data"]]
        done.left_out += len(rows) - len(repeatable)
        try:
            done.differences += _again(Predictor.load(name, version, models), repeatable)
            done.compared += len(repeatable)
        except SmartCityError as error:
            done.differences.append(f"{name} {version}: {error}")


def _again(predictor: Predictor, rows: list[Any]) -> list[str]:
    """Make predictions again, and name those that differ in any digit."""
    # Beside a time the record has what was taken from it; a request has one of the two.
    parts = {spec.name for spec in predictor.domain.inputs if spec.from_time}
    given = [
        {n: v for n, v in data.items() if n not in parts or "timestamp" not in data}
        for data in (row["input_data"] for row in rows)
    ]
    differences = []
    for row, said in zip(rows, predictor.answer([*map(predictor.check, given)]), strict=True):
        again: dict[str, Any] = {name: getattr(said, name) for name in ("prediction", "confidence")}
        again |= {end: getattr(said.interval, end, None) for end in ("low", "high")}
        if wrong := [name for name, value in again.items() if row[name] != value]:
            differences.append(f"Prediction {row['id']}: {', '.join(wrong)} came out otherwise.")
    return differences
