"""The concise form of a JSON Schema: `service, severity: sev1|sev2, minutes int, notes? str[] "one a line"`.

The grammar is in docs/concise.md. Every object is strict: all fields are required but those with a `?`, and there are
no others. This module knows no files and no models.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMATS = {
    "date": "date", "datetime": "date-time", "date-time": "date-time", "time": "time", "duration": "duration",
    "email": "email", "uri": "uri", "url": "uri", "uuid": "uuid", "ipv4": "ipv4", "ipv6": "ipv6",
    "hostname": "hostname",
}  # fmt: skip
_PLAIN = {
    "str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number",
    "number": "number", "bool": "boolean", "boolean": "boolean", "null": "null",
}  # fmt: skip
TYPES = (*_PLAIN, *_FORMATS)
_SOME = "Types are str, int, float, bool, null, and formats such as date, datetime, email, url"
# What other languages call it -> how it is written here.
_OTHERWISE = {
    **dict.fromkeys(("list", "array", "set", "tuple", "sequence"), "A list is written {0}[]"),
    "optional": "Write {0}|null for a value that may be null, and name? {0} for a field that may be left out",
    **dict.fromkeys(("dict", "object", "map"), "An object is written with its fields: {{name, minutes int}}"),
    **dict.fromkeys(("union", "literal", "enum"), "Choices are written a|b, and a value that may be null {0}|null"),
}

# Brackets within brackets, and `[]` in a row: together at most 80 levels of a schema, of which 100 can be used.
_DEEPEST, _MOST_LISTS = 10, 3
_WIDTH = 72  # of the part of the text that an error shows, in characters
_TOKEN = re.compile(
    r"""(?P<blank>[^\S\n]+) | (?P<line>\n) | (?P<word>[\w.$-]+) | (?P<mark>[][(){}|:,?])
    | (?P<text>"(?:[^"\\\n]|\\[^\n])*") | (?P<other>.)""",
    re.VERBOSE,
)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")  # longer digits are somebody's identifier
_CURLY = "“”„«»‘’'`"  # noqa: RUF001 # the quotes that an editor makes of straight ones


class ConciseError(ValueError):
    """The text is no schema in the concise form. The message shows the line, and a caret under the place."""

    exit_code = 2

    def __init__(self, message: str, fix: str, text: str, at: int) -> None:
        super().__init__(f"{message}\n{_pointed(text, at)}")
        self.fix = fix


class _Token(NamedTuple):
    kind: str  # "word", "text", "end", or the mark itself
    text: str
    at: int


def parse(text: str) -> dict[str, Any]:
    """Read the concise form of a schema, in linear time.

    Returns:
        A JSON Schema: an object, or an array when the text is in square brackets.

    Raises:
        ConciseError: shows the place that cannot be read.
    """
    return _Reader(text).schema()


def is_type(word: str) -> bool:
    """Whether a word is the name of a type, such as `int`."""
    return word in _PLAIN or word in _FORMATS


class _Reader:
    """Goes through the tokens of a text once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*self._scan()]
        self._index = 0
        self._depth = 0

    # ---- tokens -----------------------------------------------------------------------------------------------

    def _scan(self) -> Iterator[_Token]:
        """Yield tokens; of the new lines only those that separate two fields."""
        before, line = "{", None
        for match in _TOKEN.finditer(self._text):
            kind, text, at = str(match.lastgroup), match[0], match.start()
            if kind == "line":
                line = line or _Token(",", "\n", at)
            elif kind != "blank":
                if kind == "other":
                    raise self._unknown(text, at)
                kind = text if kind == "mark" else kind
                if line and before not in "{[(|:," and kind not in "}])|:,":
                    yield line
                yield _Token(kind, text, at)
                before, line = kind, None
        yield _Token("end", "", len(self._text))

    def _unknown(self, text: str, at: int) -> ConciseError:
        if text == '"':
            return self._error("This quote is never closed", 'Add a " on the same line', at)
        if text in _CURLY:
            return self._error(f"The quote {text} means nothing here", 'Use straight quotes: "', at)
        fix = "Put a name or a word with such a character in double quotes"
        return self._error(f"The character {text if text.isprintable() else ascii(text)} means nothing here", fix, at)

    def _error(self, message: str, fix: str, at: int | _Token) -> ConciseError:
        return ConciseError(message, fix, self._text, at.at if isinstance(at, _Token) else at)

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._index + ahead, len(self._tokens) - 1)]

    def _next(self) -> _Token:
        token = self._peek()
        self._index += 1
        return token

    def _taken(self, *kinds: str) -> bool:
        """Go past the next tokens if they are these."""
        found = all(self._peek(ahead).kind == kind for ahead, kind in enumerate(kinds))
        self._index += len(kinds) if found else 0
        return found

    def _open(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"More than {_DEEPEST} levels of brackets", "Use fewer levels, or a JSON Schema", token)

    def _close(self, opened: _Token) -> None:
        closing = {"{": "}", "[": "]", "(": ")"}[opened.kind]
        if self._peek().kind == "end":
            raise self._error(f"This {opened.kind} is never closed", f"Add a {closing}", opened)
        if not self._taken(closing):
            raise self._unexpected(closing)
        self._depth -= 1

    def _unexpected(self, closing: str) -> ConciseError:
        token, wanted = self._peek(), "a comma or a new line" + (f" or {closing}" if closing else "")
        if closing == ")":
            wanted = "| or )"
        fix = 'A field is a name, a type and a description in double quotes: minutes int "of downtime"'
        if token.kind == "?":
            fix = "The ? stands after the name of a field that may be left out: name? int"
        return self._error(f"Expected {wanted} here, not {_shown(token)}", fix, token)

    # ---- the grammar ------------------------------------------------------------------------------------------

    def schema(self) -> dict[str, Any]:
        """Read the whole text."""
        is_list = self._peek().kind == "["
        found = self._described(self._suffixed(self._array())) if is_list else self._object("end")
        if self._peek().kind != "end":
            raise self._unexpected("")
        return found

    def _object(self, closing: str) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required = []
        while self._peek().kind not in (closing, "end"):
            token = self._peek()
            name = self._name()
            if name in properties:
                raise self._error("A duplicate field name", "Give each field of an object a name of its own", token)
            if not self._taken("?"):
                required.append(name)
            properties[name] = self._described(self._field_type())
            if not self._taken(","):
                break
        if not properties and self._peek().kind == closing:
            raise self._error(
                "There are no fields here", "Name at least one, as in: service, minutes int", self._peek()
            )
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _name(self) -> str:
        token = self._next()
        if token.kind == "word":
            return token.text
        if token.kind == "text":
            return self._unquoted(token)
        fix = "Write fields as in: service, minutes int, owner {name, team}"
        raise self._error(f"Expected the name of a field here, not {_shown(token)}", fix, token)

    def _field_type(self) -> dict[str, Any]:
        after_colon = self._taken(":")
        token = self._peek()
        if token.kind == "text" and self._peek(1).kind != "|":
            if not after_colon:
                return {"type": "string"}
            fix = "Leave out the colon before a description; for a single choice give a JSON Schema"
            raise self._error("A description, or a single choice?", fix, token)
        if token.kind == "[" and self._peek(1).kind == "]":
            return self._suffixed({"type": "string"})
        if token.kind in ("word", "text", "[", "{", "(") or after_colon:
            return self._type()
        return {"type": "string"}

    def _described(self, schema: dict[str, Any]) -> dict[str, Any]:
        if self._peek().kind == "text":
            schema["description"] = self._unquoted(self._next())
        return schema

    def _type(self) -> dict[str, Any]:
        units = [self._unit()]
        while self._taken("|"):
            units.append(self._unit())
        return self._union(units) if len(units) > 1 else self._known(units[0])

    def _unit(self) -> _Token | dict[str, Any]:
        """Read one alternative: a bare word or a quoted one, which may be a choice, or what can only be a type."""
        token = self._peek()
        if token.kind in ("word", "text"):
            self._next()
            return self._suffixed(self._known(token)) if self._is_list() else token
        if token.kind == "[":
            return self._suffixed(self._array())
        if token.kind not in ("{", "("):
            raise self._error(f"Expected a type here, not {_shown(token)}", _SOME, token)
        self._open(self._next())
        found = self._object("}") if token.kind == "{" else self._type()
        self._close(token)
        return self._suffixed(found)

    def _is_list(self) -> bool:
        return self._peek().kind == "[" and self._peek(1).kind == "]"

    def _suffixed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Read any number of `[]`."""
        for _ in range(_MOST_LISTS):
            if not self._taken("[", "]"):
                return schema
            schema = {"type": "array", "items": schema}
        if self._is_list():
            raise self._error(f"More than {_MOST_LISTS} lists of lists", "Use fewer, or a JSON Schema", self._peek())
        return schema

    def _array(self) -> dict[str, Any]:
        """Read `[type]` or `[fields]`."""
        opened = self._next()
        self._open(opened)
        items = self._type() if self._is_type_ahead() else self._object("]")
        self._close(opened)
        return {"type": "array", "items": items}

    def _is_type_ahead(self) -> bool:
        """Whether a type comes next, and no field: `str]`, `a|b`, `int[]]`, `{...}`."""
        first, second = self._peek(), self._peek(1).kind
        alone = second in ("]", "|") or (second == "[" and self._peek(2).kind == "]")
        return first.kind in ("{", "[", "(") or second == "|" or (is_type(first.text) and alone)

    # ---- types ------------------------------------------------------------------------------------------------

    def _known(self, unit: _Token | dict[str, Any]) -> dict[str, Any]:
        """Make the schema of one type."""
        if isinstance(unit, dict):
            return unit
        if unit.kind == "word" and unit.text in _FORMATS:
            return {"type": "string", "format": _FORMATS[unit.text]}
        if unit.kind == "word" and unit.text in _PLAIN:
            return {"type": _PLAIN[unit.text]}
        raise self._error(f"An unknown type {_shown(unit)}", self._spelling(unit.text), unit)

    def _spelling(self, word: str) -> str:
        """Advise on a word that is no type, and was read last."""
        if word.lower() in _OTHERWISE:
            inner = self._peek(1).text if self._peek().kind == "[" and is_type(self._peek(1).text) else "str"
            return _OTHERWISE[word.lower()].format(inner)
        close = difflib.get_close_matches(word[:20].lower(), TYPES, 1)
        guess = f"Did you mean {close[0]}? " if close else ""
        return f"{guess}{_SOME}; choices are written a|b, and (a|b)[] for a list of them"

    def _union(self, units: list[_Token | dict[str, Any]]) -> dict[str, Any]:
        """Make the schema of `a|b|c`, which are choices, or of `type|null`."""
        rest = [unit for unit in units if isinstance(unit, dict) or (unit.kind, unit.text) != ("word", "null")]
        types = [unit for unit in rest if isinstance(unit, dict) or (unit.kind == "word" and is_type(unit.text))]
        if len(rest) == 1 and len(units) == 2 and types:  # noqa: PLR2004 # a type, and null
            return _nullable(self._known(rest[0]))
        if len(types) == len(rest) or any(isinstance(unit, dict) for unit in types):
            fix = "Put words that are choices in double quotes; of types, only null can be another: int|null"
            raise self._error("These could be types or choices", fix, self._before(units))
        return self._choices([unit for unit in units if isinstance(unit, _Token)])

    def _before(self, units: list[Any]) -> _Token:
        """Find a token of a union to point at: its first word, or the one that was read last."""
        return next((unit for unit in units if isinstance(unit, _Token)), self._tokens[self._index - 1])

    def _choices(self, words: list[_Token]) -> dict[str, Any]:
        null = [word.kind == "word" and word.text == "null" for word in words]
        plain = [word for word, is_null in zip(words, null, strict=True) if not is_null]
        kind, values = "string", [self._unquoted(word) if word.kind == "text" else word.text for word in words]
        read: dict[str, Any] = {"null": None}
        if all(word.kind == "word" and _INTEGER.fullmatch(word.text) for word in plain):
            kind, read = "integer", {"null": None, **{word.text: int(word.text) for word in plain}}
        elif all(word.kind == "word" and word.text in ("true", "false") for word in plain):
            kind, read = "boolean", {"null": None, "true": True, "false": False}
        enum = [
            read.get(value, value) if word.kind == "word" and (is_null or kind != "string") else value
            for word, value, is_null in zip(words, values, null, strict=True)
        ]
        seen = set()
        for word, value in zip(words, enum, strict=True):
            if value in seen:
                raise self._error("A duplicate choice", "Name each choice once", word)
            seen.add(value)
        return {"type": [kind, "null"] if any(null) else kind, "enum": enum}

    def _unquoted(self, token: _Token) -> str:
        try:
            text = json.loads(token.text, strict=False)
            text.encode()
        except ValueError:
            fix = r"Inside quotes, write \" for a quote and \\ for a backslash"
            raise self._error("These quotes hold what JSON text cannot hold", fix, token) from None
        return str(text)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if kind in ("object", "array", "null") or not isinstance(kind, str) or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [kind, "null"]}


def _shown(token: _Token) -> str:
    if token.kind == "end":
        return "the end"
    if token.text == "\n":
        return "a new line"
    return repr(token.text if len(token.text) <= 30 else token.text[:29] + "…")  # noqa: PLR2004 # it is shown again below


def _pointed(text: str, at: int) -> str:
    """Show the line of a place, cut around it where it is long, and a caret below the place."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line, column = text[start : len(text) if end < 0 else end], at - start
    cut = max(0, min(column - _WIDTH // 2, len(line) - _WIDTH))
    shown = "".join(sign if sign.isprintable() else " " for sign in line[cut : cut + _WIDTH])
    before, after = "…" if cut else "", "…" if cut + _WIDTH < len(line) else ""
    return f"  {before}{shown}{after}\n  {' ' * (column - cut + len(before))}^"
