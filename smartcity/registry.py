"""Keeper of ``models/``: publish, list, promote, roll back, open for serving."""

import getpass
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from smartcity import atomic, domains, logs, settings
from smartcity.errors import ModelError, unknown
from smartcity.features import Matrix, View

if TYPE_CHECKING:
    import onnxruntime

log = logs.get(__name__)

#: Largest difference between the two files of a version, relative to the answer's size. The leaf
#: values are float64 in the forest and float32 in ONNX; averaged over 100 trees that leaves about
#: 1e-6. A wrong branch anywhere shows as 1e-2 or more.
PARITY_TOLERANCE = 1e-4
#: Checksums of all files of a version, the card's too, as ``sha256sum --check`` reads them.
SUMS = "SHA256SUMS"
#: The part that needs the specified inputs and nothing else; every version has it.
NOW = "now"
#: One line per change of what is served: when, which, who, why.
_HISTORY = "history.jsonl"
#: Rows asked at once, from how many such blocks on several threads ask, and those threads.
_BLOCK, _FEW = 128, 4
_THREADS = ThreadPoolExecutor(os.cpu_count(), "onnx")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Estimator(Protocol):
    """What publishing needs of a fitted scikit-learn estimator."""

    def predict(self, rows: Matrix, /) -> NDArray[Any]:
        """Answer rows of shape (rows, inputs) with shape (rows,)."""


class CardInput(BaseModel):
    """An input as the model saw it.

    ``low`` to ``high`` is the range of its training readings; ``edges`` hold all but the lowest
    and the highest hundredth of them.
    """

    name: str
    label: str
    unit: str
    low: float
    high: float
    edges: tuple[float, float]
    typical: float
    optional: bool


class Novelty(BaseModel):
    """How far from all it learned a row may be: squared Mahalanobis distance on a log scale.

    ``limit`` is the distance 99.5 % of the training rows stay within.
    """

    inputs: list[str]
    mean: list[float]
    precision: list[list[float]]
    limit: float


class Part(BaseModel):
    """One of a version's models: a question, what it looks at, how good and how sure it is."""

    question: str
    recipe: str
    view: View
    typical: list[float]
    metrics: dict[str, dict[str, float]]
    candidates: dict[str, dict[str, dict[str, float]]]
    baselines: dict[str, dict[str, dict[str, float]]]
    skill: dict[str, float]
    best_baseline: dict[str, str]
    spread: list[float]
    coverage: dict[str, Any]
    intervals: list[dict[str, Any]] | None
    temperature: float | None
    threshold: float | None
    by_ahead: dict[str, dict[str, float]]
    guidelines: dict[str, float] | None
    reliability: dict[str, Any] | None


class Gate(BaseModel):
    """Whether a version may be served, decided by the run that made it, and why not."""

    passed: bool
    reasons: list[str]


class Card(BaseModel):
    """What a person must know of a model before trusting it; ``card.json`` is this record."""

    model_config = ConfigDict(extra="allow")

    domain: str
    site: str = domains.MAIN
    version: str = ""
    created_at: str
    task: str
    target: str
    unit: str
    inputs: list[CardInput]
    estimator: str
    metrics: dict[str, dict[str, float]]
    specified: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]
    splits: dict[str, str]
    averaging: str | None
    coverage: dict[str, Any]
    specified_coverage: dict[str, Any] | None
    champion: str
    parts: dict[str, Part]
    left_out: dict[str, str]
    gate: Gate
    novelty: Novelty | None
    answers: dict[str, float]
    data: dict[str, Any]
    environment: dict[str, Any]
    git: dict[str, Any]
    run: str
    parity: dict[str, float] = {}
    files: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The model's name: the domain, and the site where that is not the main one."""
        return domains.at(self.domain, self.site)

    @property
    def verdict(self) -> str:
        """Say in one sentence whether the model beats the best baseline on later time."""
        return self.judged(self.champion)

    def judged(self, name: str) -> str:
        """Say the same of one of its parts; skill is 1 - error / the best one's (Murphy 1988)."""
        part = self.parts[name]
        skill, best = part.skill["time_ordered"], part.best_baseline["time_ordered"]
        own, naive = part.metrics["time_ordered"], part.baselines[best]["time_ordered"]
        if self.task == "regression":
            figures = f"its typical error (RMSE) is {own['rmse']:.2f} {self.unit}, against "
            figures += f"{naive['rmse']:.2f}"
        else:
            figures = f"it is right in {own['accuracy']:.1%} of readings, against "
            figures += f"{naive['accuracy']:.1%}"
        word = "better" if skill > 0.01 else "worse" if skill < -0.01 else "no better"
        return f"On later time the model is {word} than the best baseline, {best}: {figures}."


@dataclass
class Model:
    """A published version, opened for serving: its card and the ONNX sessions of its parts."""

    card: Card
    folder: Path | None
    _sessions: "dict[str, onnxruntime.InferenceSession]" = field(default_factory=dict)

    def scores(self, rows: Matrix, part: str = NOW) -> NDArray[np.float64]:
        """Run one of its parts.

        Args:
            rows: Array of shape (rows, columns of the part's view).
            part: Which.

        Returns:
            Answers of shape (rows,), or class probabilities of shape (rows, classes).

        Raises:
            ModelError: The part is opened for the first time, and its file is damaged.
        """
        if part not in self._sessions:
            content = _read_checked(self.card, f"{_stem(part)}.onnx", self.folder)
            self._sessions[part] = _open(content)
        return _scores(self._sessions[part], rows)


def _stem(part: str) -> str:
    """Name the files of a part: what answers from the specified inputs alone is the model."""
    return "model" if part == NOW else part


def _scores(session: "onnxruntime.InferenceSession", rows: Matrix) -> NDArray[np.float64]:
    """Run a session; a row's answer is the same to the last digit whatever rows go with it."""
    if len(rows) == 1:  # a product with one row adds up in another order: two are asked
        return _scores(session, np.repeat(rows, 2, axis=0))[:1]
    last = session.get_outputs()[-1].name
    # In blocks whose intermediate values stay in the processor's cache.
    blocks = [rows[n : n + _BLOCK] for n in range(0, max(len(rows) - 1, 1), _BLOCK)]
    blocks[-1] = rows[_BLOCK * (len(blocks) - 1) :]  # never a last block of one

    def ask(block: Matrix) -> NDArray[np.float32]:
        answered: NDArray[np.float32] = session.run([last], {"inputs": block})[0]
        return answered

    # The runtime lets go of Python's lock: many blocks take all processors.
    said = list(_THREADS.map(ask, blocks) if len(blocks) > _FEW else map(ask, blocks))
    scores = np.concatenate(said).astype(np.float64)
    return scores[:, 0] if last == "variable" else scores


def _open(onnx: bytes) -> "onnxruntime.InferenceSession":
    # It would tell its makers, from a thread of its own, what it is used for.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # of the many commands that read cards, few ask a model

    options = onnxruntime.SessionOptions()
    # One thread: starting threads for a single row costs a thousand times the row itself.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns of constants an exporter left unused
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _folder(domain: str, folder: Path | None) -> Path:
    return (folder or settings.current().models) / domain


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def names(domain: str, folder: Path | None = None) -> list[str]:
    """Name the models of a domain: the main site's first, then those of other sites."""
    return [domain, *sorted(path.name for path in _folder("", folder).glob(f"{domain}@*"))]


def answering(
    domain: str, site: str = domains.MAIN, version: str = "", folder: Path | None = None
) -> tuple[str, str]:
    """Say which model answers for a site: its own, else that of all sites.

    Args:
        domain: The domain.
        site: The site; the main one is answered by its own model alone.
        version: Which version, ``all@VERSION`` for one of all sites; the served one when empty.
        folder: Where models live; the setting by default.

    Returns:
        The model's name and the version.

    Raises:
        ModelError: None is served.
    """
    pooled = domains.at(domain, domains.ALL)
    of, _, version = version.rpartition("@")
    is_pooled = of == domains.ALL or (
        not version
        and site != domains.MAIN
        and not (_folder(domains.at(domain, site), folder) / "CURRENT").exists()
        and (_folder(pooled, folder) / "CURRENT").exists()
    )
    name = pooled if is_pooled else domains.at(domain, site)
    return name, version or current(name, folder)


def told(name: str, version: str) -> str:
    """Write a version as answers and records name it; see ``answering``."""
    of_all = domains.apart(name)[1] == domains.ALL
    return f"{domains.ALL}@{version}" if of_all else version


def versions(domain: str, folder: Path | None = None) -> list[str]:
    """List the published versions of a model, oldest first; of the main site's by its domain."""
    home = _folder(domain, folder)
    names = [p.name for p in home.iterdir() if p.is_dir()] if home.is_dir() else []
    return sorted(filter(_VERSION.fullmatch, names), key=_order)


def before(domain: str, version: str, folder: Path | None = None) -> list[str]:
    """List the versions published before one, oldest first."""
    return [v for v in versions(domain, folder) if _order(v) < _order(version)]


def stamp(domain: str, version: str, folder: Path | None = None) -> int:
    """Tell when a version's files last changed, in nanoseconds; 0 if it is not there."""
    home = _folder(domain, folder) / version
    times = [file.stat().st_mtime_ns for file in home.iterdir()] if home.is_dir() else []
    return max(times, default=0)


def current(domain: str, folder: Path | None = None) -> str:
    """Name the version being served.

    Raises:
        ModelError: None is, or the file that says so is damaged.
    """
    path = _folder(domain, folder) / "CURRENT"
    try:
        named = path.read_bytes().decode(errors="replace").strip()
    except OSError:
        named = None
    if named is not None and _VERSION.fullmatch(named):
        return named
    published = versions(domain, folder)
    if not published:
        raise ModelError(
            f"No model of {domain!r} is published in {path.parents[1]}. "
            f"Train one: smartcity build --domain {domain.replace('@', ' --site ')}"
        )
    state = "is missing" if named is None else f"is damaged: {named[:40]!r}"
    raise ModelError(
        f"{path} {state}. Name the version to serve: smartcity models promote {domain} "
        f"{published[-1]} (there are {', '.join(published)})"
    )


def card(domain: str, version: str | None = None, folder: Path | None = None) -> Card:
    """Read the card of a version, the served one by default.

    Raises:
        ModelError: There is no such version, or its card is damaged.
    """
    version = version or current(domain, folder)
    if version not in versions(domain, folder):
        raise ModelError(str(unknown(f"{domain} version", version, versions(domain, folder))))
    path = _folder(domain, folder) / version / "card.json"
    try:
        content = path.read_bytes()
        sums = path.with_name(SUMS).read_text(encoding="utf-8")
        if f"{hashlib.sha256(content).hexdigest()}  card.json" in sums.splitlines():
            return Card.model_validate_json(content)
    except (OSError, ValueError):
        pass  # said below: whatever is wrong with it, the remedy is the same
    raise ModelError(
        f"{path} is damaged: it is not the card that was published. "
        f"Serve another version: smartcity models promote {domain} VERSION"
    )


def _read_checked(known: Card, name: str, folder: Path | None) -> bytes:
    """Read a file of a version once, and give its bytes only if the card vouches for them."""
    path = _folder(known.name, folder) / known.version / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != known.files.get(name):
        raise ModelError(
            f"{path} is not the file that was published (its sha256 differs from the card's). "
            f"Nothing was loaded. Serve another version: smartcity models rollback {known.name}"
        )
    return content


def page(known: Card, name: str = "card.md", folder: Path | None = None) -> str:
    """Read the card for people, or ``later.csv``, its answers on time it had not seen.

    Raises:
        ModelError: It is missing or damaged.
    """
    return _read_checked(known, name, folder).decode()


def load(domain: str, version: str | None = None, folder: Path | None = None) -> Model:
    """Open a version for serving: ONNX only, its checksum verified first.

    Raises:
        ModelError: It is missing or damaged.
    """
    model = Model(card(domain, version, folder), folder)
    for part in {NOW, model.card.champion}:
        blank = np.zeros((1, len(model.card.parts[part].view.names)), dtype=np.float32)
        model.scores(blank, part)
    return model


def load_estimator(
    domain: str, version: str | None = None, folder: Path | None = None, *, part: str = NOW
) -> Any:
    """Open the analyst's fitted estimator, its checksum verified before it is unpickled.

    Raises:
        ModelError: It is missing or damaged.
    """
    import joblib  # the serving side never needs it

    known = card(domain, version, folder)
    return joblib.load(io.BytesIO(_read_checked(known, f"{_stem(part)}.joblib", folder)))


def verify(domain: str, version: str | None = None, folder: Path | None = None) -> Card:
    """Check every file of a version against its card, and that the model opens.

    Raises:
        ModelError: One of them fails; the message names it.
    """
    known = card(domain, version, folder)
    for name in known.files:
        _read_checked(known, name, folder)
    load(domain, known.version, folder)
    return known


def _parity(estimator: Estimator, onnx: bytes, rows: Matrix) -> float:
    """Measure the largest relative difference between the fitted and the exported model."""
    proba = getattr(estimator, "predict_proba", None)
    fitted = np.asarray(proba(rows) if proba else estimator.predict(rows), dtype=np.float64)
    exported = _scores(_open(onnx), rows)
    return float(np.max(np.abs(exported - fitted) / np.maximum(1.0, np.abs(fitted))))


def _next_version(new: Card, folder: Path | None) -> str:
    """Number a new model: MAJOR other inputs, MINOR another estimator, PATCH other readings."""
    published = versions(new.name, folder)
    if not published:
        return "1.0.0"
    major, minor, patch = _order(published[-1])
    try:
        last = card(new.name, published[-1], folder)
    except ModelError:
        return f"{major}.{minor + 1}.0"  # what it was like, nobody can say any more
    if [i.name for i in last.inputs] != [i.name for i in new.inputs] or last.target != new.target:
        return f"{major + 1}.0.0"
    if last.estimator != new.estimator or last.parts.keys() != new.parts.keys():
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def _sums(place: Path) -> dict[str, str]:
    files = sorted(place.iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Fitted:
    """A part to publish, both ways it will be kept.

    Attributes:
        estimator: The fitted estimator, for notebooks.
        onnx: The same as ONNX, with input ``inputs``.
        rows: Rows on which both must agree: real ones, ones with missing inputs, and ones at split
            thresholds; shape (rows, columns).
    """

    estimator: Estimator
    onnx: bytes
    rows: Matrix


def publish(
    draft: Card,
    fitted: Mapping[str, Fitted],
    *,
    pages: Mapping[str, str],
    folder: Path | None = None,
) -> Card:
    """Publish a model as a new version, or refuse and change nothing; ``promote`` serves it.

    Args:
        draft: The card, without version, parity and files.
        fitted: Its parts by name, as on the card.
        pages: What to keep beside it, by file name: ``card.md``, with ``{version}`` still open, and
            ``later.csv``.
        folder: Where models live; the setting by default.

    Returns:
        The card as published.

    Raises:
        ModelError: An export differs from what was fitted by more than ``PARITY_TOLERANCE``.
        StorageError: The folder cannot be written; the served version stays.
    """
    import joblib

    differences = {name: _parity(f.estimator, f.onnx, f.rows) for name, f in fitted.items()}
    for name, difference in differences.items():
        if not difference <= PARITY_TOLERANCE:
            raise ModelError(
                f"Not published: the ONNX export of {draft.name} ({name}) differs from the "
                f"fitted model by {difference:.2g} (at most {PARITY_TOLERANCE:g} is allowed) on "
                f"{len(fitted[name].rows)} rows."
            )
    home = _folder(draft.name, folder)
    with atomic.lock(home):
        version = _next_version(draft, folder)
        with atomic.folder(home / version) as place, atomic.storage(home):
            for name, part in fitted.items():
                (place / f"{_stem(name)}.onnx").write_bytes(part.onnx)
                joblib.dump(part.estimator, place / f"{_stem(name)}.joblib", compress=3)
            for name, text in pages.items():
                (place / name).write_text(text.replace("{version}", version), encoding="utf-8")
            parity = {
                "largest_difference": max(differences.values()),
                "tolerance": PARITY_TOLERANCE,
                "rows": sum(len(part.rows) for part in fitted.values()),
            }
            told = {"version": version, "parity": parity, "files": _sums(place)}
            known = draft.model_copy(update=told)
            content = json.dumps(known.model_dump(), indent=2, ensure_ascii=False)
            (place / "card.json").write_text(content + "\n", encoding="utf-8")
            lines = [f"{digest}  {name}\n" for name, digest in _sums(place).items()]
            (place / SUMS).write_text("".join(lines), encoding="utf-8")
    return known


def of_run(domain: str, run: str, folder: Path | None = None) -> str | None:
    """Name the version a run published, or None."""
    for version in reversed(versions(domain, folder)):
        try:
            if card(domain, version, folder).run == run:
                return version
        except ModelError:
            continue
    return None


def discard(domain: str, version: str, folder: Path | None = None) -> None:
    """Remove a version that was never served.

    Raises:
        ModelError: It is the one being served.
    """
    home = _folder(domain, folder)
    if (home / "CURRENT").exists() and current(domain, folder) == version:
        raise ModelError(f"{domain} {version} is being served; it stays.")
    shutil.rmtree(home / version, ignore_errors=True)


def promote(
    domain: str, version: str, folder: Path | None = None, *, force: str | None = None
) -> Card:
    """Serve a version from now on, once its gate was passed and all its files check out.

    Args:
        domain: The domain.
        version: Which version.
        folder: Where models live; the setting by default.
        force: Why it is served although the gate refused it; recorded with who said so.

    Raises:
        ModelError: The version is missing, damaged or refused; what was served stays.
        StorageError: ``CURRENT`` cannot be replaced; what was served stays.
    """
    known = verify(domain, version, folder)
    if not known.gate.passed and not force:
        raise ModelError(
            f"{domain} {version} is not served: {' '.join(known.gate.reasons)} To serve it all the "
            f"same: smartcity models promote {domain} {version} --force --why REASON"
        )
    _serve(domain, version, folder, action="forced" if force else "promoted", why=force or "")
    return known


def rollback(domain: str, folder: Path | None = None) -> Card:
    """Serve the version that was served before the current one.

    Raises:
        ModelError: There is none, or it is damaged; what was served stays.
    """
    serving = current(domain, folder)
    earlier = before(domain, serving, folder)
    served = {record["version"] for record in history(domain, folder)} & set(earlier)
    if not earlier:
        raise ModelError(f"There is no version of {domain!r} before {serving}.")
    version = max(served or earlier, key=_order)
    known = verify(domain, version, folder)
    _serve(domain, version, folder, action="rolled back", why=f"from {serving}")
    return known


def _serve(domain: str, version: str, folder: Path | None, *, action: str, why: str) -> None:
    """Record a change of what is served, then make it."""
    home = _folder(domain, folder)
    record = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version,
        "action": action,
        "by": getpass.getuser(),
        "why": why,
    }
    with atomic.lock(home):
        lines = [json.dumps(r, ensure_ascii=False) for r in [*history(domain, folder), record]]
        atomic.write(home / _HISTORY, "".join(f"{line}\n" for line in lines))
        atomic.write(home / "CURRENT", f"{version}\n")
    log.info("model served", domain=domain, model_version=version, action=action, why=why)


def history(domain: str, folder: Path | None = None) -> list[dict[str, str]]:
    """List every change of what was served, oldest first; lines that are damaged are left out."""
    path = _folder(domain, folder) / _HISTORY
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            log.warning("unreadable line", path=str(path))
    return found


def pack(name: str, version: str, folder: Path | None = None) -> tuple[str, NDArray[np.uint8]]:
    """Pack what serving needs of a version, for machines that lack it; see ``unpack``.

    Returns:
        The checksum of its checksums, and its files as one array, which a cluster sends but once.

    Raises:
        ModelError: It is missing or damaged.
    """
    known, sink = card(name, version, folder), io.BytesIO()
    home = _folder(name, folder) / known.version
    with zipfile.ZipFile(sink, "w") as packed:
        for part in sorted({NOW, known.champion}):
            file = f"{_stem(part)}.onnx"
            packed.writestr(file, _read_checked(known, file, folder))
        for file in ("card.json", SUMS):
            packed.write(home / file, file)
    sums = hashlib.sha256((home / SUMS).read_bytes()).hexdigest()
    return sums, np.frombuffer(sink.getvalue(), np.uint8)


def unpack(packed: NDArray[np.uint8], name: str, version: str, checksum: str) -> Path:
    """Give a models folder that holds this very version: our own, or a cache of what was packed.

    Raises:
        ModelError: What was packed is not what the checksum stands for; nothing is kept of it.
        StorageError: The state folder cannot be written.
    """
    known = settings.current()
    cache = known.state / "models" / checksum
    for folder in (known.models, cache):
        sums = _folder(name, folder) / version / SUMS
        if sums.is_file() and hashlib.sha256(sums.read_bytes()).hexdigest() == checksum:
            return folder
    try:
        with zipfile.ZipFile(io.BytesIO(packed.tobytes())) as files:
            content = {file: files.read(file) for file in files.namelist()}
        lines = [line.split("  ", 1) for line in content[SUMS].decode().splitlines()]
        vouched = {file: digest for digest, file in lines} | {SUMS: checksum}
        is_right = all(
            hashlib.sha256(data).hexdigest() == vouched[file] for file, data in content.items()
        )
    except (zipfile.BadZipFile, KeyError, ValueError):
        is_right = False
    if not is_right:
        raise ModelError(
            f"{name} {version}, as it came with the task, is not what was published (its sha256 is "
            f"not {checksum}). Nothing of it was opened. Run the same command again."
        )
    with atomic.lock(cache):
        if not (place := _folder(name, cache) / version).exists():
            with atomic.folder(place) as beside, atomic.storage(place):
                for file, data in content.items():
                    (beside / file).write_bytes(data)
    return cache
