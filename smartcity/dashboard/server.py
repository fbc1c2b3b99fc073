"""Serve the prediction notebook as a page: Voila, with what it needs on this machine only."""

import os
from pathlib import Path
from typing import Any

import plotly
from tornado.web import StaticFileHandler
from traitlets.config import Config
from voila.app import Voila

from smartcity import settings

_SHARE = Path(__file__).parent / "share"
#: A kernel nobody looks at any more is stopped after ten minutes.
_IDLE_SECONDS = 600


class _Page(Voila):
    """Voila, plus plotly.js from the installed package and the reports' pages."""

    def init_handlers(self) -> list[Any]:
        """Serve two folders of files ahead of the notebook, which answers every other path."""
        library = Path(plotly.__file__).parent / "package_data"
        reports = settings.current().reports / "runs" / "05_report"
        own = [
            (
                rf"{self.server_url}smartcity/(plotly\.min\.js)",
                StaticFileHandler,
                {"path": library},
            ),
            (
                rf"{self.server_url}smartcity/reports/([a-z_]+/[\w-]+/report\.html)",
                StaticFileHandler,
                {"path": reports},
            ),
        ]
        return [*own, *super().init_handlers()]


def serve() -> None:
    """Serve the page until stopped.

    Raises:
        SystemExit: The port is taken.
    """
    known = settings.current()
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        [str(_SHARE), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    )
    config = Config()
    config.Voila.ip = known.host
    config.Voila.port = known.dashboard_port
    config.Voila.port_retries = 0
    config.Voila.open_browser = False
    config.VoilaConfiguration.template = "smartcity"
    config.VoilaConfiguration.allow_template_override = "NO"
    config.VoilaConfiguration.allow_theme_override = "NO"
    config.VoilaConfiguration.strip_sources = True
    config.VoilaConfiguration.show_tracebacks = False
    config.VoilaConfiguration.file_allowlist = ["(?!)"]
    config.VoilaConfiguration.http_header_envs = []
    config.MappingKernelManager.cull_idle_timeout = _IDLE_SECONDS
    config.MappingKernelManager.cull_interval = 60
    config.MappingKernelManager.cull_connected = False
    # One thread a kernel: many people look at the same two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _Page(config=config).launch_instance(
        argv=[str(known.notebooks / "04_predict.ipynb")], config=config
    )
