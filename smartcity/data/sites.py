"""Readings of more sites than are published: each a partition of one Parquet dataset."""

import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from smartcity import atomic, domains, settings
from smartcity.data.files import SIMULATED_SITE, Source, within
from smartcity.data.readings import Readings, published, read
from smartcity.domains import Domain
from smartcity.errors import DataError


@dataclass(frozen=True)
class Added:
    """What became of a file that was to be a site's.

    Attributes:
        readings: As read, faults included; see ``check``.
        path: The file written; None if all of it was there before.
        rows: Rows added.
    """

    readings: Readings
    path: Path | None
    rows: int


def add(domain: Domain, file: Path, site: str, *, first_day: date | None = None) -> Added:
    """Add a file in the publisher's format to a site; what is there already is not added again.

    A cell that cannot be read is empty in what is kept.

    Args:
        domain: The question.
        file: What to read.
        site: The site; a new one begins with its first file.
        first_day: Day of the first row, where the format tells only days of the month.

    Raises:
        UsageError: No site can have that name.
        DataError: The file cannot be read, or the site is simulated.
        StorageError: The folder cannot be written; nothing was added.
    """
    domains.require_name(domain, site)
    shape = domain.format
    if first_day and shape.first_day:
        dated = shape.model_copy(update={"first_day": first_day})
        domain = domain.model_copy(update={"format": dated})
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"Cannot read {file}: {error.strerror}. Name a file that is there."
        ) from None
    readings = published(domain, site, [Source(file, digest, published=False, simulated=False)])
    home = settings.current().datasets / domain.name
    place = domains.partition(home, site)
    if (place / SIMULATED_SITE).exists():
        raise DataError(f"The readings in {place} are simulated. Choose another name for the site.")
    rows = readings.frame.drop(columns=["file", "line"])
    with atomic.lock(place):
        if before := within(home, domain, site):
            known = read(domain.name, site).frame.drop(columns=["file", "line"])
            joined = rows.merge(known.drop_duplicates(), how="left", indicator=True)
            rows = rows[(joined["_merge"] == "left_only").to_numpy()]
        if rows.empty:
            return Added(readings, None, 0)
        content = rows.to_parquet(index=False)
        name = f"{rows['recorded_at'].min():%Y%m%dT%H%M%S}-{len(before):04d}.parquet"
        atomic.write(place / name, content)
    return Added(readings, place / name, len(rows))
