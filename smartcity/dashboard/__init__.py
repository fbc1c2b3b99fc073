"""The stakeholders' page: its state, its widgets, and the Voila server that shows it."""

from smartcity.dashboard.page import Dashboard

__all__ = ["Dashboard"]
