"""A schema from a file, a text, standard input, a module, a Python type or a function."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import sys
from typing import Annotated, TypedDict

import msgspec
import pydantic
import pytest

from bx import instances
from bx.schema import concise, source

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
TEXT = json.dumps(SCHEMA)


class Severity(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclasses.dataclass
class Owner:
    name: str


@dataclasses.dataclass
class Incident:
    service: str
    owner: Owner
    severity: Severity = Severity.LOW


class Team(TypedDict):
    zebra: str
    ant: int


class Folder(msgspec.Struct):
    inside: list[Folder]


class Place(pydantic.BaseModel):
    city: str


class Trip(pydantic.BaseModel):
    to: Place
    via: list[Place] = []


class Tree(pydantic.BaseModel):
    children: list[Tree]


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


@pydantic.dataclasses.dataclass
class Point:
    x: int


@dataclasses.dataclass
class Journey:
    trip: Trip
    next: Place | None = None


@dataclasses.dataclass
class Impossible:
    fine: int
    wave: complex


@dataclasses.dataclass
class Outer:
    inner: Impossible


def read(given, stdin=""):
    return source.read(given, lambda: stdin)


@pytest.mark.parametrize("text", [TEXT, f"\n  {TEXT}", f"\ufeff{TEXT}"])
def test_a_json_object_is_the_schema_whether_typed_piped_or_in_a_file(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("person.json", "person.schema", "person"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read(name) == SCHEMA
    assert read("~/person.json") == read("./person") == read(text) == read("-", text) == SCHEMA


def test_the_concise_form_is_read_from_the_same_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "name,\nage int\n"
    (tmp_path / "person.bx").write_text(text, encoding="utf-8")
    assert read(text) == read("-", text) == read("person.bx") == concise.parse("name, age int")
    assert read("count:int") == concise.parse("count int")
    assert read("s:a|b") == concise.parse("s a|b")
    (tmp_path / "name").mkdir()
    assert read("name str") == concise.parse("name")
    with pytest.raises(source.SchemaError, match="name is a folder"):
        read("name")
    assert read('cause "what/why"')["properties"]["cause"]["description"] == "what/why"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("missing.json", "missing.json cannot be read: No such file"),
        ("incident.schema", "incident.schema cannot be read: No such file"),
        ("some/where", "some/where cannot be read: No such file"),
        ("", "cannot be read"),
        (".", "is a folder"),
        ("true", "a schema is needed"),
        ("null", "a schema is needed"),
        ("5", "a schema is needed"),
        ('"name"', "a schema is needed"),
        ("[1]", "a schema is needed"),
        ("a/\0", "cannot be read"),
        ("{", "is not JSON"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": 1e999}', "too large a number"),
        ('{"a": 1, "b": {"x": 1, "x": 2}}', 'the key "x" twice'),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"items":' * 200 + "{}" + "}" * 200, "nested too deeply"),
        ("missing_module:Name", "missing_module cannot be imported"),
        ("json:Missing", "json has no Missing"),
        ("json:dumps", "no type"),
    ],
)
def test_what_cannot_be_read_is_told(given, told):
    with pytest.raises(source.SchemaError) as caught:
        read(given)
    assert told in str(caught.value)
    assert caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"", "is not JSON"),
        ("a.json", b"a int", "is not JSON"),
        ("a.json", b"[]", "not a JSON object"),
        ("a.txt", b"[]", "not a JSON object"),
        ("a.txt", b"true", "not a JSON object"),
        ("a.txt", b"\n", "is empty"),
        ("a.txt", b"\xff", "not UTF-8"),
        ("a.txt", b"a integr", "a.txt cannot be read: An unknown type"),
        ("a.txt", b"[" * 100_000, "levels of brackets"),
    ],
)
def test_a_file_that_has_no_schema_is_told_with_its_name(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(source.SchemaError, match=name) as caught:
        read(str(tmp_path / name))
    assert told in str(caught.value)


def test_a_mistake_in_the_concise_form_keeps_its_caret():
    with pytest.raises(concise.ConciseError, match=r"\^"):
        read("a integr")


def test_a_module_of_the_current_folder_is_imported_and_leaves_no_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = [*sys.path]
    (tmp_path / "shop_models.py").write_text(
        "import dataclasses\nprint('loading')\n@dataclasses.dataclass\nclass Item:\n    sku: str\n"
        "class Box:\n    schema = {'type': 'string'}\n"
    )
    (tmp_path / "shop_broken.py").write_text("raise SystemExit(3)")
    assert read("shop_models:Item")["required"] == ["sku"]
    assert read("shop_models:Box.schema") == {"type": "string"}
    assert sys.path == path
    assert capsys.readouterr() == ("", "loading\n")
    with pytest.raises(source.SchemaError, match="shop_broken cannot be imported: SystemExit: 3"):
        read("shop_broken:Item")


@pytest.mark.parametrize(
    ("given", "advised"),
    [("models.py:D", "models:D"), ("./pkg/models.py:A.b", "pkg.models:A.b"), (r".\pkg\models.py:A", "pkg.models:A")],
)
def test_a_python_file_is_no_module_and_the_right_spelling_is_advised(given, advised):
    with pytest.raises(source.SchemaError) as caught:
        read(given)
    assert caught.value.fix == f"Write {advised}"


def test_code_of_a_module_can_neither_end_the_process_nor_write_to_stdout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hooked.py").write_text(
        "import pydantic\n"
        "class Dumb(Exception):\n    def __str__(self): raise RuntimeError\n"
        "def model(raised):\n"
        "    class Model(pydantic.BaseModel):\n"
        "        name: str\n"
        "        @classmethod\n"
        "        def __get_pydantic_json_schema__(cls, core, handler):\n"
        "            print('in a hook')\n"
        "            if raised: raise raised\n"
        "            return handler(core)\n"
        "    return Model\n"
        "Loud, Ending, Closing, Failing, Silent, Odd = map(model, (\n"
        "    None, SystemExit(0), GeneratorExit(), ValueError('no'), Dumb(), BaseException('odd')))\n"
        "def __getattr__(name):\n    print('asked')\n    raise SystemExit(4)\n"
    )
    (tmp_path / "closing.py").write_text("raise GeneratorExit")
    assert read("hooked:Loud")["required"] == ["name"]
    for name in ("Ending", "Closing", "Failing", "Silent", "Odd", "missing"):
        with pytest.raises(source.SchemaError):
            read(f"hooked:{name}")
    with pytest.raises(source.SchemaError, match="closing cannot be imported: GeneratorExit"):
        read("closing:Name")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "thing", [Incident, Team, Folder, Place, Trip, Tree, Point, Journey, Severity, int, list[Incident]]
)
def test_the_schema_of_a_type_is_valid_and_strict(thing):
    schema = source.of(thing)
    instances.violation(None, schema)
    assert "additionalProperties" in json.dumps(schema) or thing in (Severity, int)


def test_the_root_is_the_type_itself_unless_it_is_recursive():
    assert [*source.of(Incident)["properties"]] == ["service", "owner", "severity"]
    assert source.of(Incident)["required"] == ["service", "owner"]
    assert [*source.of(Incident)["$defs"]] == ["Owner", "Severity"]
    assert [*source.of(Team)["properties"]] == source.of(Team)["required"] == ["zebra", "ant"]
    for recursive in (Folder, Tree):
        assert source.of(recursive)["$ref"] == f"#/$defs/{recursive.__name__}"
    assert source.of(SCHEMA) is SCHEMA


def test_objects_are_closed_unless_the_type_is_open():
    assert instances.violation({"name": "Ada", "age": 3}, source.of(Owner))
    assert instances.violation({"city": "Ulm", "age": 3}, source.of(Place))
    assert not instances.violation({"name": "Ada", "age": 3}, source.of(Open))


def test_pydantic_models_inside_a_dataclass_keep_their_definitions():
    schema = source.of(Journey)
    assert not instances.violation({"trip": {"to": {"city": "Ulm"}}, "next": None}, schema)
    assert instances.violation({"trip": {"to": {"town": "Ulm"}}}, schema)


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (Impossible, "Impossible has no JSON Schema at .wave (complex)"),
        (Outer, "Outer has no JSON Schema at .inner.wave (complex)"),
        (5, "5 has no JSON Schema"),
        (complex, "complex has no JSON Schema"),
    ],
)
def test_a_type_that_has_no_schema_is_named_with_its_field(thing, told):
    with pytest.raises(source.SchemaError) as caught:
        source.of(thing)
    assert told in str(caught.value)


def report(
    service: str, since: dt.date, place: Place | None = None, *, minutes: Annotated[int, msgspec.Meta(ge=0)] = 5
):
    """Report an incident,
    at once.

    And more.

    Args:
        service: the service
            that is down
        minutes (int): how long: in minutes

    Returns:
        nothing
    """


def test_a_function_is_described_as_a_tool():
    tool = source.of_function(report)
    schema = tool["inputSchema"]["json"]
    assert (tool["name"], tool["description"]) == ("report", "Report an incident, at once.")
    assert [*schema["properties"]] == ["service", "since", "place", "minutes"]
    assert schema["required"] == ["service", "since"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["service"] == {"type": "string", "description": "the service that is down"}
    assert schema["properties"]["minutes"] == {"type": "integer", "minimum": 0, "description": "how long: in minutes"}
    assert source.of(report) == schema


def test_a_function_without_a_docstring_has_no_description():
    def quiet() -> None: ...

    assert source.of_function(quiet).keys() == {"name", "inputSchema"}


def test_json_becomes_what_the_parameters_are_annotated_with():
    given = {"service": "api", "since": "2026-01-02", "place": {"city": "Ulm"}}
    assert source.arguments(report, given) == {
        "service": "api",
        "since": dt.date(2026, 1, 2),
        "place": Place(city="Ulm"),
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"service": 5}, r"Expected str, got int - at \$\.service"),
        ({"minutes": -1}, r"- at \$\.minutes"),
        ({"place": {"city": 5}}, r"city: .* - at \$\.place"),
        ({"other": 5}, "no parameter other"),
    ],
)
def test_json_that_does_not_fit_the_parameters_is_told_with_its_path(changed, told):
    with pytest.raises(ValueError, match=told):
        source.arguments(report, {"service": "api", "since": "2026-01-02", **changed})
    with pytest.raises(ValueError, match=r"since - at \$"):
        source.arguments(report, {"service": "api"})


def starred(*rest: int): ...
def keywords(**rest: int): ...
def positional(first: int, /): ...
def bare(first): ...
def unknown(first: Missing): ...  # noqa: F821
def strange(first: complex): ...


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (starred, r"\*rest"),
        (keywords, r"\*\*rest"),
        (positional, "takes first"),
        (bare, "The parameter first of bare has no type"),
        (unknown, "Missing"),
        (strange, r"\.first \(complex\)"),
        (lambda: None, "no name for a tool"),
    ],
)
def test_a_function_that_cannot_be_described_is_told_with_its_parameter(function, told):
    with pytest.raises(source.SchemaError, match=told):
        source.of_function(function)
