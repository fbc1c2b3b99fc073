"""Serve the API with uvicorn, one process or several."""

import sys

import uvicorn
from fastapi import FastAPI

from smartcity import logs, settings
from smartcity.api.app import create_app


def application() -> FastAPI:
    """Build the application in each serving process, its logs going to stdout and the file."""
    logs.configure(console=sys.stdout)
    return create_app()


def serve(*, workers: int, reload: bool) -> None:
    """Serve until stopped; answers under way are finished first.

    Args:
        workers: Number of processes.
        reload: Start anew when the code changes, for development.
    """
    known = settings.current()
    uvicorn.run(
        "smartcity.api.server:application",
        factory=True,
        host=known.host,
        port=known.api_port,
        workers=workers,
        reload=reload,
        log_config=None,
        timeout_graceful_shutdown=20,
    )
