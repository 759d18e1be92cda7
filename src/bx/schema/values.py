"""Texts and numbers for the keywords of a JSON Schema: the shortest and the smallest first.

They are proposals, which the caller validates: of regular expressions only what all dialects share is understood, and
look-around and word boundaries are passed over. This module knows nothing of objects, arrays and combinations.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SAMPLES = {
    "date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "time": "00:00:00Z", "duration": "P1D",
    "email": "a@example.com", "idn-email": "a@example.com", "hostname": "example.com", "idn-hostname": "example.com",
    "ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "uri": "https://example.com", "uri-reference": "/a",
    "iri": "https://example.com", "iri-reference": "/a", "uuid": "00000000-0000-4000-8000-000000000000",
    "regex": "a", "json-pointer": "/a", "relative-json-pointer": "0", "uri-template": "/a",
}  # fmt: skip
_LONGER = {"email": "{}@example.com", "uri": "https://example.com/{}"}  # where a text may be made longer
_NUMBERS = 250  # proposals
_VARIANTS = 40
_DEEPEST = 50  # groups within groups
_LONGEST = 2_000  # characters of an expression, and of a text
_ESCAPES = {
    "d": "0123456789", "w": "abcdefghijklmnopqrstuvwxyz0123456789_", "s": " \t", "D": "a-", "W": "- ",
    "S": "abcdefghijklmnopqrstuvwxyz", "t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0",
}  # fmt: skip
_PROPERTIES = {"Lu": "ABC", "N": "012", "Nd": "012", "P": "-.", "S": "+", "Z": " ", "Zs": " "}  # all else: letters
_ANY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ -_./:@#,;!?+*()[]{}<>=&%$'\"\\|~^`äé中"
_NOTHING = ("^", "$")


def strings(plain: dict[str, Any]) -> Iterator[str]:
    """Propose texts for `format`, `pattern` and `minLength`."""
    least = int(plain.get("minLength", 0))
    form = plain.get("format")
    if form in _SAMPLES:
        yield _SAMPLES[form]
        yield from (_LONGER.get(form, "{}").format("a" * length) for length in range(least, least + 20))
    if "pattern" in plain:
        yield from (text.ljust(least, "a") for text in matches(plain["pattern"], least))
    yield "a" * least
    yield from (f"a{number}".ljust(least, "a") for number in range(_LONGEST))


def integers(plain: dict[str, Any]) -> Iterator[int]:
    """Propose whole numbers for the bounds and `multipleOf`."""
    step = Fraction(str(plain.get("multipleOf", 1)))
    yield from (int(number) for number in _multiples(Fraction(step.numerator), plain))


def numbers(plain: dict[str, Any]) -> Iterator[float]:
    """Propose numbers, whole ones first, for the bounds and `multipleOf`."""
    found = _multiples(Fraction(str(plain.get("multipleOf", 1))), plain)
    if "multipleOf" not in plain:
        least, most = _bounds(plain)
        start, stop = (least or Fraction(0), most) if most is not None else (least or Fraction(0), (least or 0) + 1)
        if least is None and most is not None:
            start = most - 1
        between = (start + (stop - start) * Fraction(at, 64) for at in (32, *range(65)))
        found = itertools.chain(itertools.islice(found, 3), between, found)
    for number in found:
        if _within(number, plain):
            yield int(number) if number.denominator == 1 else float(number)


def _multiples(step: Fraction, plain: dict[str, Any]) -> Iterator[Fraction]:
    """Yield the multiples within the bounds, the nearest to 0 first."""
    least, most = _bounds(plain)
    start = 0 if least is None else max(0, math.ceil(least / step))
    start = start if most is None else min(start, math.floor(most / step))
    for away in range(_NUMBERS):
        for factor in (start + away, start - away)[: 1 + bool(away)]:
            if _within(factor * step, plain):
                yield factor * step


def _bounds(plain: dict[str, Any]) -> tuple[Fraction | None, Fraction | None]:
    return _bound(plain, "minimum", "exclusiveMinimum", max), _bound(plain, "maximum", "exclusiveMaximum", min)


def _bound(plain: dict[str, Any], keyword: str, exclusive: str, narrower: Callable[..., Fraction]) -> Fraction | None:
    # Before Draft 6 the exclusive one is a boolean, and Python's booleans are numbers.
    given = (plain.get(name) for name in (keyword, exclusive))
    found = [
        Fraction(str(value)) for value in given if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    return narrower(found) if found else None


def _within(number: Fraction, plain: dict[str, Any]) -> bool:
    least, most = _bounds(plain)
    for bound, keyword, beyond in ((least, "exclusiveMinimum", -1), (most, "exclusiveMaximum", 1)):
        exclusive = plain.get(keyword)
        is_out = exclusive is True or (
            exclusive is not None and exclusive is not False and Fraction(str(exclusive)) == bound
        )
        if bound is not None and ((number - bound) * beyond > 0 or (number == bound and is_out)):
            return False
    return True


def matches(expression: str, length: int = 0) -> Iterator[str]:
    """Propose texts that match: first the shortest, then one of about `length` characters, then others.

    An expression that cannot be read has none.
    """
    if len(expression) > _LONGEST:
        return
    try:
        yield _Reader(expression, 0, 0).text()
        yield _Reader(expression, length, 0).text()
        for variant in range(1, _VARIANTS):
            yield _Reader(expression, variant % 3, variant).text()
            yield _Reader(expression, length, variant).text()
            if not expression.endswith("$"):
                yield f"{_Reader(expression, 0, 0).text()}{variant}"
    except (ValueError, IndexError):
        return


class _Reader:
    """Goes through an expression once, and writes a text meanwhile."""

    def __init__(self, expression: str, extra: int, variant: int) -> None:
        self._rest = expression
        self._at = 0
        self._extra = extra  # how often more than it must an open repetition is written
        self._variant = variant  # which of several characters or alternatives is taken
        self._depth = 0

    def text(self) -> str:
        text = self._alternatives()
        if self._at < len(self._rest):
            raise ValueError(self._rest)
        return text

    def _peek(self) -> str:
        return self._rest[self._at : self._at + 1]

    def _taken(self, mark: str) -> bool:
        found = self._rest.startswith(mark, self._at)
        self._at += len(mark) if found else 0
        return found

    def _chosen(self, options: str | list[str]) -> str:
        return options[self._variant % len(options)]

    def _alternatives(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(self._rest)
        options = [self._sequence()]
        while self._taken("|"):
            options.append(self._sequence())
        self._depth -= 1
        return self._chosen(options)

    def _sequence(self) -> str:
        text = ""
        while self._peek() not in ("", "|", ")"):
            text += self._repeated(self._atom())
            if len(text) > _LONGEST:
                raise ValueError(self._rest)
        return text

    def _repeated(self, text: str) -> str:
        least, most = 1, 1
        if self._taken("*"):
            least, most = 0, _LONGEST
        elif self._taken("+"):
            least, most = 1, _LONGEST
        elif self._taken("?"):
            least, most = 0, 1
        elif self._peek() == "{":
            least, most = self._braces()
        else:
            return text
        self._taken("?")
        return text * min(max(least, min(most, least + self._extra)), _LONGEST)

    def _braces(self) -> tuple[int, int]:
        end = self._rest.find("}", self._at)
        least, comma, most = self._rest[self._at + 1 : end].partition(",")
        if end < 0 or not least.isdecimal() or (most and not most.isdecimal()):
            raise ValueError(self._rest)
        self._at = end + 1
        return int(least), int(most) if most else _LONGEST if comma else int(least)

    def _atom(self) -> str:
        sign = self._peek()
        self._at += 1
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._chosen(self._class())
        if sign == "\\":
            return self._chosen(self._escaped()) if self._peek() not in ("b", "B", "A", "Z", "z") else self._skipped()
        if sign in _NOTHING:
            return ""
        return self._chosen(_ANY) if sign == "." else sign

    def _skipped(self) -> str:
        self._at += 1
        return ""

    def _group(self) -> str:
        silent = False
        if self._taken("?"):
            if self._taken("<=") or self._taken("<!") or self._taken("=") or self._taken("!"):
                silent = True
            elif self._taken("<") or self._taken("P<"):
                self._at = self._rest.index(">", self._at) + 1
            elif not self._taken(":"):
                raise ValueError(self._rest)
        text = self._alternatives()
        if not self._taken(")"):
            raise ValueError(self._rest)
        return "" if silent else text

    def _escaped(self) -> str:
        """Read what follows a backslash: the characters that it stands for."""
        sign = self._rest[self._at]
        self._at += 1
        if sign in ("p", "P"):
            name = self._braced()
            return "012-" if sign == "P" else _PROPERTIES.get(name, "abc")
        if sign in ("x", "u"):
            width = 2 if sign == "x" else 4
            digits = self._braced() if self._peek() == "{" else self._rest[self._at : self._at + width]
            self._at += 0 if self._rest[self._at - 1] == "}" else width
            return chr(int(digits, 16))
        if sign.isdecimal() and sign != "0":
            raise ValueError(self._rest)  # a reference to a group
        return _ESCAPES.get(sign, sign)

    def _braced(self) -> str:
        end = self._rest.index("}", self._at)
        inside = self._rest[self._at + 1 : end]
        self._at = end + 1
        return inside

    def _class(self) -> str:
        """Read `[...]`: some of the characters that it admits."""
        negated, found = self._taken("^"), ""
        while not self._taken("]") or not (found or negated):
            first = self._member()
            if self._peek() == "-" and self._rest[self._at + 1] != "]":
                self._at += 1
                last = self._member()
                stop = min(ord(last[0]), ord(first[0]) + 300)
                first = "".join(map(chr, range(ord(first[0]), stop + 1)))
            found += first
        if negated:
            found = "".join(sign for sign in _ANY if sign not in found)
        if not found:
            raise ValueError(self._rest)
        return found

    def _member(self) -> str:
        sign = self._rest[self._at]
        self._at += 1
        return self._escaped() if sign == "\\" else sign


OF_TYPE: dict[str, Callable[[dict[str, Any]], Iterator[Any]]] = {
    "string": strings,
    "integer": integers,
    "number": numbers,
}
