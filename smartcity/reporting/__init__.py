"""Run notebooks, on schedule too; keep, show, deliver and check what they make.

What runs notebooks is imported when it is first asked for: the scheduler looks twice a minute
whether anything is due, and mostly nothing is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartcity.reporting.chain import Step, build, fan_out
    from smartcity.reporting.runner import run

__all__ = ["Step", "build", "fan_out", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Who asks for these is about to run notebooks: both processes import side by side.
    import_module(f"{__name__}.kernels").warm()
    room = "runner" if name == "run" else "chain"
    return getattr(import_module(f"{__name__}.{room}"), name)
