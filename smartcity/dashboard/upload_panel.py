"""The page's place for a visitor's own table: chosen, checked, answered, taken away, forgotten."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anywidget
import traitlets

from smartcity.dashboard import snapshot, upload
from smartcity.dashboard.upload import Answered, Layout, UploadError
from smartcity.dashboard.words import english
from smartcity.predict import Predictor

#: Rows shown of those set aside and of those answered, reasons counted, characters of a cell.
_REFUSED, _ANSWERED, _REASONS, _CELL = 50, 20, 10, 60
#: What can be told of how a file is written.
_WRITTEN = ("encoding", "delimiter", "decimal", "header")
#: Largest message.
_PART = 4_000_000
_DOWNLOADS: dict[str, tuple[Callable[[Answered], bytes], str, str]] = {
    "csv": (upload.as_csv, "{}-answers.csv", "text/csv"),
    "parquet": (upload.as_parquet, "{}-answers.parquet", "application/vnd.apache.parquet"),
    "xlsx": (
        upload.as_xlsx,
        "{}-answers.xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    "refused": (upload.refused_as_csv, "{}-set-aside.csv", "text/csv"),
}
_EXAMPLES = {
    "sample": (upload.sample, "simulated-{}.csv"),
    "broken": (upload.broken, "simulated-{}-broken.csv"),
}
WORDS = english("upload")


class UploadPanel(anywidget.AnyWidget):
    """Where a visitor's file goes in and its answers come out.

    Attributes:
        words: What the script says itself.
        choices: What can be chosen: fields, delimiters, decimal marks, encodings; and the limits.
        view: What is shown of the file, empty while there is none.
    """

    _esm = snapshot.STATIC / "upload.js"
    words = traitlets.Dict().tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, predictor: Predictor, say: Callable[[str], str] = str) -> None:
        """Wait for a file.

        Args:
            predictor: What answers.
            say: Says an English text in the reader's language.
        """
        self._predictor, self._say = predictor, say
        self._fields = upload.fields(predictor.domain)
        self._turn = 0
        self._forget()
        super().__init__(
            words={name: say(text) for name, text in WORDS.items()},
            choices={
                "fields": [
                    [spec.name, say(spec.label), spec.unit and say(spec.unit), not spec.optional]
                    for spec in self._fields.values()
                ],
                "delimiter": upload.DELIMITERS,
                "decimal": upload.DECIMALS,
                "encoding": upload.ENCODINGS,
                "header": (True, False),
                "bytes": upload.MAX_BYTES,
                "rows": upload.MAX_ROWS,
                "too_large": say(upload.TEXTS["too_large"]),
            },
        )
        self.on_msg(self._told)

    def _told(self, _: object, content: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        """Do what the script asks for."""
        kind, name = content.get("kind"), str(content.get("name", ""))
        if kind == "file" and buffers:
            self._take(_short(name), bytes(buffers[0]))
        elif kind == "example" and name in _EXAMPLES:
            make, name = _EXAMPLES[name]
            self._take(name.format(self._predictor.domain.slug), make(self._predictor))
        elif kind == "layout":
            self._change(content)
        elif kind == "download":
            self._give(name, content.get("to"))
        elif kind == "clear":
            self._forget()
            self.view = {"turn": self._turn}

    def _forget(self) -> None:
        self._turn += 1
        self._name, self._content = "", b""
        self._given: dict[str, Any] = {}
        self._layout: Layout | None = None
        self._done: Answered | None = None

    def _take(self, name: str, content: bytes) -> None:
        self._forget()
        self._name, self._content = name, content
        self._show(self._guess)

    def _guess(self) -> Layout:
        return upload.guess(self._content, self._predictor.domain, **self._given)

    def _change(self, content: Mapping[str, Any]) -> None:
        """Read the file with other columns chosen, or written otherwise than guessed."""
        known, asked = self._layout, content.get("mapping")
        if known is None:
            return
        if isinstance(asked, Mapping):
            width = range(len(known.columns))
            mapping = {name: asked[name] for name in self._fields if asked.get(name) in width}
            self._show(lambda: replace(known, mapping=mapping, notes=()))
            return
        told = {name: content[name] for name in _WRITTEN if name in content}
        self._given |= {n: value for n, value in told.items() if value in self.choices[n]}
        self._show(lambda: self._keep(known, self._guess()))

    @staticmethod
    def _keep(known: Layout, new: Layout) -> Layout:
        """Keep what columns were chosen for, where they are still the same."""
        return new if new.columns != known.columns else replace(new, mapping=known.mapping)

    def _show(self, laid: Callable[[], Layout]) -> None:
        """Answer the file as laid out, and show what came of it, or what is wrong."""
        self._done, wrong = None, None
        try:
            self._layout = laid()
            self._done = upload.answer(self._content, self._layout, self._predictor)
        except UploadError as error:
            wrong = self._message(error.text, error.values)
        self._turn += 1
        view: dict[str, Any] = {"turn": self._turn, "name": self._name, "error": wrong}
        if known := self._layout:
            view["layout"] = {name: getattr(known, name) for name in _WRITTEN}
            view["layout"] |= {"columns": list(map(_short, known.columns))}
            view["layout"] |= {"mapping": dict(known.mapping)}
            view["notes"] = [self._message(upload.TEXTS[text], v) for text, v in known.notes]
        self.view = view | (self._result(self._done) if self._done else {})

    def _result(self, done: Answered) -> dict[str, Any]:
        answered, refused, reasons = len(done.rows), len(done.refused), done.reasons()
        problems = [(row.line, *problem) for row in done.refused for problem in row.problems]
        return {
            "counts": {"total": answered + refused, "answered": answered, "refused": refused},
            "reasons": [
                [f"{self._named(column)}: {self._say(why)}", count]
                for column, why, count in reasons[:_REASONS]
            ],
            "more_reasons": max(0, len(reasons) - _REASONS),
            "problems": [
                [line, self._named(column), _short(cell), self._say(why)]
                for line, column, cell, why in problems[:_REFUSED]
            ],
            "all_problems": len(problems),
            "answers": [self._answer(done, n) for n in range(min(answered, _ANSWERED))],
            "columns": self._columns(done),
        }

    def _named(self, column: str) -> str:
        return self.words["row"] if column == "row" else _short(column)

    def _columns(self, done: Answered) -> list[str]:
        """Name the columns of the table of answers: what was said, and what was asked."""
        target, places = self._predictor.domain.target, done.layout.mapping.values()
        figures = ["confidence", "mind"] if target.levels else ["low", "high", "confidence", "mind"]
        own = [_short(done.names[place]) for place in places]
        answer = ", ".join(self._say(text) for text in (target.label, target.unit) if text)
        said = [answer, *map(self.words.get, figures)]
        return [self.words["line"], *said, *own]

    def _answer(self, done: Answered, n: int) -> list[Any]:
        """Give a row of that table; a share is an object, so that it is shown as one."""
        row, warnings = done.rows[n], done.warnings[n]
        said = dict(zip(upload.ANSWER, row[len(done.layout.columns) :], strict=True))
        own = [row[place] for place in done.layout.mapping.values()]
        own = [_short(cell) if isinstance(cell, str) else cell for cell in own]
        figures = [said["prediction"], said["low"], said["high"]]
        figures = [self._say(said["label"])] if said["label"] else figures
        mind = [*map(self._say, warnings)]
        if said["inputs_at_edge"]:
            names = [self._say(self._fields[n].label) for n in said["inputs_at_edge"].split(", ")]
            mind.append(self.words["edge"].format(inputs=", ".join(names)))
        return [done.lines[n], *figures, {"share": said["confidence"]}, " ".join(mind), *own]

    def _message(self, text: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Say a text; what stands in its gaps is written by the script, as the reader writes it."""
        said = {
            name: ", ".join(map(self._say, value)) if isinstance(value, tuple) else value
            for name, value in values.items()
        }
        return {"text": self._say(text), "values": said}

    def _give(self, what: str, to: object) -> None:
        """Send a file in parts to the view that asked."""
        slug = self._predictor.domain.slug
        if what in _EXAMPLES:
            make, name = _EXAMPLES[what]
            content, kind = make(self._predictor), "text/csv"
        elif what in _DOWNLOADS and self._done:
            write, name, kind = _DOWNLOADS[what]
            content = write(self._done)
        else:
            return
        parts = [content[n : n + _PART] for n in range(0, len(content), _PART)]
        about = {"kind": "download", "to": to, "name": name.format(slug), "type": kind}
        for n, part in enumerate(parts):
            self.send({**about, "part": n, "parts": len(parts)}, buffers=[part])


def _short(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
