"""SmartCity: three questions a city's sensors answer, from notebook to page."""

from importlib.metadata import version

__version__ = version("smartcity")
