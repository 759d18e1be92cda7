"""The ladder: an engine around an engine that gives JSON for a schema (`outputConfig`) on every model.

It starts on the rung that the model is known to take, goes down where the model refuses, fits the schema to what the
rung takes, and checks every answer against the schema as it was given. `rungs` knows how a rung is spelled,
`capabilities` what a model takes, `schema.fix` what of a schema a family of models takes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from bx import capabilities, rungs
from bx.converse import Stream, schema_of, total
from bx.instances import checker, json_path, violation
from bx.memory import Memory
from bx.schema import check, fix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bx.capabilities import Plan
    from bx.converse import Engine, Request, Response
    from bx.rungs import Asked
    from bx.schema import walk

Schema = dict[str, Any]

GUARANTEES = ("enforced", "validated", "any")
_ATTEMPTS = 3  # answers that are asked for until one satisfies the schema
_WEEK = 7 * 24 * 3600  # seconds that a model's refusal is remembered
_PATIENCE = 8  # seconds without an answer, until we say why that may be
_MALFORMED = ("malformed_model_output", "malformed_tool_use")
_FINISHED = ("end_turn", "tool_use", "stop_sequence", *_MALFORMED)
_SLOW = "Still waiting: Amazon Bedrock may take minutes to prepare a schema for its first use"
_MOST_NAMED = 3  # constraints in one note
_RUNGS = {"native": "outputConfig", "tool": "a tool that must be called", "prompt": "the prompt"}

_log = logging.getLogger("bx.structured")


class NotEnforced(ValueError):
    """No grammar would hold the model to the whole schema, and `enforced` was asked for."""

    exit_code = 8

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Structured:
    """An engine that honours `outputConfig` on every model, and `strict` tools where the model takes them.

    A response tells in `ResponseMetadata["StructuredOutput"]` how it came about: `Rung` (native, tool or prompt),
    `Enforced`, `Attempts`, and `Violation` where the guarantee `any` let one pass. Its usage is that of all attempts.

    Args:
        engine: the engine that is asked.
        guarantee: `enforced` only accepts a grammar that holds the model to the whole schema; `validated` accepts any
            answer that satisfies the schema; `any` accepts any JSON.
        scope: what a model's refusals are remembered for beside its id, such as the region.
        relearn: whether to forget what was remembered about a model when it is asked.
        names: the models that can be suggested, by name, with their ids.
    """

    def __init__(
        self,
        engine: Engine,
        guarantee: str = "validated",
        *,
        scope: str = "",
        relearn: bool = False,
        names: dict[str, str] | None = None,
    ) -> None:
        if guarantee not in GUARANTEES:
            raise ValueError(f"The guarantee is {guarantee!r}: it must be one of {', '.join(GUARANTEES)}")
        self._engine = engine
        self._guarantee = guarantee
        self._scope = scope
        self._relearn = relearn
        self._names = names or {}
        self._verdicts = Memory("structured", _WEEK)
        self._told: set[str] = set()
        self._forgotten: set[str] = set()

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        schema = schema_of(request)
        if schema is None:
            return self._climb(request, None, self._plan(request), stream=False)[1]
        _check(schema)
        return self._answer(request, schema, self._plan(request))

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`.

        What was streamed cannot be asked for again: who receives it checks it, as `bx.stream_json` does.
        """
        schema = schema_of(request)
        if schema is not None:
            _check(schema)
        asked, response = self._climb(request, schema, self._plan(request), stream=True)
        if schema is not None and not response:
            response = self._answer(request, schema, asked.plan)
        if "stream" not in response:
            return {**response, "stream": Stream(rungs.from_response(response), _nothing)}
        stream = response["stream"]
        if schema is None:
            return response
        events = rungs.events(asked, stream)
        return {**_described(response, asked), "stream": Stream(events, getattr(stream, "close", _nothing))}

    def first(self, request: Request) -> Request:
        """Return the request that would be sent first; nothing is sent."""
        schema = schema_of(request)
        if schema is not None:
            _check(schema)
        return self._asked(request, schema, self._plan(request))[0].request

    def close(self) -> None:
        """Free what the engine holds."""
        getattr(self._engine, "close", _nothing)()

    def _answer(self, request: Request, schema: Schema, plan: Plan) -> Response:
        """Ask until an answer satisfies the schema, a few times at most."""
        asking, spent = request, list[dict[str, Any]]()
        most = 1 if plan.family == "local" else _ATTEMPTS  # what a grammar wrote once it would write again
        for attempt in range(1, most + 1):
            asked, response = self._climb(asking, schema, plan, stream=False)
            plan, stop = asked.plan, response["stopReason"]
            spent.append(response.get("usage", {}))
            response = _described({**response, "usage": total(spent)}, asked, Attempts=attempt)
            written = rungs.written(asked, response)
            if written is None:  # another tool was called: it is the caller's turn
                return response
            if stop not in _FINISHED:
                return rungs.result(response, written, stop)
            answer, problem = _checked(asked, written, schema)
            if problem is None:
                return rungs.result(response, answer, "end_turn")
            if self._guarantee == "any" and answer:
                _log.warning("The answer does not satisfy the schema: %s", problem)
                return rungs.result(_described(response, asked, Violation=problem), answer, "end_turn")
            if attempt < most:
                cost = spent[-1].get("totalTokens", "unknown")
                _log.warning("The answer cannot be used (%s; tokens: %s): asking again", problem, cost)
            if stop == "malformed_tool_use" and self._guarantee != "enforced":
                plan = plan._replace(rung="prompt")
            asking = rungs.again(request, written, problem)
        return rungs.result(response, str(written), "malformed_model_output")

    def _climb(self, request: Request, schema: Schema | None, plan: Plan, *, stream: bool) -> tuple[Asked, Response]:
        """Send a request on the rung of a plan, or on the first one below that the model takes.

        Returns:
            What was sent, and the response; an empty one where a stream with a schema has to come in one piece.
        """
        refused: Request = {}
        while True:
            asked, restored = self._asked(request, schema, plan)
            whole = stream and (restored or (asked.plan.unary and "toolConfig" in asked.request))
            if whole:
                self._tell("The answer comes in one piece: it cannot be streamed from this model for this request")
            if whole and schema is not None:
                return asked, {}
            call = self._engine.converse_stream if stream and not whole else self._engine.converse
            try:
                with self._patience(asked):
                    return asked, call(**asked.request)
            except Exception as refusal:
                lower = self._lower(asked, refusal)
                if lower is None or (asked.request == refused):
                    raise
                refused, plan = asked.request, lower

    def _asked(self, request: Request, schema: Schema | None, plan: Plan) -> tuple[Asked, bool]:
        """Spell a request for a plan; also tells whether the answer must be put back into the schema's terms."""
        request = self._with_tools(request, plan)
        if schema is None:
            return rungs.Asked(request, plan), False
        plan, fitted, changes = self._fitted(plan, schema)
        loose = [change.path for change in changes if not change.enforced]
        if plan.family == "local":
            loose = [finding.path for finding in check.check(schema, plan.family) if finding.level == "validated"]
        if self._guarantee == "enforced":
            self._check_enforced(request, plan, loose)
        if not plan.enforced and plan.family != "local":
            self._tell(f"JSON through {_RUNGS[plan.rung]}: checked, not enforced by a grammar")
        if loose:
            more = f" and {len(loose) - _MOST_NAMED} more" if len(loose) > _MOST_NAMED else ""
            self._tell(f"Checked, not enforced by a grammar: {', '.join(map(json_path, loose[:_MOST_NAMED]))}{more}")
        fields = capabilities.fields(str(request.get("modelId")))
        asked = rungs.ask(plan, request, fitted, fields)._replace(enforced=plan.enforced and not loose)
        return asked, any(change.keyword == "required" for change in changes)

    def _fitted(self, plan: Plan, schema: Schema) -> tuple[Plan, Schema, list[fix.Change]]:
        """Fit a schema to what a plan takes; where it cannot be, go down to where everything is taken."""
        if plan.family == "local":
            return plan, schema, []
        if plan.enforced:
            try:
                return plan, *fix.fix(schema, plan.family)
            except fix.Unfixable as why:
                if self._guarantee == "enforced":
                    raise
                self._tell(f"The model cannot be held to the schema: {why}")
                plan = plan._replace(rung="tool" if plan.rung == "native" else plan.rung, strict=False)
        return plan, *fix.fix(schema, "tool")

    def _with_tools(self, request: Request, plan: Plan) -> Request:
        """Leave `strict` to the tools that the model can be held to, each with a schema that it takes."""
        config = request.get("toolConfig", {})
        specs = [tool.get("toolSpec", {}) for tool in config.get("tools", []) if isinstance(tool, dict)]
        if plan.family == "local" or not any(spec.get("strict") for spec in specs):
            return request
        strict = [spec["inputSchema"]["json"] for spec in specs if spec.get("strict")]
        if plan.strict and (over := check.limits(strict, len(strict), plan.family)):
            self._tell(f"The tools are not enforced by a grammar: {over[0].says}")
            plan = plan._replace(strict=False)
        tools = [self._tool(tool, plan) for tool in config["tools"]]
        return {**request, "toolConfig": {**config, "tools": tools}}

    def _tool(self, tool: dict[str, Any], plan: Plan) -> dict[str, Any]:
        """Fit one strict tool to a plan."""
        spec = tool.get("toolSpec", {})
        if not spec.get("strict"):
            return tool
        why, remedy = "the model takes no strict tools", self._suggestion()
        if plan.strict:
            try:
                fitted, _ = fix.fix(spec["inputSchema"]["json"], plan.family)
            except fix.Unfixable as unfixable:
                why, remedy = str(unfixable), unfixable.fix
            else:
                return {**tool, "toolSpec": {**spec, "inputSchema": {"json": fitted}}}
        message = f"The input of the tool {spec.get('name')} is not enforced by a grammar: {why}"
        if self._guarantee == "enforced":
            raise NotEnforced(message, remedy)
        self._tell(message)
        return {**tool, "toolSpec": {name: part for name, part in spec.items() if name != "strict"}}

    def _check_enforced(self, request: Request, plan: Plan, loose: list[walk.Path]) -> None:
        """Refuse what no grammar would hold the model to, before anything is sent."""
        if not plan.enforced:
            message = f"No grammar holds {request.get('modelId')} to a schema, and the guarantee is 'enforced'"
            raise NotEnforced(message, self._suggestion())
        for path in loose:
            message = f"{json_path(path)} would be checked, not enforced, and the guarantee is 'enforced'"
            raise NotEnforced(message, "Remove it, or choose --guarantee validated")

    def _suggestion(self) -> str:
        names = ", ".join(sorted(capabilities.enforcing(self._names)))
        return f"Choose one of {names}, or --guarantee validated" if names else "Choose --guarantee validated"

    def _plan(self, request: Request) -> Plan:
        """Return where to begin with a model: what is known of it, and what it has refused lately."""
        model = str(request.get("modelId"))
        plan = capabilities.plan(model)
        key = f"{self._scope} {model}"
        if self._relearn and key not in self._forgotten:
            self._forgotten.add(key)
            self._verdicts.put(key, None)
        kept = self._verdicts.get(key) if plan.family != "local" else None
        known = {
            name: value for name, value in (kept or {}).items() if isinstance(getattr(plan, name, None), type(value))
        }
        return plan._replace(**known)

    def _lower(self, asked: Asked, refusal: Exception) -> Plan | None:
        """Return the plan that a refusal leads to, and remember it where it holds for the model."""
        error = getattr(refusal, "response", {}).get("Error", {})
        if error.get("Code") != "ValidationException":
            return None
        found = capabilities.after(asked.plan, str(error.get("Message")))
        if found is None:
            return None
        lower, change, lasting = found
        if lasting:
            model = str(asked.request.get("modelId"))
            key = f"{self._scope} {model}"
            self._verdicts.put(key, {**(self._verdicts.get(key) or {}), **change})
        _log.info("Refused (%s): trying %s", error["Message"], lower)
        return lower

    @contextlib.contextmanager
    def _patience(self, asked: Asked) -> Iterator[None]:
        """Say why it may take so long where a grammar has to be made first."""
        if not asked.plan.enforced or asked.plan.family == "local":
            yield
            return
        timer = threading.Timer(_PATIENCE, self._tell, [_SLOW])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, note: str) -> None:
        """Tell people something once."""
        if note not in self._told:
            self._told.add(note)
            _log.warning("%s", note)


def _check(schema: Schema) -> None:
    """Refuse, before anything is sent, a schema that no answer could be held against."""
    check.well_formed(schema)
    checker(schema)


def _checked(asked: Asked, written: str, schema: Schema) -> tuple[str, str | None]:
    """Return an answer as JSON text, empty where it is none, and what is wrong with it."""
    try:
        value = rungs.value(asked, written)
    except ValueError as cause:
        return "", f"it is not JSON: {cause}"
    problem = violation(value, schema)
    if problem:
        restored = fix.restore(value, schema)
        if violation(restored, schema) is None:
            value, problem = restored, None
    return json.dumps(value, ensure_ascii=False), problem


def _described(response: Response, asked: Asked, **more: Any) -> Response:
    """Add to a response how it came about."""
    metadata = response.get("ResponseMetadata", {})
    told = {**metadata.get("StructuredOutput", {}), "Rung": asked.plan.rung, "Enforced": asked.enforced, **more}
    return {**response, "ResponseMetadata": {**metadata, "StructuredOutput": told}}


def _nothing() -> None:
    """Close what needs no closing."""
