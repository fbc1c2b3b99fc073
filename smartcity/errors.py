"""The few errors SmartCity raises on purpose; doors turn them into messages."""

from collections.abc import Iterable
from difflib import get_close_matches


class SmartCityError(Exception):
    """Something went wrong that a person can understand and mend."""


class UsageError(SmartCityError):
    """The caller asked for something that does not exist or has the wrong type."""


class DataError(SmartCityError):
    """A dataset is missing, unreadable or not what it claims to be."""


class ModelError(SmartCityError):
    """A model is missing, damaged, or refused publication."""


class RunError(SmartCityError):
    """A notebook run failed; the message names the cell and where its record lies.

    Attributes:
        run_id: Of the record that was kept; empty if there is none.
    """

    def __init__(self, message: str, run_id: str = "") -> None:
        """Say what failed."""
        self.run_id = run_id
        super().__init__(message)


class EngineError(SmartCityError):
    """Work that was spread over workers could not be done."""


class StorageError(SmartCityError):
    """A folder could not be written: read-only, full, or gone."""


class InputError(SmartCityError):
    """A row of inputs cannot be answered.

    Attributes:
        details: One ``{"field", "problem", "value"}`` per fault, all faults of the row.
    """

    def __init__(self, details: list[dict[str, object]]) -> None:
        """Put all faults into one message."""
        self.details = details
        super().__init__("; ".join(f"{d['field']}: {d['problem']}" for d in details))


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is not among the known ones.

    Args:
        kind: What the name stands for, as in "domain".
        name: The name that was given.
        known: The names that would have been right.

    Returns:
        An error that lists the known names and the nearest one.

    >>> str(unknown("domain", "trafic", ["energy", "traffic"]))
    "Unknown domain 'trafic'. Known: 'energy', 'traffic'. Did you mean 'traffic'?"
    """
    names = sorted(known)
    message = f"Unknown {kind} {name!r}. Known: {', '.join(map(repr, names)) or 'none'}."
    near = get_close_matches(name, names, n=1)
    return UsageError(message + (f" Did you mean {near[0]!r}?" if near else ""))
