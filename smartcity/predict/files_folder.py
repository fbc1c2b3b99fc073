"""Whole folders: every row of many Parquet files answered, by as many workers as there are."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from smartcity import atomic, engine, registry
from smartcity.errors import SmartCityError, StorageError, UsageError
from smartcity.predict import files_out, files_parts
from smartcity.predict.files import Progress, check
from smartcity.predict.files_in import Parquet
from smartcity.predict.files_parts import REJECTED, Asked, Made, Part
from smartcity.predict.predictor import Predictor

#: Rows of a task, if row groups allow it: a second's work, of which little is lost.
_ROWS = 1 << 18
#: What says that a folder is whole.
MANIFEST = "_manifest.json"


def answer_folder(
    predictor: Predictor,
    source: Path,
    target: Path,
    told: Callable[[Progress], object] = lambda _: None,
) -> Progress:
    """Answer a folder of Parquet files, side by side, whatever its size; see ``engine``.

    Ended early, by whatever, the same call keeps what was done; the result is the same. A worker
    on another machine needs both folders under the same names, and gets the model sent.

    Args:
        predictor: The domain's predictor.
        source: A folder of Parquet files, in folders as deep as may be; each file as
            ``answer_file`` takes it. What begins with a dot or ``_`` is passed over.
        target: The folder to write: each file as one or more parts in the same place, refused rows
            in ``_rejected``, and last of all ``_manifest.json``, without which it is not whole.
        told: Called with the progress now and then; what is refused is told at the end.

    Raises:
        UsageError: There is a file of another kind, or one folder lies in the other.
        SmartCityError: A file cannot be read, or is no such table.
        StorageError: The target cannot be written, or holds files of others.
        EngineError: Workers die again and again.
    """
    source, target, card = source.resolve(), target.resolve(), predictor.card
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UsageError(f"--output {target} and --input {source} must not lie in each other.")
    if target.exists() and not target.is_dir():
        raise StorageError(f"Cannot write {target}: it is no folder. Choose another name.")
    checksum, packed = registry.pack(card.name, card.version, predictor.opened.folder)
    asked = Asked(predictor.domain, predictor.site, card.name, card.version, checksum)
    parts = _plan(asked, source)
    with files_out.alone(target, target):
        kept = _kept(target, parts)
        tasks = [(asked, packed, source, target, part) for part in parts if part.table not in kept]
        resumed = sum(part.rows for part in parts if part.table in kept)
        rows = [*itertools.accumulate((task[-1].rows for task in tasks), initial=resumed)]

        def at(done: int, _: int = 0) -> None:
            told(Progress(rows[done] / max(rows[-1], 1), rows[done], 0, resumed))

        at(0)
        found = engine.each(files_parts.answer_part, tasks, progress=at)
        kept |= {task[-1].table: each for task, each in zip(tasks, found, strict=True)}
        _finish(asked, target, parts, kept)
    refused = sum(each.refused for each in kept.values())
    answered = sum(each.answered for each in kept.values())
    last = Progress(1.0, answered, refused, resumed, target / REJECTED if refused else None)
    told(last)
    return last


def _plan(asked: Asked, source: Path) -> list[Part]:
    """Look at every file before anything is done, and cut them into parts."""
    parts = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_dir() or any(step.startswith((".", "_")) for step in name.parts):
            continue
        if path.suffix != ".parquet":
            raise UsageError(
                f"--input {source}: {name} does not end in .parquet. Move it elsewhere, or let its "
                "name begin with _."
            )
        table = Parquet(path)
        table.close()
        check(asked.domain, table)
        for first, last in files_parts.cut(table.groups, _ROWS):
            mark = files_parts.mark(asked, source, name.as_posix(), first, last)
            rows = sum(table.groups[first:last])
            parts.append(Part(name.as_posix(), first, last, rows, mark))
    if not parts:
        raise SmartCityError(f"{source} has no row: it holds no .parquet file, or empty ones.")
    return parts


def _kept(target: Path, parts: list[Part]) -> dict[str, Made]:
    """Find what earlier runs about the same have done, and remove all else they left.

    Raises:
        StorageError: There are tables of others.
    """
    wanted, kept, old = {part.table: part for part in parts}, {}, []
    for path in sorted(target.rglob("*.parquet")):
        table = path.relative_to(target).as_posix()
        found, part = files_parts.made(target, table), wanted.get(table)
        if found is None and part is None:
            raise StorageError(
                f"{path} was not made by this command. Choose another --output, or move it away."
            )
        lacks = found and part and found[1].refused and not (target / part.rejected).is_file()
        if found and part and found[0] == part.mark and not lacks:
            kept[table] = found[1]
        else:
            old.append(path)
    told = {part.rejected for part in parts if part.table in kept and kept[part.table].refused}
    with atomic.storage(target):
        (target / MANIFEST).unlink(missing_ok=True)
        for left in [*(target / REJECTED).rglob("*.csv"), *target.rglob(".tmp-*"), *old]:
            if left.relative_to(target).as_posix() not in told:
                left.unlink()
    return kept


def _finish(asked: Asked, target: Path, parts: list[Part], made: dict[str, Made]) -> None:
    """Say that the folder is whole, once its names are on disk."""
    with atomic.storage(target):
        for left in target.rglob(".tmp-*"):  # of workers that died
            left.unlink()
        for folder in {(target / part.table).parent for part in parts}:
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    told = []
    for part in parts:
        each = made[part.table]
        told.append({"path": part.table, "source": part.source, **asdict(each)})
        if each.refused:
            told[-1]["rejected"] = part.rejected
    sums = "".join(f"{each['sha256']}  {each['path']}\n" for each in told)
    manifest = {
        "domain": asked.domain.name,
        "site": asked.site,
        "model": asked.name,
        "model_version": asked.version,
        "model_sha256": asked.checksum,
        "answered": sum(each.answered for each in made.values()),
        "refused": sum(each.refused for each in made.values()),
        "sha256": hashlib.sha256(sums.encode()).hexdigest(),
        "parts": told,
    }
    atomic.write(target / MANIFEST, json.dumps(manifest, indent=1) + "\n")
