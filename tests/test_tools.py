"""Tools: what a file may say, what is refused and how, and Python functions."""

from __future__ import annotations

import json

import pytest

from bx.tools import ToolError, config, of, read

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather of a city", "inputSchema": {"json": SCHEMA}}


@pytest.fixture
def file(tmp_path):
    """Write a tool file, and return its path."""

    def write(content, name="tool.json"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("schema", [SCHEMA, {"json": SCHEMA}])
def test_a_schema_may_stand_as_it_is_or_as_converse_has_it(file, schema):
    tool = read(file({**WEATHER, "inputSchema": schema}))
    assert tool.specification == {**WEATHER, "strict": True}
    assert (tool.name, tool.schema, tool.runs) == ("weather", SCHEMA, False)


def test_a_tool_of_converse_is_a_tool_file(file):
    tool = read(file({"toolSpec": {**WEATHER, "strict": False}, "command": ["./weather", "now"], "timeout": 2.5}))
    assert tool.specification == {**WEATHER, "strict": False}
    assert (tool.command, tool.timeout, tool.runs) == (("./weather", "now"), 2.5, True)


def test_a_byte_order_mark_is_no_obstacle(file):
    assert read(file(b"\xef\xbb\xbf" + json.dumps(WEATHER).encode())).name == "weather"


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        ("{", "not JSON", "Correct the file"),
        ("[" * 100_000, "not JSON", "Correct the file"),
        (b"\xff{}", "not UTF-8 text", "UTF-8"),
        ([WEATHER], "a tool is a JSON object", "docs/tools.md"),
        ({**WEATHER, "parameters": {}}, 'unknown key "parameters"', "inputSchema"),
        ({"toolSpec": {**WEATHER, "command": ["x"]}}, 'unknown key "command"', "inputSchema"),
        ({"toolSpec": WEATHER, "name": "x"}, 'unknown key "name"', "toolSpec"),
        ({"toolSpec": 1}, "toolSpec is no object", "name"),
        ({**WEATHER, "name": "the weather"}, 'not "the weather"', "letters, digits"),
        ({**WEATHER, "name": "weather\n"}, "name must be", "letters, digits"),
        ({"inputSchema": SCHEMA}, "not null", "letters, digits"),
        ({**WEATHER, "description": 1}, "description is no text", "when to call"),
        ({**WEATHER, "strict": "yes"}, "strict is neither", "Leave it out"),
        ({"name": "weather"}, "inputSchema is no JSON Schema of an object", "object"),
        ({**WEATHER, "inputSchema": {"type": "array"}}, "inputSchema is no JSON Schema of an object", "object"),
        ({**WEATHER, "inputSchema": {"type": "object", "required": 1}}, "not a valid JSON Schema", "Correct"),
        ({**WEATHER, "command": "ls -l"}, "a command is a list of arguments, never a shell line", '["program"'),
        ({**WEATHER, "command": []}, "no list of arguments", '["program"'),
        ({**WEATHER, "command": None}, "no list of arguments", '["program"'),
        ({**WEATHER, "command": ["head", 3]}, "an argument that is no text", "quotation marks"),
        ({**WEATHER, "timeout": 0}, "timeout is no positive number", "seconds"),
        ({**WEATHER, "timeout": True}, "timeout is no positive number", "seconds"),
        (json.dumps(WEATHER)[:-1] + ', "timeout": 1e999}', "timeout is no positive number", "seconds"),
        (json.dumps(WEATHER)[:-1] + ', "timeout": NaN}', "NaN is not a JSON value", "Correct"),
    ],
)
def test_what_is_no_tool_is_refused_with_file_culprit_and_remedy(file, content, what, fix):
    path = file(content)
    with pytest.raises(ToolError) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert what in str(refused.value)
    assert fix in refused.value.fix
    assert refused.value.exit_code == 2


def test_a_schema_without_end_is_refused(file):
    deep = '{"type":"object","properties":{"a":' * 300 + "{}" + "}}" * 300
    with pytest.raises(ToolError, match="levels of nesting"):
        read(file('{"name": "deep", "inputSchema": ' + deep + "}"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ToolError, match=r"none\.json.*No such file"):
        read(tmp_path / "none.json")


def test_two_tools_of_one_name_are_refused(file):
    one, two = read(file(WEATHER, "one.json")), read(file(WEATHER, "two.json"))
    with pytest.raises(ToolError, match=r"named weather: .*one\.json and .*two\.json"):
        config([one, two])


def test_the_configuration_is_converses(file):
    tool = read(file(WEATHER))
    assert config([tool]) == {"tools": [{"toolSpec": {**WEATHER, "strict": True}}]}
    assert config([tool], {"any": {}}, strict=False) == {"tools": [{"toolSpec": WEATHER}], "toolChoice": {"any": {}}}


def test_a_typed_function_is_a_tool():
    def add(a: int, b: int = 0) -> int:
        """Add two numbers."""
        return a + b

    tool = of(add)
    assert (tool.name, tool.function, tool.specification["strict"], tool.runs) == ("add", add, True, True)
    assert tool.specification["description"] == "Add two numbers."
    assert tool.schema["required"] == ["a"]
