"""What a model or a report was made by: commit, packages, pinned dependencies, machine."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

_HOME = Path(__file__).parents[1]


def git() -> dict[str, Any]:
    """Name the commit this code is at, as far as there is one.

    Returns:
        ``commit`` and ``dirty`` (something tracked or new differs from it); None where unknown.
    """

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *words],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    changes = ask("status", "--porcelain")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """Give the versions of ``python`` and of some ``packages``."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def machine() -> dict[str, Any]:
    """Describe the machine without naming it: ``system``, ``kind``, ``processors``."""
    return {"system": platform.system(), "kind": platform.machine(), "processors": os.cpu_count()}


def digest(path: Path) -> str | None:
    """Give the sha256 of a file; None if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def lock() -> str | None:
    """Give the sha256 of the pinned dependencies; None where the package is not in its checkout."""
    return digest(_HOME / "requirements.lock")
