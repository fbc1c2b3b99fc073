"""The pages on security say what is there: names lead somewhere, and rows go when they say so."""

import ast
import re
from collections.abc import Callable
from configparser import ConfigParser
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import JSON, Boolean, Column, Date, Float, Integer, Uuid
from typer.main import get_command

from smartcity import cli
from smartcity.settings import Settings
from smartcity.store import answers, users
from smartcity.store import database as store
from smartcity.store.tables import UtcDateTime, metadata

HOME = Path(__file__).parents[1]
SECURITY, THREATS = HOME / "docs" / "security.md", HOME / "docs" / "threat-model.md"
PAGES = [SECURITY, THREATS, HOME / "SECURITY.md"]
#: Folders of the repository; what lies elsewhere belongs to an installation.
OURS = ("smartcity/", "tests/", "docs/", "deploy/", "frontend/", ".github/")
UNITS = sorted((HOME / "deploy").rglob("*.service"))
RECORD, EMAIL = "Record of processing: the database", "anna@example.org"


def named(page: Path) -> set[str]:
    """What stands in backticks on a page."""
    return set(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))


@cache
def written() -> set[str]:
    """The names of all test functions."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in HOME.glob("tests/test_*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@cache
def code() -> str:
    """All that is shipped, but for what is bundled."""
    kinds = {".py", ".toml", ".js", ".j2", ".service"}
    paths = [path for room in ("smartcity", "deploy") for path in (HOME / room).rglob("*")]
    texts = [path for path in paths if path.suffix in kinds and "made" not in path.parts]
    return "\n".join(path.read_text(encoding="utf-8") for path in texts)


def is_command(words: list[str]) -> bool:
    """Whether this is a command of ours, with options it has; EMAIL stands for an argument."""
    known: Any = get_command(cli.app)
    while words and words[0] in getattr(known, "commands", {}):
        known, words = known.commands[words[0]], words[1:]
    options = {name for parameter in known.params for name in parameter.opts}
    whole = not getattr(known, "commands", None) or bool(words)
    return whole and all(word in options or word.isupper() for word in words)


#: How a text begins -> whether the rest of it is there.
KINDS: dict[str, Callable[[str], bool]] = {
    "test_": lambda rest: f"test_{rest}" in written(),
    "smartcity ": lambda rest: is_command(rest.split()),
    "make ": lambda rest: f"\n{rest}:" in (HOME / "Makefile").read_text(),
    "SMARTCITY_": lambda rest: rest.partition("=")[0].lower() in Settings.model_fields,
}


def leads_somewhere(text: str) -> bool:
    """Whether what stands in backticks is there."""
    for prefix, is_there in KINDS.items():
        if text.startswith(prefix):
            return is_there(text.removeprefix(prefix))
    if text.startswith(OURS):
        return (HOME / text).exists()
    table, _, column = text.partition(".")
    if table in metadata.tables and column.isidentifier():
        return column in metadata.tables[table].c
    return ("/" not in text and (HOME / text).is_file()) or text in code()


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page on security, without its head."""
    part = SECURITY.read_text(encoding="utf-8").split(f"# {heading}\n")[1].split("\n#")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_stands_in_backticks_is_there(page: Path) -> None:
    assert [text for text in sorted(named(page)) if not leads_somewhere(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "test_that_was_never_written",
        "smartcity users forget EMAIL",
        "smartcity users erase EMAIL --at-once",
        "smartcity users",
        "make safe",
        "SMARTCITY_SAFE",
        "SMARTCITY_SAFE=true",
        "users.password",
        "docs/safe.md",
        "safe-mode: on",
    ],
)
def test_what_is_not_there_is_noticed(text: str) -> None:
    assert not leads_somewhere(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_part_that_is_there(page: Path) -> None:
    for target, part in re.findall(
        r"\]\((?!https:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")
    ):
        found = (page.parent / target).read_text(encoding="utf-8")
        heads = re.findall(r"^#+ (.+)", found, flags=re.MULTILINE)
        known = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
        assert not part or part in known, (target, part)


def test_every_table_is_in_the_record_of_processing_and_says_when_its_rows_go() -> None:
    record = rows_of(RECORD)

    assert sorted(row[0].strip("`") for row in record) == sorted(metadata.tables)
    assert all(all(row) for row in record)


def fill(person: UUID) -> None:
    """Put a row of a person's into every table, from long ago."""

    def value(column: Column[Any]) -> Any:
        if column.foreign_keys or isinstance(column.type, Uuid):
            return person
        kinds: dict[type, Any] = {UtcDateTime: datetime(2020, 1, 1, tzinfo=UTC), JSON: {}}
        kinds |= {Date: date(2020, 1, 1), Boolean: False, Integer: 1, Float: 1.0}
        found = [given for kind, given in kinds.items() if isinstance(column.type, kind)]
        return (
            found[0]
            if found
            else {"email": EMAIL, "target": EMAIL, "subject": person.hex}.get(column.name, "x")
        )

    with store.transaction(write=True) as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.insert(), {c.name: value(c) for c in table.c})


@pytest.mark.parametrize(
    ("word", "act"),
    [
        ("SMARTCITY_RETENTION_DAYS", lambda: answers.expire(365, 1000)),
        ("smartcity users erase", lambda: users.erase_user(EMAIL)),
    ],
    ids=["by age", "by erasure"],
)
def test_rows_go_when_the_record_says_so_and_no_others(
    word: str, act: Callable[[], object], home: Path
) -> None:
    store.upgrade()
    fill(uuid4())
    before = answers.counts()

    act()

    after = answers.counts()
    said = {row[0].strip("`") for row in rows_of(RECORD) if f"`{word}`" in row[-1]}
    assert {name for name in before if after[name] < before[name]} == said
    assert min(before.values()) == 1
    store.close()


def test_what_is_done_by_hand_does_what_it_is_for(home: Path) -> None:
    said = re.findall(
        r"^ +((?:DELETE|UPDATE) [^;]+);", SECURITY.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    store.upgrade()
    fill(uuid4())

    with store.transaction(write=True) as connection:
        for statement in said:
            assert connection.exec_driver_sql(statement).rowcount == 1

    assert answers.counts()["deliveries"] == 0
    assert [row["email"] for row in users.list_users()] == ["anna@example.com"]
    store.close()


def test_each_control_of_annex_a_is_in_the_map_once() -> None:
    parts = {5: 37, 6: 8, 7: 14, 8: 34}
    mapped = []
    for row in rows_of("ISO/IEC 27001:2022, Annex A"):
        for span in row[0].split(", "):
            first, _, last = span.partition("-")
            chapter, start = map(int, first.split("."))
            end = int((last or first).split(".")[1])
            mapped += [(chapter, number) for number in range(start, end + 1)]

    assert sorted(mapped) == [(c, n) for c, most in parts.items() for n in range(1, most + 1)]


def test_no_part_of_smartcity_unpickles_a_model() -> None:
    calls = re.compile(r"\bload_estimator\(|\b(joblib|pickle|cloudpickle)\.loads?\(")
    sources = {path: path.read_text(encoding="utf-8") for path in HOME.glob("smartcity/**/*.py")}

    # The registry offers it to analysts.
    assert {path.name for path, text in sources.items() if calls.search(text)} <= {"registry.py"}


def service(path: Path) -> dict[str, str]:
    """What a unit says of its service; of several lines of a name the last."""
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their capitals
    unit.read(path)
    return dict(unit["Service"])


def test_only_runs_may_write_models() -> None:
    writers = {unit.name for unit in UNITS if "/models" in service(unit)["ReadWritePaths"]}

    assert writers == {"smartcity-report.service"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_services_have_no_privilege_they_do_not_need(path: Path) -> None:
    said = service(path)
    bare = ["NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID"]

    assert {said[name] for name in bare} == {"yes"}
    assert (said["User"], said["ProtectSystem"]) == ("smartcity", "strict")
    ports = "CAP_NET_BIND_SERVICE" if path.name == "smartcity-nginx.service" else ""
    assert said["CapabilityBoundingSet"] == ports
