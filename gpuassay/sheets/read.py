"""Reading sheets: the shipped ones, a user's file, and everything that may be wrong with either."""

from __future__ import annotations

import difflib
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from .lines import line_numbers, line_of
from .model import Complaint, Sheet, Unpublished, complaints, key_text, normal, one_line, quote

#: A sheet is a page or two of text; anything larger is a mistake, and parsing it wastes memory.
MAX_BYTES = 1_000_000
_DEEPEST = 50  # tables and lists inside each other; a sheet needs three levels

_LIST_COMMAND = "gpuassay sheets"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a sheet's file. `line` counts from 1; it and `key` are None for the whole file."""

    file: str
    line: int | None
    key: str | None
    found: str
    remedy: str

    @property
    def text(self) -> str:
        """What was found, and what would be right, at which key."""
        subject = "" if self.key is None else f"{self.key} "
        sentence = f"{subject}{self.found}; {self.remedy}"
        return one_line(sentence if sentence.endswith(("?", ".")) else sentence + ".")

    def __str__(self) -> str:
        """The same after file and line, as one line of text."""
        where = self.file if self.line is None else f"{self.file}, line {self.line}"
        return one_line(f"{where}{' ' if self.key is None else ': '}{self.text}")


class SheetError(Exception):
    """A sheet that cannot be used. The message is one sentence: where, what, and what to do.

    `problems` are those of the file, all of them; empty where no file is at fault.
    """

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(one_line(message))
        self.problems = problems


def _refuse(problems: Iterable[Problem]) -> NoReturn:
    """Raises `SheetError` about the first problem, and says how many more there are."""
    every = tuple(problems)
    message = str(every[0])
    if len(every) > 1:
        message += f" ({len(every) - 1} more: see `{_LIST_COMMAND} check`)"
    raise SheetError(message, every)


def _bad_file(file: str, found: str, remedy: str, line: int | None = None) -> NoReturn:
    _refuse([Problem(file, line, None, found, remedy)])


# --- files ------------------------------------------------------------------------------------


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        # Decimal keeps the digits as printed; a float would turn 4.0 into 4 and 989.4 into noise.
        data = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError) as error:
        # Beside its own error tomllib lets Python's limit on the digits of an integer through.
        # That complaint goes on with advice to programmers, which a sheet's author cannot use.
        problem = str(error).partition(";")[0]
        at = re.search(r" \(at line (\d+), column \d+\)$", problem)
        _bad_file(where, f"is not valid TOML: {problem}", "correct it there", int(at[1]) if at else None)
    except RecursionError:
        _bad_file(where, "is not valid TOML: nested too deeply", "a sheet needs three levels")
    # Tables of hundreds of levels are valid TOML, but Python's stack ends where they are shown or walked.
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
    if level:
        _bad_file(where, f"nests more than {_DEEPEST} tables or lists", "a sheet needs three levels")
    return data


def located(found: Iterable[Complaint], text: str, where: str) -> list[Problem]:
    """Complaints as problems of a file's text. A lone figure is named without its index."""
    lines = line_numbers(text)
    result = []
    for location, what, remedy in found:
        figure = location[:1] in (("published",), ("silicon",)) and location[2:3] == (0,)
        lone = figure and (*location[:2], 1) not in lines
        key = key_text((*location[:2], *location[3:]) if lone else location)
        result.append(Problem(where, line_of(location, lines), key or "the file", what, remedy))
    return result


def parse_sheet(text: str, where: str) -> Sheet:
    """The sheet in a file's text. Raises `SheetError` with all problems."""
    data = _parse_toml(text, where)
    if "unpublished" in data:
        found = "lists names that were never published, so this is not a sheet"
        _refuse([Problem(where, None, "unpublished", found, f"pick a sheet from `{_LIST_COMMAND}`")])
    try:
        return Sheet.model_validate(data)
    except ValidationError as error:
        _refuse(located(complaints(error), text, where))


def read_text(path: Path) -> str:
    """The text of a file that a user named. Raises `SheetError` for whatever is wrong with it."""
    where = str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            _bad_file(where, "is a directory", "name one .toml file in it")
        # A named pipe or device would block or never end.
        if not stat.S_ISREG(status.st_mode):
            _bad_file(where, "is not a regular file", "name a .toml file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        _bad_file(where, "does not exist", f"check the path, or pick a name from `{_LIST_COMMAND}`")
    except OSError as error:
        _bad_file(where, f"cannot be read ({error.strerror or error})", "check path and permissions")
    except ValueError as error:  # a NUL character in the name
        _bad_file(where, f"cannot be a file name ({error})", "check the path")
    if len(raw) > MAX_BYTES:
        _bad_file(where, "is larger than 1 MB, so not a sheet", "name a sheet's .toml file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _bad_file(where, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8")


def _shipped_texts() -> dict[str, str]:
    """File name -> text of the sheets that ship beside this module."""
    folder = resources.files(__package__)
    return {
        item.name: item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda entry: entry.name.removesuffix(".toml"))
        if item.name.endswith(".toml")
    }


_UNPUBLISHED_FILE = "unpublished.toml"  # one folder up, so that every .toml of this one is a sheet


@cache
def _shipped() -> tuple[Sheet, ...]:
    sheets = tuple(parse_sheet(text, file) for file, text in _shipped_texts().items())
    for index, sheet in enumerate(sheets):
        for complaint in claimed_twice(sheet, sheets[:index]):
            raise SheetError(f"The sheet {sheet.name} {complaint.found}; {complaint.remedy}.")
    return sheets


@cache
def _shipped_unpublished() -> tuple[Unpublished, ...]:
    package = (__package__ or "").rpartition(".")[0]
    text = resources.files(package).joinpath(_UNPUBLISHED_FILE).read_text(encoding="utf-8")
    data = _parse_toml(text, _UNPUBLISHED_FILE)
    try:
        return tuple(
            Unpublished.model_validate({**entry, "name": name, "sources": data.get("sources", {})})
            for name, entry in data["unpublished"].items()
        )
    except ValidationError as error:
        _refuse(located(complaints(error), text, _UNPUBLISHED_FILE))


def claimed_twice(sheet: Sheet, others: Iterable[Sheet]) -> Iterator[Complaint]:
    """Each name and PCI id that another sheet claims as well: the answer would hang on the order of files."""
    remedy = "remove it from one of them"
    for other in others:
        theirs = {normal(name) for name in (other.name, *other.aliases)}
        for location, name in ((("name",), sheet.name), *((("aliases", i), a) for i, a in enumerate(sheet.aliases))):
            if normal(name) in theirs:
                yield Complaint(location, f"claims the name {normal(name)}, and so does {other.name}", remedy)
        for index, pci in enumerate(sheet.identity.pci_device_ids):
            if pci in other.identity.pci_device_ids:
                location = ("identity", "pci_device_ids", index)
                yield Complaint(location, f"claims the PCI id {pci}, and so does {other.name}", remedy)


# --- public functions -------------------------------------------------------------------------


def all_sheets() -> list[Sheet]:
    """Every shipped sheet, in the order of their file names.

    Raises `SheetError` if one is broken, or if two claim the same PCI id or name.
    """
    return list(_shipped())


def names() -> list[str]:
    """The names of the shipped sheets, as `load` takes them."""
    return [sheet.name for sheet in _shipped()]


def unpublished(name: str) -> Unpublished | None:
    """The answer for a name that was never published (such as "L10"), or None for any other."""
    wanted = normal(name)
    for entry in _shipped_unpublished():
        if wanted in {normal(known) for known in (entry.name, *entry.aliases)}:
            return entry
    return None


def load(name_or_path: str) -> Sheet:
    """The shipped sheet of that name or alias (in any case), or the sheet in a .toml file.

    A name goes before a file of the same name; to force the file, write ``./name.toml``.
    Raises `SheetError`, never anything else, for an unknown name, an unreadable file or a broken
    sheet.
    """
    wanted = normal(name_or_path)
    known: dict[str, Sheet] = {}
    for sheet in _shipped():
        for name in (sheet.name, *sheet.aliases):
            known[normal(name)] = sheet
    if wanted in known:
        return known[wanted]

    if _looks_like_path(name_or_path):
        path = Path(name_or_path)
        return parse_sheet(read_text(path), str(path))

    never = unpublished(name_or_path)
    if never is not None:
        offers = f"try {' or '.join(never.offers)}, or see" if never.offers else "see"
        raise SheetError(
            f"{quote(name_or_path)} has no sheet: {never.statement.rstrip('.')};"
            f" {offers} `{_LIST_COMMAND} {never.name}`."
        )
    # "H100" is short for two parts: what begins like it goes before what merely looks like it.
    near = [name for name in known if wanted and name.startswith(f"{wanted}-")]
    # A long text has no near match worth the time that difflib would take to say so.
    near = near or difflib.get_close_matches(wanted[:80], list(known), n=3, cutoff=0.5)
    matches = list(dict.fromkeys(known[name].name for name in near))
    hint = f"did you mean {' or '.join(matches)}?" if matches else "no name is near it."
    raise SheetError(f"No sheet is called {quote(name_or_path)} (`{_LIST_COMMAND}` lists them all): {hint}")


def _looks_like_path(text: str) -> bool:
    if text.lower().endswith(".toml") or "/" in text or "\\" in text:
        return True
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False
