"""The pages' templates, filled: every value is escaped here, what cannot be written left out."""

import math
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

# Beyond these XML allows nothing, and a file in UTF-8 no halves of pairs.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::00)?(:\d\d)?(?:\.\d+)?")


def cell(value: Any) -> str:
    """Write a value for a table people read: numbers rounded, times without a ``T``.

    >>> cell(1234.56789), cell(0.00012345), cell(None), cell("2004-03-10T18:00:00")
    ('1,234.568', '0.000123', '', '2004-03-10 18:00')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        text = f"{value:,.3f}" if abs(value) >= 1 else f"{value:.3g}"
        return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
    if isinstance(value, int):
        return f"{value:,}"
    return _TIME.sub(r"\1 \2\3", str(value))


def moment(at: object) -> str:
    """Write a moment in words; whatever is none stays as it is.

    >>> moment("2004-03-10T18:00:00"), moment("2026-11-24T13:44:33+00:00"), moment("2004-03-10")
    ('10 March 2004, 18:00', '24 November 2026, 13:44 UTC', '10 March 2004')
    """
    try:
        known = datetime.fromisoformat(str(at))
    except ValueError:
        return str(at)
    day = f"{known.day} {known:%B %Y}"
    return day if len(str(at)) == 10 else f"{day}, {known:%H:%M}{' UTC' if known.tzinfo else ''}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cell": cell, "moment": moment}
    return environment


def render(name: str, **values: Any) -> str:
    """Fill a template.

    Args:
        name: The file's, beside this one.
        values: What the template names.
    """
    return _UNWRITABLE.sub("", _environment().get_template(name).render(**values))
