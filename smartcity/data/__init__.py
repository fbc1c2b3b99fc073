"""Published files -> tidy readings: fetch, read, check row by row, simulate a demo city."""

from smartcity.data import tables
from smartcity.data.checks import check, clean, records, usable
from smartcity.data.council import account, changed, compare, glance, learned_later, listed, quality
from smartcity.data.files import Source, fetch, locate, present
from smartcity.data.readings import Readings, moment, read, until
from smartcity.data.simulate import simulate, simulate_sites
from smartcity.data.sites import Added, add
from smartcity.data.summary import (
    by_hour,
    by_hour_of_week,
    drift,
    latest,
    periods,
    requests,
    summarise,
)
