"""What the named model refuses, in Bedrock's own texts, and what of a request only the named model understands.

The facts are data: `foundation.toml`, `capabilities.toml` and the rules of `bx.schema`. Pure functions on Converse
requests that have the right shape. Of a model that is not known, nothing but the form of its id is checked.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import capabilities, foundation
from bx.converse import error, schema_of
from bx.instances import json_path
from bx.schema import check as subset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from botocore.exceptions import ClientError

    from bx.capabilities import Plan
    from bx.converse import Request
    from bx.foundation import Model

INVALID = "The provided model identifier is invalid."
_ON_DEMAND = (
    "Invocation of model ID {id} with on-demand throughput isn't supported. Retry your request with the ID or ARN of "
    "an inference profile that contains this model."
)
_END_OF_LIFE = (
    "This model version has reached the end of its life. Please upgrade to an active model on Amazon Bedrock."
)
_NO_CONVERSE = (
    "This action doesn't support the model that you provided. Try again with a supported text or chat model."
)
_NO_COUNT = "The provided model doesn't support counting tokens."
_NO_CACHE = (
    "You invoked an unsupported model or your request did not allow prompt caching. "
    "See the documentation for more information."
)
_NOTHING_TO_CACHE = "There is nothing available to cache. Please remove the invalid cache point and try again."
_MOST_CACHE_POINTS = 4
_EXTRA = "Extra inputs are not permitted"
_MEDIA = {"image": "IMAGE", "video": "VIDEO", "audio": "AUDIO", "document": "DOCUMENT"}
# Where a schema stands: for Converse, and for Claude.
_SCHEMA = ("outputConfig.textFormat.structure.jsonSchema.schema", "output_config.format.schema")
_TOOL = ("toolConfig.tools.{}.toolSpec.inputSchema.json", "tools.{}.custom")
_JSON_MODE = {"type": "object"}  # what `response_format: json_object` of a native body means
_NATIVE = {"temperature": "temperature", "topP": "top_p"}  # Claude's names of what inferenceConfig has
_DROPPED = ("additionalModelResponseFieldPaths", "performanceConfig", "serviceTier")


class _Asked(NamedTuple):
    """A request, and what is known of the model that it names."""

    request: Request
    stream: bool
    model: Model
    plan: Plan

    @property
    def inference(self) -> dict[str, Any]:
        return self.request.get("inferenceConfig") or {}

    @property
    def is_claude(self) -> bool:
        return self.model.provider == "Anthropic"

    @property
    def fields(self) -> dict[str, Any]:
        given = self.request.get("additionalModelRequestFields")
        return given if isinstance(given, dict) else {}

    @property
    def specs(self) -> list[dict[str, Any]]:
        tools = self.request.get("toolConfig", {}).get("tools", [])
        return [tool["toolSpec"] for tool in tools if "toolSpec" in tool]

    @property
    def forced(self) -> str:
        """How a tool must be called, any or tool; empty where the model may choose."""
        choice = next(iter(self.request.get("toolConfig", {}).get("toolChoice", {})), "auto")
        return "" if choice == "auto" else choice


# ---- refusals -------------------------------------------------------------------------------------------------


def check(request: Request, *, stream: bool, region: str = "") -> None:
    """Refuse a request that the model which it names would refuse.

    Args:
        request: the members of Converse's request, in their shapes.
        stream: whether the answer shall come in a stream.
        region: where the request is signed for; empty where that is not known.

    Raises:
        ClientError: with the text of the service where it is recorded.
    """
    model = _identified(request["modelId"], region)
    if model is None:
        return
    if not model.converse:
        raise _refuse(_NO_CONVERSE)
    asked = _Asked(request, stream, model, capabilities.plan(model.id))
    for rule in _RULES:
        rule(asked)


def check_count(model_id: str, region: str = "") -> None:
    """Refuse to count the tokens of a model that CountTokens does not support; it takes base ids and their ARNs only.

    Raises:
        ClientError: `ValidationException`, or `ResourceNotFoundException` at the end of a model's life.
    """
    named = foundation.name(model_id)
    if named is None:
        raise _refuse(INVALID)
    if named.kind != foundation.FOUNDATION_MODEL:
        raise _refuse(_NO_COUNT)
    model = foundation.find(model_id)
    if model is None:
        return
    _check_available(model, region)
    if not model.count_tokens:
        raise _refuse(_NO_COUNT)


def _identified(model_id: str, region: str) -> Model | None:
    """Return what is known of a model that can be called from a region under the id."""
    named = foundation.name(model_id)
    if named is None or (named.geo and not foundation.reaches(named.geo, region)):
        raise _refuse(INVALID)
    model = foundation.find(model_id)
    if model is None or not model.listed:
        return model
    if named.geo and foundation.geographies()[named.geo].listed and named.geo not in model.geos:
        raise _refuse(INVALID)
    _check_available(model, region)
    if named.kind == foundation.FOUNDATION_MODEL and not foundation.on_demand(model, region):
        raise _refuse(_ON_DEMAND.format(id=model.id))
    return model


def _check_available(model: Model, region: str) -> None:
    if model.end_of_life and datetime.now(UTC).date() >= model.end_of_life:
        raise error("ResourceNotFoundException", _END_OF_LIFE)
    if model.listed and not foundation.offered(model, region):
        raise _refuse(INVALID)


def _check_tools(asked: _Asked) -> None:
    if "toolConfig" not in asked.request:
        return
    if not asked.model.tools:
        raise _refuse("This model doesn't support tool use.")
    if asked.stream and not asked.model.tools_stream:
        raise _refuse("This model doesn't support tool use in streaming mode.")
    if asked.forced and asked.forced not in asked.model.choices:
        if asked.is_claude:
            raise _told('tool_choice: type "tool" and "any" are not supported for this model.')
        raise _no_field(f"toolConfig.toolChoice.{asked.forced}")


def _check_media(asked: _Asked) -> None:
    model = asked.model
    taken = {*model.input, "DOCUMENT"} if model.documents else {*model.input}
    refused = {name for name, kind in _MEDIA.items() if kind not in taken} if model.listed else set[str]()
    for message in asked.request.get("messages", []):
        for block in message["content"]:
            for name in refused & block.keys():
                raise _no_field(name, f" for {message['role']} messages")
            for part in block.get("toolResult", {}).get("content", []):
                for name in refused & part.keys():
                    raise _no_field(name, " for tool results")


def _check_cache(asked: _Asked) -> None:
    lists = _cacheable(asked.request)
    found = sum("cachePoint" in block for blocks in lists for block in blocks)
    if not found:
        return
    if asked.model.listed and not asked.model.cache_minimum:
        raise error("AccessDeniedException", _NO_CACHE)
    if any(blocks and "cachePoint" in blocks[0] for blocks in lists):
        raise _refuse(_NOTHING_TO_CACHE)
    if found > _MOST_CACHE_POINTS and asked.is_claude:
        raise _told(f"A maximum of {_MOST_CACHE_POINTS} blocks with cache_control may be provided. Found {found}.")
    if found > _MOST_CACHE_POINTS:
        raise _refuse(f"A request may have at most {_MOST_CACHE_POINTS} cachePoint blocks, and this one has {found}.")


def _check_length(asked: _Asked) -> None:
    most = asked.model.max_output
    if most and asked.inference.get("maxTokens", 0) > most:
        advice = f"Try again with a maximum tokens value that is lower than {most}."
        raise _refuse(f"The maximum tokens you requested exceeds the model limit of {most}. {advice}")


def _check_sampling(asked: _Asked) -> None:
    model, claude = asked.model, asked.is_claude
    given = [name for name in _NATIVE if name in asked.inference]
    if model.sampling == "one" and len(given) > 1:
        raise _told("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    if model.sampling != "none":
        return
    for name in given:
        raise _told(f"`{_NATIVE[name]}` is deprecated for this model.") if claude else _no_field(name)
    if claude and "top_k" in asked.fields:
        raise _told("`top_k` is deprecated for this model.")


def _check_thinking(asked: _Asked) -> None:
    """Refuse what Claude's thinking does not go with."""
    if not asked.is_claude:
        return
    kind = _member(asked.fields.get("thinking"), "type")
    if kind == "adaptive" and not asked.model.adaptive:
        raise _told("adaptive thinking is not supported on this model")
    thinks = kind in ("enabled", "adaptive") or (asked.model.thinking != "asked" and kind != "disabled")
    if thinks and asked.forced:
        raise _told("Thinking may not be enabled when tool_choice forces tool use.")


def _check_reasoning(asked: _Asked) -> None:
    """Refuse what Nova's reasoning does not go with."""
    config = asked.fields.get("reasoningConfig") if "reasoningConfig" in asked.model.fields else None
    if _member(config, "type") != "enabled" or _member(config, "maxReasoningEffort") != "high":
        return
    for name in ("maxTokens", "temperature", "topP"):
        if name in asked.inference:
            when = "when reasoningConfig type is 'enabled' and maxReasoningEffort is 'high'"
            raise _told(f"`{name}` must be unset {when}.")


def _check_output(asked: _Asked) -> None:
    config = asked.request.get("outputConfig")
    if not config:
        return
    if asked.plan.rung != "native":
        if not asked.is_claude:
            raise _no_field("outputConfig")
        if "textFormat" in config:
            raise _told(f"{asked.model.output_config}: {_EXTRA}")
    if "effort" in config:
        raise _no_field("effort")


def _check_schemas(asked: _Asked) -> None:
    """Refuse strict tools where there are none, and schemas that are outside the subset of the model's family."""
    strict = {index: spec for index, spec in enumerate(asked.specs) if spec.get("strict")}
    if strict and not asked.plan.strict:
        index = next(iter(strict))
        if asked.is_claude:
            raise _told(f"tools.{index}.custom.strict: {_EXTRA}")
        raise _no_field(f"toolConfig.tools.{index}.toolSpec.strict")
    schemas = {_TOOL[asked.is_claude].format(index): spec["inputSchema"]["json"] for index, spec in strict.items()}
    if (schema := schema_of(asked.request)) is not None:
        schemas = {_SCHEMA[asked.is_claude]: schema, **schemas}
    if not schemas:
        return
    refusal = _told if asked.is_claude else _refuse
    for problem in _problems(schemas, len(strict), asked.plan.family):
        raise refusal(problem)


def _problems(schemas: dict[str, Any], strict_tools: int, family: str) -> Iterator[str]:
    for where, schema in schemas.items():
        try:
            subset.well_formed(schema)
        except subset.InvalidSchema as invalid:
            yield f"{where}: {invalid}"
    yield from (finding.says for finding in subset.limits([*schemas.values()], strict_tools, family))
    for where, schema in schemas.items():
        if schema == _JSON_MODE and family == "open-weight":
            continue
        for finding in subset.check(schema, family):
            if finding.level == "refused":
                at = "" if finding.recorded else f"{subset.place(finding.path)}: "
                yield f"{where}: {at}{finding.says}"


# In this order: what Converse itself refuses comes before what it hands to the model.
_RULES: tuple[Callable[[_Asked], None], ...] = (
    _check_tools,
    _check_media,
    _check_cache,
    _check_length,
    _check_output,
    _check_sampling,
    _check_thinking,
    _check_reasoning,
    _check_schemas,
)


def _cacheable(request: Request) -> list[list[dict[str, Any]]]:
    """Return the lists of blocks in which a cachePoint may stand."""
    tools = request.get("toolConfig", {}).get("tools", [])
    return [request.get("system", []), tools, *(message["content"] for message in request.get("messages", []))]


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _refuse(text: str) -> ClientError:
    return error("ValidationException", text)


def _told(text: str) -> ClientError:
    """Make the error of a text that is the model's own."""
    return _refuse(f"The model returned the following errors: {text}")


def _no_field(name: str, where: str = "") -> ClientError:
    return _refuse(f"This model doesn't support the {name} field{where}. Remove {name} and try again.")


# ---- for another engine ---------------------------------------------------------------------------------------


def adapted(request: Request) -> tuple[Request, list[str]]:
    """Take out of a request what only the model that it names would understand, so that another engine can answer.

    What is not known to be the named model's own stays, for the engine to refuse. The request is not changed.

    Returns:
        The members of the request for the engine, and the places (JSONPath) of what was taken out or rewritten.
    """
    places: list[str] = []
    made = {name: value for name, value in request.items() if name not in _DROPPED}
    places += [json_path([name]) for name in request if name in _DROPPED]
    if "system" in made:
        made["system"] = list(_understood(made["system"], ("system",), places))
    if "messages" in made:
        made["messages"] = [
            {**message, "content": list(_understood(message["content"], ("messages", index, "content"), places))}
            for index, message in enumerate(made["messages"])
        ]
    if "tools" in made.get("toolConfig", {}):
        config = made["toolConfig"]
        made["toolConfig"] = {**config, "tools": list(_understood(config["tools"], ("toolConfig", "tools"), places))}
    if isinstance(made.get("additionalModelRequestFields"), dict):
        fields = _shared_fields(request, places)
        made.pop("additionalModelRequestFields")
        made |= {"additionalModelRequestFields": fields} if fields else {}
    return made, places


def accounted(request: Request, response: dict[str, Any]) -> dict[str, Any]:
    """Add to a response, or to a stream's metadata, what `usage` has for a request with cachePoint blocks.

    Nothing is cached by an engine that stands in: where it says nothing, both counts are 0.
    """
    if "usage" not in response or not any("cachePoint" in block for each in _cacheable(request) for block in each):
        return response
    return {**response, "usage": {"cacheReadInputTokens": 0, "cacheWriteInputTokens": 0, **response["usage"]}}


def _understood(
    blocks: list[dict[str, Any]], path: tuple[str | int, ...], places: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the blocks that any engine understands; what a guardrail is to look at becomes plain text or image."""
    for index, block in enumerate(blocks):
        name = next(iter(block), "")
        if name in ("cachePoint", "reasoningContent", "guardContent"):
            places.append(json_path([*path, index, name]))
        if name == "guardContent":
            guarded = block[name]
            yield {"text": guarded["text"]["text"]} if "text" in guarded else guarded
        elif name not in ("cachePoint", "reasoningContent"):
            yield block


def _shared_fields(request: Request, places: list[str]) -> dict[str, Any]:
    """Return the model's own parameters without those that only its family knows."""
    fields: dict[str, Any] = copy.deepcopy(request["additionalModelRequestFields"])
    model = foundation.find(request.get("modelId", ""))
    if model is None:
        return fields
    targets = dict(model.renamed)
    for path in (*model.fields, *targets):
        outer, _, inner = path.rpartition(".")
        inside, target = fields.get(outer) if outer else fields, targets.get(path)
        if not isinstance(inside, dict) or inner not in inside or target in fields:
            continue
        value = inside.pop(inner)
        if outer and not inside:
            del fields[outer]
        if target:
            fields[target] = value
        places.append(json_path(["additionalModelRequestFields", *path.split(".")]))
    return fields
