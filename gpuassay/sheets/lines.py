"""On which line of a TOML file each key stands.

tomllib gives no positions for valid TOML. Of the parsers that do, tomlkit keeps positions to itself, and the rest are
unkept or have no wheels; a check that runs once per file in error needs no dependency. So each statement is cut out
and given to tomllib alone, which knows where a statement ends and how its keys are quoted.
"""

from __future__ import annotations

import tomllib
from typing import Any

#: Statements of more lines than this are taken for one that never ends, and the search stops.
_LONGEST = 500


def line_numbers(text: str) -> dict[tuple[int | str, ...], int]:
    """Location of each table, key and element of valid TOML -> its line, counted from 1.

    What stands inside a statement of several lines has the statement's first line; a table that has no header of its
    own, and a list of tables, the line of the first one inside.
    """
    found: dict[tuple[int | str, ...], int] = {(): 1}
    last: dict[tuple[int | str, ...], int] = {}  # list of tables -> index of the newest
    table: tuple[int | str, ...] = ()
    pending: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        pending.append(line)
        try:
            data = tomllib.loads("\n".join(pending))
        except (ValueError, RecursionError):
            if len(pending) > _LONGEST:
                break
            continue
        start = number - len(pending) + 1
        header = pending[0].lstrip().startswith("[")
        pending = []
        if not data:
            continue
        if header:
            table = _header(data, last)
            found[table] = start
            for length in range(1, len(table)):  # what the header opens on its way
                found.setdefault(table[:length], start)
        else:
            _inside(data, table, start, found)
    return found


def _header(data: Any, last: dict[tuple[int | str, ...], int]) -> tuple[int | str, ...]:
    """The table that a header opens, each list of tables on the way with the index that TOML means."""
    path: tuple[int | str, ...] = ()
    while isinstance(data, dict) and data:
        key, data = next(iter(data.items()))
        path = (*path, key)
        if isinstance(data, list):  # [[...]]: one more of these
            last[path] = last.get(path, -1) + 1
            return (*path, last[path])
        if path in last:
            path = (*path, last[path])
    return path


def _inside(data: Any, path: tuple[int | str, ...], line: int, found: dict[tuple[int | str, ...], int]) -> None:
    for key, value in enumerate(data) if isinstance(data, list) else data.items():
        found.setdefault((*path, key), line)
        if isinstance(value, dict | list):
            _inside(value, (*path, key), line, found)


def line_of(location: tuple[int | str, ...], found: dict[tuple[int | str, ...], int]) -> int:
    """The line of a location, or of what it lies in where it does not stand in the file."""
    while location not in found:
        location = location[:-1]
    return found[location]
