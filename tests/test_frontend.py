"""The page's script: made from the sources beside it, by a lock that names no registry."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from smartcity import dashboard

HOME = Path(__file__).parents[1]
FRONTEND = HOME / "frontend"
STATIC = Path(dashboard.__file__).parent / "share/voila/templates/smartcity/static"
MADE, MODULES = STATIC / "made", sorted(STATIC.glob("*.js"))


def test_the_bundle_was_made_from_these_sources() -> None:
    """After a change in frontend/: make frontend."""
    build = (FRONTEND / "build.mjs").read_text()
    [listed] = re.findall(r"const sources = (\[.*?\]);", build)
    digest = hashlib.sha256()
    for path in json.loads(listed):
        digest.update((FRONTEND / path).read_bytes())

    for made in ("page.js", "early.js"):
        assert digest.hexdigest() in (MADE / made).read_text(encoding="utf-8")[:200]
    assert (MADE / "version.txt").read_text() == digest.hexdigest()[:12]


def test_the_bundle_names_no_machine() -> None:
    for path in MADE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(re.escape(str(HOME)), text), path


def test_the_lock_pins_what_the_bundle_is_made_of() -> None:
    wanted = json.loads((FRONTEND / "package.json").read_text())["devDependencies"]
    locked = json.loads((FRONTEND / "package-lock.json").read_text())["packages"]

    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    assert not any("resolved" in package for package in locked.values())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_make_no_script_from_text_and_say_no_english(path: Path) -> None:
    """The page's policy would refuse it; and what is said comes from the catalogue."""
    text = path.read_text(encoding="utf-8")

    assert not re.search(r"\beval\(|new Function|\bon\w+=\"", text)
    assert not re.search(r"textContent = [\"'`][A-Z][a-z]+ ", text)
