"""Text from outside, made safe to show: what a stranger's file, a file's name or a device's firmware says."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with "?" for each character that prints nothing by itself: escape sequences that drive a terminal, marks
    that reverse the direction of writing, lone surrogates. Line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def cell(value: object) -> object:
    """A cell of a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe instead."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
