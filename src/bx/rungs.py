"""The rungs of the ladder: a request for JSON as each of them asks it, and the answer of each as JSON.

`native` sends the schema as Converse's `outputConfig`, `tool` as the input schema of a tool that must be called,
`prompt` in words. A schema whose root is no plain object travels as the member `answer` of one. Pure functions on
dicts; this module sends nothing and decides nothing, and `unfold` does the same for streams.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import partial
from bx.converse import Request, Response, text
from bx.instances import loads
from bx.schema import walk

if TYPE_CHECKING:
    from bx.capabilities import Plan

Schema = dict[str, Any]

NAME = "answer"  # of the tool that must be called, and of the member that holds what is no object
_ABOUT = "Give the answer. Call this tool exactly once, with the whole answer."
_WORDS = (
    "Answer with one JSON object that satisfies this JSON Schema, and with nothing else: no code fence, no comment."
)
_AGAIN = "That answer cannot be used: {problem}. Give the whole answer again, corrected, as the JSON Schema asks."
_LONGEST_QUOTE = 20_000  # characters of a wrong answer that are shown to the model again
_FENCE = re.compile(r"```\w*\s(.*?)```", re.DOTALL)
_NO_OBJECT = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"}


class Asked(NamedTuple):
    """A request as it was sent, the plan behind it, and how its answer is to be read."""

    request: Request
    plan: Plan
    wrapped: bool = False  # the answer is the member `answer` of an object
    tool: str = ""  # the tool whose input is the answer
    cut: bool = False  # the answer is an object that may stand between other text
    enforced: bool = False  # a grammar holds the model to the whole schema


def is_readable(request: Request) -> bool:
    """Whether what is read here has the shape that it should; what has not is for the engine to refuse."""
    config = request.get("toolConfig", {})
    fields, output = request.get("additionalModelRequestFields", {}), request.get("outputConfig", {})
    if not all(isinstance(part, dict) for part in (config, fields, output)):
        return False
    messages, tools = request.get("messages", []), config.get("tools", [])
    if not isinstance(messages, list) or not isinstance(tools, list):
        return False
    spoken = all(
        isinstance(said, dict) and isinstance(said.get("content"), list) and said.get("role") for said in messages
    )
    return spoken and all(isinstance(tool, dict) and _is_tool(tool) for tool in tools)


def _is_tool(tool: dict[str, Any]) -> bool:
    spec = tool.get("toolSpec", {"name": "", "inputSchema": {"json": {}}})
    schema = spec.get("inputSchema") if isinstance(spec, dict) else None
    return isinstance(schema, dict) and isinstance(schema.get("json"), dict) and isinstance(spec.get("name"), str)


def ask(plan: Plan, request: Request, schema: Schema, fields: dict[str, Any]) -> Asked:
    """Spell a request on the rung of a plan; `schema` is what the rung is to hold the model to.

    `fields` are parameters of the model's own that a forced tool needs; those of the request come first.
    """
    wrapped = not is_object(schema)
    if plan.rung == "native":
        return Asked(_native(request, schema), plan, cut=not wrapped)
    schema = _wrapped(schema) if wrapped else schema
    rest = {name: value for name, value in request.items() if name != "outputConfig"}
    if others := {name: value for name, value in request["outputConfig"].items() if name != "textFormat"}:
        rest["outputConfig"] = others
    if plan.rung == "prompt":
        words = f"{_WORDS}\n\n{json.dumps(schema, ensure_ascii=False)}"
        return Asked({**rest, "messages": _told(request.get("messages", []), words)}, plan, wrapped, cut=True)
    tools = request.get("toolConfig", {}).get("tools", [])
    name = _free({tool.get("toolSpec", {}).get("name") for tool in tools})
    about = _definition(request).get("description") or schema.get("description")
    spec: dict[str, Any] = {"name": name, "description": f"{_ABOUT} {about}" if about else _ABOUT}
    spec["inputSchema"] = {"json": schema}
    if plan.strict:
        spec["strict"] = True
    by_name = plan.choice == "tool" and not tools
    config = {
        "tools": [*tools, {"toolSpec": spec}],
        "toolChoice": {"tool": {"name": name}} if by_name else {"any": {}},
    }
    if more := {**fields, **request.get("additionalModelRequestFields", {})}:
        rest["additionalModelRequestFields"] = more
    return Asked({**rest, "toolConfig": config}, plan, wrapped, name)


def again(request: Request, answer: str, problem: str) -> Request:
    """Continue a conversation after an answer that cannot be used, telling the model why."""
    words = _AGAIN.format(problem=problem)
    answer = answer.strip()[:_LONGEST_QUOTE]
    messages = request.get("messages", [])
    # A blank text is refused, as are two turns of one role.
    if not answer or not messages or messages[-1]["role"] != "user":
        return {**request, "messages": _told(messages, words)}
    turns = [{"role": "assistant", "content": [{"text": answer}]}, {"role": "user", "content": [{"text": words}]}]
    return {**request, "messages": [*messages, *turns]}


def written(asked: Asked, response: Response) -> str | None:
    """Return what the model wrote as its answer; None where it called another tool first."""
    content = response["output"]["message"]["content"]
    calls = [block["toolUse"] for block in content if is_call(block)]
    if not calls or "toolConfig" not in asked.request:  # a call that nobody asked for is no answer
        return text(response)
    ours = asked.tool and calls[0].get("name") == asked.tool
    return json.dumps(calls[0].get("input"), ensure_ascii=False) if ours else None


def is_call(block: dict[str, Any]) -> bool:
    """Whether a content block, or the start of one in a stream, calls a tool that the service does not run itself."""
    return "toolUse" in block and block["toolUse"].get("type") != "server_tool_use"


def without_answer(asked: Asked, response: Response) -> Response:
    """Leave out the call of our tool where another was called first."""
    if not asked.tool:
        return response
    message = response["output"]["message"]
    kept = [block for block in message["content"] if block.get("toolUse", {}).get("name") != asked.tool]
    return {**response, "output": {"message": {**message, "content": kept}}}


def values(asked: Asked, answer: str) -> list[Any]:
    """Read an answer as the JSON that it is, or holds: the likeliest reading first.

    Raises:
        ValueError: it holds none.
    """
    found = _read(answer)
    if not asked.wrapped:
        return [found]
    readings = [found[NAME]] if isinstance(found, dict) and found.keys() == {NAME} else [found]
    if isinstance(readings[0], str):  # some models spell the inner JSON as a text
        with contextlib.suppress(ValueError):
            readings.append(loads(readings[0]))
    return readings


def result(response: Response, answer: str, stop: str) -> Response:
    """Replace what a response holds by a text; the model's reasoning stays before it."""
    message = response["output"]["message"]
    kept = [block for block in message["content"] if "reasoningContent" in block]
    return {
        **response,
        "output": {"message": {**message, "content": [*kept, {"text": answer}]}},
        "stopReason": stop,
    }


def _native(request: Request, schema: Schema) -> Request:
    if json.loads(_definition(request)["schema"]) == schema:
        return request
    definition = {**_definition(request), "schema": json.dumps(schema, ensure_ascii=False)}
    text_format = {**request["outputConfig"]["textFormat"], "structure": {"jsonSchema": definition}}
    return {**request, "outputConfig": {**request["outputConfig"], "textFormat": text_format}}


def _definition(request: Request) -> dict[str, Any]:
    definition: dict[str, Any] = request["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    return definition


def is_object(schema: Schema) -> bool:
    """Whether a schema says at its root that it is of an object, and nothing that combines schemas."""
    return schema.get("type") == "object" and not _NO_OBJECT & schema.keys()


def _wrapped(schema: Schema) -> Schema:
    """Make a schema the member of an object, and let its references find their targets there."""

    def moved(inner: Any) -> Any:
        if not isinstance(inner, dict):
            return inner
        inner = walk.mapped(inner, moved)
        for keyword in ("$ref", "$dynamicRef"):
            reference = inner.get(keyword)
            if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
                inner[keyword] = f"#/properties/{NAME}{reference[1:]}"
        return inner

    return {
        "type": "object",
        # A root with an address of its own would keep its references to itself.
        "properties": {NAME: {key: part for key, part in moved(schema).items() if key not in ("$id", "$schema")}},
        "required": [NAME],
        "additionalProperties": False,
    }


def _told(messages: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Add words to the last turn of the user."""
    last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last is None:
        return [*messages, {"role": "user", "content": [{"text": words}]}]
    told = {**messages[last], "content": [*messages[last]["content"], {"text": words}]}
    return [*messages[:last], told, *messages[last + 1 :]]


def _free(taken: set[Any]) -> str:
    names = itertools.chain([NAME], (f"{NAME}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _read(answer: str) -> Any:
    """Read JSON that may stand in prose, in a code fence, or in doubled braces."""
    try:
        return loads(answer)
    except ValueError:
        fenced = _FENCE.search(answer)
        at = answer.find("[")
        for inside in (fenced[1] if fenced else "", "".join(partial.document([answer])), answer[max(at, 0) :]):
            with contextlib.suppress(ValueError):
                return loads(inside)
        with contextlib.suppress(ValueError, RecursionError):
            return json.JSONDecoder().raw_decode(answer, max(at, 0))[0]
        raise
