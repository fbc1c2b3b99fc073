"""Run a notebook, keep its record, and build everything that is not up to date."""

from smartcity.reporting.build import Step, build
from smartcity.reporting.runner import run

__all__ = ["Step", "build", "run"]
