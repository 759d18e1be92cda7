"""Tables and bars of text, for the terminal."""

from __future__ import annotations

import unicodedata
from itertools import starmap
from typing import TYPE_CHECKING

from bx.cli.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_GAP = "  "
_SHORTEST = 4  # columns of a text that was shortened
_EIGHTHS = "▏▎▍▌▋▊▉█"
_LEAST_BAR = 20  # columns


def table(
    rows: Sequence[Sequence[str]], numbers: Collection[int] = (), width: int = 0, least: int = _SHORTEST
) -> list[str]:
    """Return the lines of a table, the first row being its head.

    Args:
        rows: the cells.
        numbers: which columns stand on the right.
        width: what there is room for, 0 for any; texts are shortened in their middle as far as that helps.
        least: how short a column of texts may become.
    """
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    if width:
        _narrow(widths, [index for index in range(len(widths)) if index not in numbers], width, least)
    sides = [">" if index in numbers else "<" for index in range(len(widths))]
    return [_GAP.join(starmap(_filled, zip(row, widths, sides, strict=True))).rstrip() for row in cells]


def fits(lines: Sequence[str], width: int) -> bool:
    """Whether lines have room; there is room for any where the width is 0."""
    return not width or all(_columns(line) <= width for line in lines)


def bars(rows: Sequence[tuple[str, float, str]], width: int = 0) -> list[str]:
    """Return a line for each label, its value as a bar, and what to write behind it."""
    most = max((value for _, value, _ in rows), default=0)
    labels = max((_columns(_plain(label)) for label, _, _ in rows), default=0)
    behind = max((_columns(text) for _, _, text in rows), default=0)
    room = (width or 80) - behind - 2 * len(_GAP)
    labels = min(labels, max(room - _LEAST_BAR, _SHORTEST))
    length = max(room - labels, _LEAST_BAR)
    return [
        f"{_filled(_plain(label), labels)}{_GAP}{_bar(value / most if most else 0, length)}{_GAP}{text:>{behind}}"
        for label, value, text in rows
    ]


def _narrow(widths: list[int], texts: Sequence[int], width: int, least: int) -> None:
    """Take from the widest columns of texts until all have room."""
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while over > 0 and texts:
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= least:
            return
        widths[widest], over = widths[widest] - 1, over - 1


def _bar(share: float, length: int) -> str:
    eighths = max(round(share * length * 8), 1 if share else 0)
    whole, rest = divmod(eighths, 8)
    return f"{'█' * whole + (_EIGHTHS[rest - 1] if rest else ''):<{length}}"


def _plain(text: str) -> str:
    """Keep a cell in its line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _filled(text: str, width: int, side: str = "<") -> str:
    text = _shortened(text, width)
    space = " " * (width - _columns(text))
    return space + text if side == ">" else text + space


def _shortened(text: str, width: int) -> str:
    """Take the middle out: ids and ARNs differ in their beginnings and ends."""
    if _columns(text) <= width:
        return text
    head, tail = (width - 1) // 2, width // 2
    while head and _columns(text[:head]) + _columns(text[-tail:]) + 1 > width:  # wide characters
        head, tail = head - 1, max(tail - 1, 1)
    return f"{text[:head]}…{text[-tail:]}"


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_advance(character) for character in text)


def _advance(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
