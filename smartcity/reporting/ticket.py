"""What a schedule adds to a run."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ticket:
    """What a schedule adds to a run.

    Attributes:
        id: The run's id; made of the moment it speaks for when empty.
        report: Entry of the schedule.
        attempt: Which try at it this is.
        seconds: Longest the whole run may take; None for no limit.
        confirm: Called right before the record appears; raises if it is no longer wanted.
    """

    id: str = ""
    report: str = ""
    attempt: int = 1
    seconds: float | None = None
    confirm: Callable[[], None] = lambda: None
