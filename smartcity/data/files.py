"""Where the published files are, how they get there, and whether they are what they claim."""

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from smartcity import atomic, domains, settings
from smartcity.domains import ALL, MAIN, Domain, PublishedFile
from smartcity.errors import DataError

#: A file of this name in a domain's folder says that the readings beside it are simulated.
SIMULATED = "SIMULATED.txt"
#: The same in the folder of a site, where what reads all sites' Parquet files passes it over.
SIMULATED_SITE = f"_{SIMULATED}"


@dataclass(frozen=True)
class Source:
    """A file readings come from.

    Attributes:
        published: It is, byte for byte, the file its publisher offers.
        simulated: It belongs to the simulated demo city.
    """

    path: Path
    sha256: str
    published: bool
    simulated: bool

    def record(self) -> dict[str, object]:
        """Give what a model card keeps of it."""
        return {"name": self.path.name, "sha256": self.sha256, "published": self.published}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def within(folder: Path, domain: Domain, site: str = MAIN) -> list[Source]:
    """List the files of a domain's site that a folder holds, in the order they join."""
    if site not in domain.sites:
        paths = _parquet(folder, site)
        simulated = (domains.partition(folder, site) / SIMULATED_SITE).exists()
        return [
            Source(path, _digest(path.read_bytes()), published=False, simulated=simulated)
            for path in paths
        ]
    simulated = (folder / SIMULATED).exists()
    found = [f for f in domain.files if f.site == site and (folder / f.name).exists()]
    digests = [(f, _digest((folder / f.name).read_bytes())) for f in found]
    return [Source(folder / f.name, d, d == f.sha256, simulated) for f, d in digests]


def _parquet(folder: Path, site: str) -> list[Path]:
    return sorted(domains.partition(folder, site).glob("[!._]*.parquet"))


def present(domain: Domain) -> list[str]:
    """Name the sites of a domain that readings are there of, the main one first."""
    homes = domains.folders(domain)
    lying = {f.site for f in domain.files if any((home / f.name).exists() for home in homes)}
    return [
        site
        for site in domains.sites(domain)
        if site in lying or any(_parquet(home, site) for home in homes)
    ]


def locate(domain: Domain, site: str = MAIN) -> list[Source]:
    """Find the files of a domain: where the settings say, else the demo city.

    Args:
        domain: The question.
        site: Which of its sites; or ``all``.

    Returns:
        The files that are there; a site may lack its later ones.

    Raises:
        DataError: None is there; the message says how to get them.
        UsageError: The domain has no such site.
    """
    if site == ALL:
        return [source for each in present(domain) for source in locate(domain, each)]
    domains.require_site(domain, site)
    folders = domains.folders(domain)
    for folder in folders:
        if sources := within(folder, domain, site):
            return sources
    if site not in domain.sites:
        raise DataError(
            f"No readings for {domain.name!r}, site {site!r}: its folder holds no Parquet file. "
            f"Add some: smartcity data add {domain.name} FILE --site {site}"
        )
    wanted = ", ".join(file.name for file in domain.files if file.site == site)
    or_simulate = (
        f"simulate them: smartcity data simulate {domain.name}"
        if settings.current().origin("datasets") == "default"
        else "leave SMARTCITY_DATASETS unset to use the simulated city"
    )
    raise DataError(
        f"No readings for {domain.name!r}, site {site!r}: looked for {wanted} in "
        f"{', '.join(map(str, folders))}. Get them: smartcity data fetch {domain.name}; or, from a "
        f"folder: smartcity data fetch {domain.name} --from DIR; or {or_simulate}"
    )


def _in_archive(path: Path, name: str) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [m for m in archive.namelist() if Path(m).name == name]
            return archive.read(inside[0]) if inside else None
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a readable zip archive: {error}") from None


def _from_folder(domain: Domain, file: PublishedFile, folder: Path) -> tuple[bytes, bool] | None:
    """Look for a file in a folder somebody filled by hand, archives included."""
    for home in (folder / domain.name, folder):
        if (home / file.name).is_file():
            return (home / file.name).read_bytes(), (home / SIMULATED).exists()
        for archive in sorted(home.glob("*.zip")):
            content = _in_archive(archive, file.name)
            if content is not None:
                return content, False
    return None


def _download(domain: Domain, file: PublishedFile, folder: Path, *, progress: bool) -> bytes:
    """Download the archive a file is published in, once, and take the file out of it."""
    try:
        archive = pooch.retrieve(
            file.archive,
            known_hash=file.archive_sha256 and f"sha256:{file.archive_sha256}",
            path=folder / ".downloads",
            fname=f"{hashlib.sha256(file.archive.encode()).hexdigest()[:12]}.zip",
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=(5, 60)),
        )
    except ValueError as error:
        raise DataError(
            f"The publisher now offers another archive at {file.archive}: {error}"
        ) from None
    except (requests.RequestException, OSError) as error:
        is_offline = isinstance(error, requests.ConnectionError | requests.Timeout)
        reason = "no connection" if is_offline else str(error).splitlines()[0]
        raise DataError(
            f"Cannot download {file.name} from {file.archive}: {reason}. Check the connection, or "
            f"download it by hand and run: smartcity data fetch {domain.name} --from FOLDER; "
            f"or simulate a city: smartcity data simulate {domain.name}"
        ) from None
    content = _in_archive(Path(archive), file.name)
    if content is None:
        raise DataError(f"The archive at {file.archive} holds no {file.name}.")
    return content


def _require_header(domain: Domain, name: str, content: bytes) -> None:
    """Refuse a file of something else before it takes the place of a good one."""
    first = content[:2000].decode("utf-8-sig", errors="replace").lstrip().partition("\n")[0]
    cells = {cell.strip() for cell in first.split(domain.format.delimiter)}
    missing = [column for column in domain.columns if column not in cells]
    if missing:
        raise DataError(
            f"What was offered as {name} is not a file of {domain.name!r}: its first line, "
            f"{first[:80]!r}, lacks the columns {missing}. Nothing was changed."
        )


def fetch(domain: Domain, folder: Path | None = None, *, progress: bool = True) -> Iterator[Source]:
    """Bring the published files of a domain into the datasets folder.

    Files already there with the publisher's checksum are left as they are, so an interrupted
    fetch is simply run again.

    Args:
        domain: The question.
        folder: A folder with ``<domain>/<file>``, the bare files or their zip archives; the
            publishers' sites when None.
        progress: Show a progress bar while downloading.

    Yields:
        Each file once it is in its place.

    Raises:
        DataError: It cannot be had; nothing half-written stays. From a folder, the first file of
            the default site must be there, the others may be missing.
    """
    home = settings.current().datasets / domain.name
    for file in domain.files:
        target = home / file.name
        if target.exists() and _digest(target.read_bytes()) == file.sha256:
            yield Source(target, file.sha256, published=True, simulated=False)
            continue
        if folder is None:
            content, simulated = _download(domain, file, home, progress=progress), False
        else:
            found = _from_folder(domain, file, folder)
            if found is None and file != domain.files[0]:
                continue
            if found is None:
                raise DataError(
                    f"{file.name} is neither in {folder / domain.name} nor in {folder}, "
                    f"nor in a zip archive there."
                )
            content, simulated = found
        _require_header(domain, file.name, content)
        atomic.write(target, content)
        if simulated:
            atomic.write(home / SIMULATED, "These readings are simulated.\n")
        else:
            (home / SIMULATED).unlink(missing_ok=True)
        yield Source(target, _digest(content), _digest(content) == file.sha256, simulated)
