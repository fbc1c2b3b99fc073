"""The page's place to ask for a report: its parameters, checked while they are set."""

import shlex
from typing import Any

import anywidget
import traitlets

from smartcity import domains, parameters, runs, settings
from smartcity.dashboard import snapshot
from smartcity.dashboard.words import Words
from smartcity.errors import SmartCityError, StorageError, UsageError
from smartcity.parameters import Parameter

_REPORT = "05_report"
#: Longest text taken from a browser.
_CHARACTERS = 60
#: What a parameter is called here, where its name says little.
_LABELS = {"domain": "Question", "as_of": "Up to"}
_MADE = "It is made within a minute where the scheduler runs; the list of reports shows it then."
_NOT_HERE = "Reports cannot be asked for here. The command makes it, where SmartCity is installed."


class Ask(anywidget.AnyWidget):
    """The parameters of the report as a form, and the command they stand for.

    Attributes:
        fields: How each parameter is asked for.
        values: Parameter -> text, as it was typed or chosen.
        problems: Parameter -> what is wrong with it.
        command: What makes the same report; empty while something is wrong.
        may_ask: Whether the page takes wishes.
        note: What became of the wish, if there is one.
        texts: What the script says itself.
    """

    _esm = snapshot.STATIC / "ask.js"
    fields: Any = traitlets.List().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    problems = traitlets.Dict().tag(sync=True)
    command = traitlets.Unicode().tag(sync=True)
    may_ask = traitlets.Bool().tag(sync=True)
    note = traitlets.Unicode().tag(sync=True)
    texts = traitlets.Dict().tag(sync=True)

    def __init__(self, words: Words, **traits: Any) -> None:
        """Ask for what the report takes.

        Args:
            words: The language.
            traits: Those of any widget.

        Raises:
            UsageError: There is no such notebook, or its parameters cannot be read.
        """
        self._words = words
        self._notebook = parameters.find(_REPORT)
        known = parameters.read(self._notebook)
        self._asked = {name: spec for name, spec in known.items() if _is_asked(spec)}
        super().__init__(
            may_ask=settings.current().dashboard_requests,
            texts=words.texts("ask"),
            values={name: _text(spec.default) for name, spec in self._asked.items()},
            **traits,
        )
        self._judge()
        self.observe(self._judge, "values")
        self.on_msg(self._told)

    def _judge(self, _: object = None) -> None:
        """Say what is wrong with the values, or what makes the report they describe."""
        self.note = ""
        self.fields = [self._field(spec) for spec in self._asked.values()]
        try:
            values = self._checked()
        except UsageError as error:
            self.command = ""
            self.problems = self._faults() or {"domain": self._words.say(str(error))}
            return
        self.problems = {}
        given = {n: values[n] for n, s in self._asked.items() if values[n] != s.default}
        given["domain"] = values["domain"]
        pairs = [part for n, v in given.items() if n != "domain" for part in ("-p", n, _text(v))]
        self.command = shlex.join(
            ["smartcity", "report", "run", _REPORT, "--domain", values["domain"], *pairs]
        )

    def _given(self) -> dict[str, str]:
        """Take from the browser what is asked for and nothing else."""
        return {name: str(self.values.get(name, ""))[:_CHARACTERS] for name in self._asked}

    def _checked(self) -> dict[str, Any]:
        return parameters.check(self._notebook, self._given())

    def _faults(self) -> dict[str, str]:
        """Find what is wrong with each value by itself; a site is one of its question's."""
        given, found = self._given(), {}
        for name in given:
            needed = {name, "domain"} if name == "site" else {name}
            try:
                parameters.check(self._notebook, {n: given[n] for n in given if n in needed})
            except UsageError as error:
                found[name] = self._words.say(str(error))
        return found

    def _told(self, _: object, content: object, __: object) -> None:
        """Note the wish, or say why not."""
        if content == "ask":
            self.note = self._words.say(self._wish())

    def _wish(self) -> str:
        if not settings.current().dashboard_requests:  # whatever a browser made of may_ask
            return _NOT_HERE
        try:
            runs.ask(_REPORT, self._checked())
        except StorageError:
            return _NOT_HERE
        except SmartCityError as error:
            return str(error)
        return _MADE

    def _field(self, spec: Parameter) -> dict[str, Any]:
        """Say how a parameter is asked for."""
        say, kind = self._words.say, "number"
        choices = {choice: choice for choice in spec.choices}
        if spec.name == "domain":
            choices = {name: domain.title for name, domain in domains.load_all().items()}
        elif spec.name == "site":
            choices = {site: site for site in self._sites()}
        elif spec.type == "bool":
            choices = {"true": "yes", "false": "no"}
        if choices or spec.kind == "date":
            kind = "choice" if choices else "date"
        return {
            "name": spec.name,
            "label": say(_LABELS.get(spec.name, spec.name.replace("_", " ").capitalize())),
            "help": "" if choices else say(spec.help),
            "unit": say(spec.unit) if spec.unit else "",
            "kind": kind,
            "whole": spec.type == "int",
            "choices": [[value, say(shown)] for value, shown in choices.items()],
            "low": spec.low,
            "high": spec.high,
        }

    def _sites(self) -> tuple[str, ...]:
        try:
            return domains.load(str(self.values.get("domain"))).sites
        except UsageError:
            return ()


def _is_asked(spec: Parameter) -> bool:
    """Leave out what the runner fills in, and free text: what is typed here is always checked."""
    is_free = spec.type == "list[str]" or (spec.type == "str" and not spec.choices)
    return spec.kind == "date" or (spec.kind == "plain" and (not is_free or spec.name == "site"))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
