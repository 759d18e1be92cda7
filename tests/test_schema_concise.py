"""The concise form: what it becomes, and where a mistake is shown."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bx import instances
from bx.schema import concise, walk

STRING = {"type": "string"}


def strict(**properties):
    names = [*properties]
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("service", strict(service=STRING)),
        ("b, a", strict(b=STRING, a=STRING)),
        ("a\n\n b,\nc,\r\n", strict(a=STRING, b=STRING, c=STRING)),
        (
            "n int, x: float, b bool, z null",
            strict(n={"type": "integer"}, x={"type": "number"}, b={"type": "boolean"}, z={"type": "null"}),
        ),
        ("at datetime, link url", strict(at={**STRING, "format": "date-time"}, link={**STRING, "format": "uri"})),
        ("date", strict(date=STRING)),
        ("s: sev1|sev2", strict(s={**STRING, "enum": ["sev1", "sev2"]})),
        ('s "not yet" |\n done', strict(s={**STRING, "enum": ["not yet", "done"]})),
        ("by email|phone", strict(by={**STRING, "enum": ["email", "phone"]})),
        ("v 1|2", strict(v={"type": "integer", "enum": [1, 2]})),
        ("v 1|2|many", strict(v={**STRING, "enum": ["1", "2", "many"]})),
        ('v "1"|2', strict(v={**STRING, "enum": ["1", "2"]})),
        ("v 007|42", strict(v={**STRING, "enum": ["007", "42"]})),
        ("v true|false", strict(v={"type": "boolean", "enum": [True, False]})),
        ("v a|null", strict(v={"type": ["string", "null"], "enum": ["a", None]})),
        ('v a|"null"', strict(v={**STRING, "enum": ["a", "null"]})),
        ("v int|null", strict(v={"type": ["integer", "null"]})),
        ("v null|date", strict(v={"type": ["string", "null"], "format": "date"})),
        ("v {a}|null", strict(v={"anyOf": [strict(a=STRING), {"type": "null"}]})),
        ("tags[]", strict(tags={"type": "array", "items": STRING})),
        ("m int[][]", strict(m={"type": "array", "items": {"type": "array", "items": {"type": "integer"}}})),
        ("tags (a|b)[]", strict(tags={"type": "array", "items": {**STRING, "enum": ["a", "b"]}})),
        ("tags [int]", strict(tags={"type": "array", "items": {"type": "integer"}})),
        ("o {a, b int}", strict(o=strict(a=STRING, b={"type": "integer"}))),
        ("o [{a}]", strict(o={"type": "array", "items": strict(a=STRING)})),
        ("[a, b]", {"type": "array", "items": strict(a=STRING, b=STRING)}),
        ("[str]", {"type": "array", "items": STRING}),
        ("[date int]", {"type": "array", "items": strict(date={"type": "integer"})}),
        ('cause "one sentence, \\"no blame\\""', strict(cause={**STRING, "description": 'one sentence, "no blame"'})),
        ('"odd name" int "why"', strict(**{"odd name": {"type": "integer", "description": "why"}})),
        ("größe-1.x$ int, 名前", strict(**{"größe-1.x$": {"type": "integer"}, "名前": STRING})),
    ],
)
def test_the_concise_form_becomes_a_strict_schema(text, expected):
    schema = concise.parse(text)
    assert schema == expected
    assert [*schema.get("properties", {})] == [*expected.get("properties", {})]


def test_a_field_with_a_question_mark_may_be_left_out():
    assert concise.parse("a?: int, b, c?")["required"] == ["b"]
    assert [*concise.parse("a?: int, b, c?")["properties"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "told", "marked"),
    [
        ("a, a", "duplicate field name", 3),
        ("x integr", "unknown type 'integr'", 2),
        ("x a|a", "duplicate choice", 4),
        ("x date|time", "types or choices", 2),
        ("x a|b[]", "unknown type 'b'", 4),
        ('x: "text"', "description, or a single choice", 3),
        ("x “y”", "quote “", 2),
        ('x "y', "never closed", 2),
        ("x {a", "{ is never closed", 2),
        ("x}", "not '}'", 1),
        ("a,,b", "name of a field", 2),
        ("a:", "a type", 2),
        ("", "no fields", 0),
        ("x {}", "no fields", 3),
        ("a/b", "character /", 1),
        ("x " + "{a " * 50, "levels of brackets", 32),
        ("x str[][][][]", "lists of lists", 11),
        ('x "\\ud800"', "cannot hold", 2),
    ],
)
def test_a_mistake_is_shown_with_a_caret_below_it(text, told, marked):
    with pytest.raises(concise.ConciseError) as caught:
        concise.parse(text)
    message, shown, caret = str(caught.value).split("\n")
    assert told in message
    assert shown.startswith(f"  {text[:60]}")
    assert caret == "  " + " " * marked + "^"
    assert caught.value.fix
    assert caught.value.exit_code == 2


def test_a_misspelt_type_is_guessed():
    with pytest.raises(concise.ConciseError) as caught:
        concise.parse("a,\nminutes integr")
    assert "Did you mean integer?" in caught.value.fix
    assert str(caught.value).split("\n")[1:] == ["  minutes integr", "          ^"]


@pytest.mark.parametrize(
    ("text", "advised", "marked"),
    [
        ("x list[int]", "int[]", 2),
        ("x List[Incident]", "str[]", 2),
        ("x: array", "str[]", 3),
        ("x Optional[int]", "int|null", 2),
        ("x Optional[int]", "name? int", 2),
        ("x int?", "name? int", 5),
        ("x dict[str, int]", "{name, minutes int}", 2),
        ("x Union[int, str]", "a|b", 2),
    ],
)
def test_what_other_languages_write_is_told_in_the_spelling_of_this_one(text, advised, marked):
    with pytest.raises(concise.ConciseError) as caught:
        concise.parse(text)
    assert advised in caught.value.fix
    assert str(caught.value).split("\n")[-1] == "  " + " " * marked + "^"


def test_the_advice_on_types_is_short():
    for text in ("x qqqqqq", "x :|"):
        with pytest.raises(concise.ConciseError) as caught:
            concise.parse(text)
        assert "Types are str, int," in caught.value.fix
        assert len(caught.value.fix) < 160


def test_a_long_line_is_cut_around_the_caret():
    with pytest.raises(concise.ConciseError) as caught:
        concise.parse(
            ", ".join(f"field{n}" for n in range(500)) + ", x intt, " + ", ".join(f"g{n}" for n in range(500))
        )
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 90
    assert shown[caret.index("^") :].startswith("intt")


NAMES = st.from_regex(re.compile(r"[\w.$-]{1,8}", re.ASCII), fullmatch=True) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
PLAIN = st.sampled_from(["str", "int", "number", "bool", "null", "date", "uuid"])


def quoted(text):
    return json.dumps(text, ensure_ascii=True)


@st.composite
def rendered(draw, depth=2):
    """A text in the concise form, and the schema that it means."""
    fields = draw(
        st.dictionaries(NAMES, st.tuples(st.booleans(), types(depth), st.none() | NAMES), min_size=1, max_size=4)
    )
    texts, properties = [], {}
    for name, (optional, (text, schema), about) in fields.items():
        mark = "?" if optional else ""
        texts.append(f"{quoted(name)}{mark} {text}" + ("" if about is None else f" {quoted(about)}"))
        properties[name] = schema if about is None else {**schema, "description": about}
    required = [name for name, (optional, *_) in fields.items() if not optional]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return draw(st.sampled_from([",", "\n", " ,\n "])).join(texts), schema


def types(depth):
    plain = PLAIN.map(lambda word: (word, concise.parse(f"x {word}")["properties"]["x"]))
    choices = st.lists(NAMES, min_size=2, max_size=3, unique=True).map(
        lambda words: ("|".join(map(quoted, words)), {"type": "string", "enum": words})
    )
    lists = (plain | choices).map(lambda made: (f"({made[0]})[]", {"type": "array", "items": made[1]}))
    if not depth:
        return plain | choices | lists
    objects = rendered(depth - 1)
    return st.one_of(
        plain, choices, lists,
        objects.map(lambda made: ("{" + made[0] + "}", made[1])),
        objects.map(lambda made: ("[{" + made[0] + "}]", {"type": "array", "items": made[1]})),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(rendered())
def test_every_schema_that_has_a_concise_form_is_read_back_from_it(made):
    text, schema = made
    assert concise.parse(text) == schema


PIECES = [
    "a",
    "b1",
    "int",
    "null",
    '"',
    '"x y"',
    "|",
    ",",
    "\n",
    ":",
    "?",
    "[",
    "]",
    "[]",
    "{",
    "}",
    "(",
    ")",
    " ",
    "é",
    "\\",
]


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_any_text_is_a_valid_schema_or_an_error_that_says_where(text):
    try:
        schema = concise.parse(text)
    except concise.ConciseError as mistake:
        shown = str(mistake).split("\n")
    else:
        shown = ["", "", "^"]
        instances.violation(None, schema)
        assert walk.depth(schema) <= walk.DEEPEST
    assert len(shown) == 3
    assert shown[-1].endswith("^")


@pytest.mark.parametrize(
    "text",
    [
        "a {" * 100_000,
        "x " + "(" * 100_000,
        "x a" + "[]" * 100_000,
        "x " + "a|" * 100_000,
        "\n" * 300_000,
        "a" * 300_000 + " b",
        '"' * 200_001,
        '"' + "\\" * 200_000,
    ],
)
def test_hostile_text_takes_linear_time(text):
    started = time.monotonic()
    with pytest.raises(concise.ConciseError):
        concise.parse(text)
    assert time.monotonic() - started < 5


def test_the_deepest_form_is_within_what_can_be_used():
    schema = concise.parse("x " + "{a " * 10 + "str[][][]" + "}[][][]|null" * 10)
    assert walk.depth(schema) <= walk.DEEPEST
    instances.violation(None, schema)


def test_the_examples_of_the_page_are_what_they_become():
    page = (Path(__file__).parent.parent / "docs" / "concise.md").read_text()
    examples = re.findall(r"```text\n(.*?)```\n+```json\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 5
    for text, schema in examples:
        assert concise.parse(text) == json.loads(schema)
    for name in concise.TYPES:
        assert f"`{name}`" in page
