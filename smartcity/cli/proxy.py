"""What nginx in front of it all needs: one command, one template, the settings."""

import socket
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import jinja2
import typer

from smartcity import atomic, settings
from smartcity.cli.common import app, out
from smartcity.errors import SmartCityError, UsageError

_TEMPLATE = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "nginx.conf.j2"
_MODULES = Path("/usr/lib/nginx/modules")


@app.command()
def proxy(
    output: Annotated[Path, typer.Option(help="Folder nginx will be started with (-p)")],
) -> None:
    """Write nginx's configuration, and the page for when the dashboard is away."""
    from smartcity.dashboard import snapshot

    folder = output.absolute()
    text = _configuration(folder, snapshot.RETRY_SECONDS)
    for name in ("logs", "tmp", "acme"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    atomic.write(folder / "smartcity-away.html", snapshot.busy_page())
    atomic.write(folder / "nginx.conf", text)
    out.print(f"nginx -p {folder} -c nginx.conf -e logs/error.log", highlight=False)


def _configuration(folder: Path, retry: int) -> str:
    """Fill the template with the settings."""
    known = settings.current()
    for name in ("certificate", "certificate_key"):
        path = getattr(known, name)
        if path is None or not path.is_file():
            variable = f"SMARTCITY_{name.upper()}"
            raise UsageError(f"{variable}={str(path or '')!r}: name the file nginx is to use.")
    if not _TEMPLATE.is_file():
        raise SmartCityError(f"{_TEMPLATE} is missing: run this from a checkout of SmartCity.")
    address, reports = urlsplit(known.public_url), urlsplit(known.reports_url)
    environment = jinja2.Environment(  # noqa: S701  # what is written is not HTML
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    has_brotli = (_MODULES / "ngx_http_brotli_filter_module.so").is_file()
    is_here = reports.netloc == address.netloc and reports.scheme == "https"
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        known=known,
        folder=folder,
        host=address.netloc,
        port=address.port or 443,
        base=known.dashboard_base_url,
        reports=f"{reports.path.removesuffix('index.html').rstrip('/')}/" if is_here else "",
        api=known.api_backends.split() or [f"{known.host}:{known.api_port}"],
        dashboard=known.dashboard_backends.split() or [f"{known.host}:{known.dashboard_port}"],
        anonymous=_per_minute("rate_limit"),
        keyed=_per_minute("key_rate_limit"),
        # Of all seats a quarter: what one address may have at most, plus those not yet looked at.
        seats=max(4, known.dashboard_sessions // 4),
        retry=retry,
        brotli=_MODULES if has_brotli else None,
        ipv6=socket.has_dualstack_ipv6(),
    )


def _per_minute(name: str) -> int:
    """Give a limit of the API as nginx counts; 0 for none."""
    from smartcity.api import guard

    limit = guard.rate(f"SMARTCITY_{name.upper()}", getattr(settings.current(), name))
    return max(1, limit.amount * 60 // limit.get_expiry()) if limit else 0
