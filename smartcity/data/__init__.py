"""Published files -> tidy readings: fetch, read, check row by row, simulate a demo city."""

from smartcity.data.checks import check, clean, records, usable
from smartcity.data.files import Source, fetch, locate
from smartcity.data.readings import Readings, read
from smartcity.data.simulate import simulate
from smartcity.data.summary import by_hour_of_week, drift, latest, requests, summarise

__all__ = [
    "Readings",
    "Source",
    "by_hour_of_week",
    "check",
    "clean",
    "drift",
    "fetch",
    "latest",
    "locate",
    "read",
    "records",
    "requests",
    "simulate",
    "summarise",
    "usable",
]
