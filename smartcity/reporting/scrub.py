"""Takes secrets and the machine's paths out of what a run leaves behind."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from smartcity import settings
from smartcity.reporting import kernels

#: Shorter values of secrets would be found everywhere.
_SHORTEST = 6


def cleaner() -> "Cleaner":
    """Make a cleaner that knows this process's secrets and folders."""
    known = settings.current()
    hidden = dict.fromkeys(kernels.secrets(os.environ).values(), "***")
    # Of an address with a password, the password by itself too.
    hidden |= {m[1]: "***" for v in hidden if (m := re.search(r"://[^/\s:@]*:([^/\s@]+)@", v))}
    folders = {
        str(getattr(known, name)): name
        for name in ("notebooks", "datasets", "demo", "models", "reports", "logs", "state")
    }
    package = Path(__file__).parents[1]
    folders |= {str(package): "smartcity", str(package.parent): "."}
    folders |= dict.fromkeys((sys.prefix, sys.base_prefix), "python")
    folders |= {str(Path.home()): "~"}
    secrets = {value: new for value, new in hidden.items() if len(value) >= _SHORTEST}
    return Cleaner(secrets, {path: name for path, name in folders.items() if path != "/"})


class Cleaner:
    """Replaces texts by others, longer ones first."""

    def __init__(self, texts: dict[str, str], paths: dict[str, str]) -> None:
        """Prepare.

        Args:
            texts: What is replaced -> by what, wherever it stands.
            paths: The same of paths: as a whole, or as the beginning of a longer one.
        """
        self._names = paths | texts
        patterns = {text: re.escape(text) for text in texts}
        patterns |= {path: re.escape(path) + r"(?![\w.-])" for path in paths}
        longest = sorted(patterns, key=len, reverse=True)
        self._found = re.compile("|".join(patterns[name] for name in longest))

    def clean(self, value: Any) -> Any:
        """Give a copy of text, or of lists and mappings of it, without what is to be hidden."""
        if isinstance(value, str):
            plain = value.encode("utf-8", "replace").decode()  # no file takes half a surrogate
            return self._found.sub(lambda match: self._names[match[0]], plain)
        if isinstance(value, dict):
            return type(value)({key: self.clean(inner) for key, inner in value.items()})
        if isinstance(value, list):
            return [self.clean(inner) for inner in value]
        return value
