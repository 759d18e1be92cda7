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

from bx import capabilities, rungs, unfold
from bx.converse import Stream, count_tokens, on_rung, schema_of, total
from bx.instances import checker, json_path
from bx.memory import Memory
from bx.schema import check, fix, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bx.capabilities import Plan
    from bx.converse import Engine, Request, Response
    from bx.rungs import Asked

Schema = dict[str, Any]

GUARANTEES = ("enforced", "validated", "any")
_ATTEMPTS = 3  # answers that are asked for until one satisfies the schema
_WEEK = 7 * 24 * 3600  # seconds that a model's refusal is remembered
_PATIENCE = 8  # seconds without an answer, until we say why that may be
_MALFORMED = ("malformed_model_output", "malformed_tool_use")
_FINISHED = ("end_turn", "tool_use", "stop_sequence", *_MALFORMED)
_SLOW = "Still waiting: Amazon Bedrock may take minutes to prepare a schema for its first use"
_MOST_NAMED = 3  # constraints in one note
_LOST = 100  # characters of white space
_OWN_ADDRESS = {"$id", "$anchor", "$dynamicAnchor", "id"}
_RUNGS = {"native": "outputConfig", "tool": "a tool that must be called", "prompt": "the prompt"}

_log = logging.getLogger("bx.structured")


class NotEnforced(ValueError):
    """No grammar would hold the model to the whole schema, and `enforced` was asked for."""

    exit_code = 8

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class UnknownGuarantee(ValueError):
    """A guarantee that there is not."""

    exit_code = 2
    fix = f"Choose one of {', '.join(GUARANTEES)}"

    def __init__(self, guarantee: str) -> None:
        super().__init__(f"The guarantee is {guarantee!r}")


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
            raise UnknownGuarantee(guarantee)
        self._engine = engine
        self._guarantee = guarantee
        self._scope = scope
        self._relearn = relearn
        self._names = names or {}
        self._verdicts = Memory("structured", _WEEK)
        self._told: set[tuple[str, str]] = set()
        self._forgotten: set[str] = set()

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        if not rungs.is_readable(request):
            return self._engine.converse(**request)
        schema = _schema(request)
        plan = self._plan(request)
        if schema is None:
            return self._climb(request, None, plan, stream=False)[1]
        return self._answer(request, schema, plan)

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`.

        What was streamed cannot be asked for again: who receives it checks it, as `bx.stream_json` does.
        """
        if not rungs.is_readable(request):
            return self._engine.converse_stream(**request)
        schema = _schema(request)
        asked, response = self._climb(request, schema, self._plan(request), stream=True)
        if schema is not None and not response:
            response = self._answer(request, schema, asked.plan)
        if "stream" not in response:
            events, close = unfold.from_response(response), _nothing
        elif schema is None:
            return response
        else:
            events, close = unfold.events(asked, response["stream"]), response["stream"].close
            response = _described(response, asked)
        return {"ResponseMetadata": response.get("ResponseMetadata", {}), "stream": Stream(events, close)}

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count the tokens of a request as it stands, without what a schema would add: see `bx.converse.Engine`."""
        return count_tokens(self._engine, request)

    def first(self, request: Request) -> Request:
        """Return the request that would be sent first; nothing is sent, and nothing forgotten."""
        if not rungs.is_readable(request):
            return request
        return self._asked(request, _schema(request), self._plan(request, forget=False))[0].request

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
            spent.append(response)
            told = {name: part for name, part in response.items() if name not in ("usage", "metrics")}
            response = _described({**told, **total(spent)}, asked, Attempts=attempt)
            written = rungs.written(asked, response)
            if written is None:  # another tool was called: it is the caller's turn
                return rungs.without_answer(asked, response)
            if stop not in _FINISHED and not (stop == "max_tokens" and _is_lost(written)):
                return rungs.result(response, written, stop)
            answer, problem = _checked(asked, written, schema)
            if problem is None:
                return rungs.result(response, answer, "end_turn")
            if self._guarantee == "any" and answer:
                _log.warning("The answer does not satisfy the schema: %s", problem)
                return rungs.result(_described(response, asked, Violation=problem), answer, "end_turn")
            if attempt < most:
                cost = spent[-1].get("usage", {}).get("totalTokens", "unknown")
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
        asked, at_once = self._asked(request, schema, plan)
        while True:
            at_once = stream and (at_once or (asked.plan.unary and "toolConfig" in asked.request))
            if at_once:
                self._tell(request, "The answer comes in one piece: the model cannot stream it for this request")
            if at_once and schema is not None:
                return asked, {}
            try:
                with self._patience(asked), on_rung(asked.plan.rung if schema is not None else None):
                    if stream and not at_once:
                        return asked, unfold.begun(self._engine.converse_stream(**asked.request))
                    return asked, self._engine.converse(**asked.request)
            except Exception as refusal:  # noqa: BLE001 # raised again unless another plan helps
                asked, at_once = self._lower(request, schema, asked, refusal)

    def _lower(
        self, request: Request, schema: Schema | None, refused: Asked, refusal: Exception
    ) -> tuple[Asked, bool]:
        """Spell a request as a refusal asks for; raises the refusal where that would change nothing."""
        error = (getattr(refusal, "response", None) or {}).get("Error", {})
        plan, change, lasts = refused.plan, dict[str, Any](), True
        while str(error.get("Code")).lower() == "validationexception":
            found = capabilities.after(plan, str(error.get("Message")))
            if found is None or found[0] == plan:
                break
            plan, changed, lasting = found
            change, lasts = change | changed, lasts and lasting
            try:
                asked, at_once = self._asked(request, schema, plan)
            except NotEnforced as below:
                raise NotEnforced(f"{below}. The model refused: {error['Message']}", below.fix) from refusal
            if asked.request != refused.request or asked.plan.unary != refused.plan.unary:
                if lasts:
                    key = self._key(request)
                    self._verdicts.put(key, {**(self._verdicts.get(key) or {}), **change})
                _log.info("Refused (%s): trying %s", error["Message"], plan)
                return asked, at_once
        raise refusal

    def _asked(self, request: Request, schema: Schema | None, plan: Plan) -> tuple[Asked, bool]:
        """Spell a request for a plan; also tells whether the answer must be put back into the schema's terms."""
        request = self._with_tools(request, schema, plan)
        if schema is None:
            return rungs.Asked(request, plan), False
        plan, fitted, changes = self._fitted(request, plan, schema)
        loose = [change.path for change in changes if not change.enforced]
        if plan.family == "local":
            loose = [finding.path for finding in check.check(schema, plan.family) if finding.level == "validated"]
        if self._guarantee == "enforced":
            self._check_enforced(request, plan, loose)
        asked = rungs.ask(plan, request, fitted, capabilities.fields(_model(request)))
        asked = asked._replace(enforced=plan.enforced and not loose)
        if not plan.enforced and plan.family != "local":
            self._tell(request, f"JSON through {_RUNGS[plan.rung]}: checked, not enforced by a grammar")
        if loose:
            self._tell(request, f"Checked, not enforced by a grammar: {_named(loose)}")
        if "toolChoice" in request.get("toolConfig", {}) and asked.tool:
            self._tell(request, "The model is free to choose a tool or the answer: toolChoice cannot be kept to here")
        return asked, any(change.keyword == "required" for change in changes)

    def _fitted(self, request: Request, plan: Plan, schema: Schema) -> tuple[Plan, Schema, list[fix.Change]]:
        """Fit a schema to what a plan takes; where it cannot be, go down to where everything is taken."""
        if plan.family == "local":
            return plan, schema, []
        if plan.enforced:
            try:
                return plan, *fix.fix(schema, plan.family)
            except fix.Unfixable as why:
                if self._guarantee == "enforced":
                    raise
                self._tell(request, f"The model cannot be held to the schema: {why}")
                plan = plan._replace(rung="tool", strict=False)
        try:
            return plan, *fix.fix(schema, "tool")
        except fix.Unfixable:
            if any(_OWN_ADDRESS & node.keys() for _, node in walk.nodes(schema)):
                return plan, schema, []  # its references lead somewhere all the same
            raise

    def _with_tools(self, request: Request, schema: Schema | None, plan: Plan) -> Request:
        """Leave `strict` to the tools that the model can be held to, each with a schema that it takes."""
        config = request.get("toolConfig", {})
        strict = [tool["toolSpec"]["inputSchema"]["json"] for tool in config.get("tools", []) if _is_strict(tool)]
        if plan.family == "local" or not strict:
            return request
        held = [schema, *strict] if schema is not None and plan.enforced else strict
        if plan.strict and (over := check.limits(held, len(strict), plan.family)):
            self._tell(request, f"The tools are not enforced by a grammar: {over[0].says}")
            plan = plan._replace(strict=False)
        tools = [self._tool(request, tool, plan) if _is_strict(tool) else tool for tool in config["tools"]]
        return {**request, "toolConfig": {**config, "tools": tools}}

    def _tool(self, request: Request, tool: dict[str, Any], plan: Plan) -> dict[str, Any]:
        """Fit one strict tool to a plan."""
        spec = tool["toolSpec"]
        why, remedy = "the model takes no strict tools", self._suggestion(_model(request))
        if plan.strict:
            try:
                fitted, changes = fix.fix(spec["inputSchema"]["json"], plan.family)
            except fix.Unfixable as unfixable:
                why, remedy = str(unfixable), unfixable.fix
            else:
                spec = {**spec, "inputSchema": {"json": fitted}}
                if not (loose := [change.path for change in changes if not change.enforced]):
                    return {**tool, "toolSpec": spec}
                why, remedy = f"{_named(loose)} would be checked only", "Remove it, or choose --guarantee validated"
        else:
            spec = {name: part for name, part in spec.items() if name != "strict"}
        message = f"The input of the tool {spec['name']} is not enforced by a grammar: {why}"
        if self._guarantee == "enforced":
            raise NotEnforced(message, remedy)
        self._tell(request, message)
        return {**tool, "toolSpec": spec}

    def _check_enforced(self, request: Request, plan: Plan, loose: list[walk.Path]) -> None:
        """Refuse what no grammar would hold the model to, before anything is sent."""
        if not plan.enforced:
            message = f"No grammar holds {request.get('modelId')} to a schema, and the guarantee is 'enforced'"
            raise NotEnforced(message, self._suggestion(_model(request)))
        if loose:
            message = f"{json_path(loose[0])} would be checked, not enforced, and the guarantee is 'enforced'"
            raise NotEnforced(message, "Remove it, or choose --guarantee validated")

    def _suggestion(self, model: str) -> str:
        names = ", ".join(sorted(set(capabilities.enforcing(self._names)) - _aliases(self._names, model)))
        return f"Choose one of {names}, or --guarantee validated" if names else "Choose --guarantee validated"

    def _plan(self, request: Request, *, forget: bool = True) -> Plan:
        """Return where to begin with a model: what is known of it, and what it has refused lately."""
        plan, key = capabilities.plan(_model(request)), self._key(request)
        if plan.family == "local":
            return plan
        if self._relearn and key not in self._forgotten:
            if forget:
                self._forgotten.add(key)
                self._verdicts.put(key, None)
            return plan
        return capabilities.lowered(plan, self._verdicts.get(key))

    def _key(self, request: Request) -> str:
        return f"{self._scope} {_model(request)}"

    @contextlib.contextmanager
    def _patience(self, asked: Asked) -> Iterator[None]:
        """Say why it may take so long where a grammar has to be made first."""
        if not asked.plan.enforced or asked.plan.family == "local":
            yield
            return
        timer = threading.Timer(_PATIENCE, self._tell, [asked.request, _SLOW])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self, request: Request, note: str) -> None:
        """Tell people something about a model, once."""
        if (told := (_model(request), note)) not in self._told:
            self._told.add(told)
            _log.warning("%s", note)


def _schema(request: Request) -> Schema | None:
    """Read the schema of a request, and refuse one that no answer could be held against, before anything is sent."""
    schema = schema_of(request)
    if schema is not None:
        check.well_formed(schema)
        checker(schema)
    return schema


def _is_strict(tool: dict[str, Any]) -> bool:
    return bool(tool.get("toolSpec", {}).get("strict"))


def _model(request: Request) -> str:
    return str(request.get("modelId"))


def _aliases(names: dict[str, str], model: str) -> set[str]:
    return {name for name, model_id in names.items() if capabilities.base(model_id) == capabilities.base(model)}


def _named(paths: list[walk.Path]) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(map(json_path, paths[:_MOST_NAMED])) + more


def _is_lost(written: str) -> bool:
    """Whether a text ends in white space that a model has lost itself in."""
    return len(written) - len(written.rstrip()) > _LOST


def _checked(asked: Asked, written: str, schema: Schema) -> tuple[str, str | None]:
    """Return an answer as JSON text, empty where it is none, and what is wrong with it."""
    try:
        readings = rungs.values(asked, written)
    except ValueError as cause:
        return "", f"it is not JSON: {cause}"
    broken = checker(schema)
    readings += [fix.restore(value, schema) for value in readings]
    value = next((value for value in readings if broken(value) is None), readings[0])
    return json.dumps(value, ensure_ascii=False), broken(value)


def _described(response: Response, asked: Asked, **more: Any) -> Response:
    """Add to a response how it came about."""
    metadata = response.get("ResponseMetadata", {})
    told = {**metadata.get("StructuredOutput", {}), "Rung": asked.plan.rung, "Enforced": asked.enforced, **more}
    return {**response, "ResponseMetadata": {**metadata, "StructuredOutput": told}}


def _nothing() -> None:
    """Close what needs no closing."""
