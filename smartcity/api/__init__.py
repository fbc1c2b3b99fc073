"""The HTTP API: the same predictions for programs."""

from smartcity.api.app import create_app, describe

__all__ = ["create_app", "describe"]
