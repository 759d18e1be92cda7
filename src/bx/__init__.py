"""Amazon Bedrock from Python: the same as the `bx` command, in one import.

    import bx

    print(bx.ask("Three uses of a brick", model="local"))
    for piece in bx.stream("Three uses of a brick", model="claude"):
        print(piece, end="", flush=True)
    incident = bx.ask_json("Extract: checkout degraded 47 min", schema, model="local")

    engine = bx.engine()  # boto3's two methods, over Amazon Bedrock and the embedded models alike
    reply = engine.converse(**bx.request("Why is the sky blue?", model="claude"))
    print(bx.text(reply), reply["usage"])

Importing this loads nothing heavy; boto3's parts and llama.cpp are loaded by the first call that needs them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bx.converse import Engine, InvalidAnswer, Stream, collect, complete, data, deltas, request, text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from bx.catalogue import Named
    from bx.server.endpoint import Endpoint

__all__ = [
    "Engine",
    "InvalidAnswer",
    "ask",
    "ask_json",
    "collect",
    "data",
    "deltas",
    "engine",
    "request",
    "serve",
    "stream",
    "stream_json",
    "text",
]
__version__ = "0.1.0"


def ask(
    prompt: str | list[dict[str, Any]],
    *,
    model: str | None = None,
    tools: Sequence[Callable[..., Any]] = (),
    **more: Any,
) -> str:
    """Ask a model and return the text of its answer.

    Args:
        prompt: the user's text, or a list of Converse messages.
        model: an alias such as `local` or `claude`, a model id, a profile id or an ARN; else the setting `model`,
            else `nova`.
        tools: typed functions that the model may call; their docstrings tell it when.
        more: what `bx.request` takes: `system`, `fields`, `maxTokens`, `temperature`, `topP`, `stopSequences`.

    Raises:
        botocore.exceptions.ClientError: the model refused or failed; `response["Error"]["Code"]` says how.
        botocore.exceptions.BotoCoreError: there are no credentials, no network, or the request has a wrong shape.
        ValueError: the model's name or a setting is unusable.
    """
    return text(_equipped(tools).converse(**request(prompt, model=model or _model(), **more)))


def stream(
    prompt: str | list[dict[str, Any]],
    *,
    model: str | None = None,
    tools: Sequence[Callable[..., Any]] = (),
    **more: Any,
) -> Stream[str]:
    """Ask a model and iterate over the text of its answer as it arrives; closing the iterator stops the model.

    Takes and raises what `ask` does; also a ClientError when the stream breaks before the answer is whole.
    """
    return deltas(_equipped(tools).converse_stream(**request(prompt, model=model or _model(), **more)))


def ask_json(
    prompt: str | list[dict[str, Any]],
    schema: Any,
    *,
    model: str | None = None,
    guarantee: str | None = None,
    **more: Any,
) -> Any:
    """Ask a model for JSON and return it parsed, satisfying the schema.

    Args:
        prompt: the user's text, or a list of Converse messages.
        schema: a JSON Schema, a Pydantic model, a dataclass, a typed dict, or fields as in `"service, minutes int"`.
        model: see `ask`.
        guarantee: `enforced`, `validated` or `any`: see `engine`.
        more: what `bx.request` takes.

    Raises:
        InvalidAnswer: the answer was cut off, refused, or does not satisfy the schema; its `text` is what arrived.
        ValueError: the schema is unusable, or cannot be enforced as the guarantee asks; nothing was sent.
        ClientError: and all else that `ask` raises.
    """
    plain, guarantee = _schema(schema), guarantee or _guarantee()
    response = _default(guarantee).converse(**request(prompt, model=model or _model(), schema=plain, **more))
    return data(response, {} if guarantee == "any" else plain)


def stream_json(
    prompt: str | list[dict[str, Any]],
    schema: Any,
    *,
    model: str | None = None,
    guarantee: str | None = None,
    **more: Any,
) -> Stream[Any]:
    """Ask a model for JSON and iterate over what there is of it, parsed, as it arrives.

    A field appears once it is complete; lists and objects grow. The last value is the whole answer, which satisfies
    the schema. Takes and raises what `ask_json` does, the latter when the answer has arrived.
    """
    plain, guarantee = _schema(schema), guarantee or _guarantee()
    asked = request(prompt, model=model or _model(), schema=plain, **more)
    response = _default(guarantee).converse_stream(**asked)
    events = response["stream"]
    return Stream(_growing(events, {} if guarantee == "any" else plain), getattr(events, "close", lambda: None))


def _growing(events: Iterable[dict[str, Any]], schema: dict[str, Any]) -> Generator[Any]:
    from bx.partial import snapshots

    kept: list[dict[str, Any]] = []

    def pieces() -> Iterator[str]:
        for event in complete(events):
            kept.append(event)
            yield event.get("contentBlockDelta", {}).get("delta", {}).get("text", "")

    last: Any = None
    arriving = pieces()
    for last in snapshots(arriving):
        yield last
    for _ in arriving:  # where the text is no JSON, the snapshots end early
        pass
    value = data(collect(kept), schema)
    if value != last:
        yield value


def engine(
    *,
    geo: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    endpoint_url: str | None = None,
    guarantee: str | None = None,
) -> Named:
    """Make an engine over all models: `converse(**request)` and `converse_stream(**request)`, as boto3 has them.

    `modelId` may be an alias. What is not given is taken from the settings (`BX_*` variables, `bx.toml`, the user's
    `config.toml`). Keep the engine: it holds connections and loaded models, and `close()` frees them. Threads may
    share it.

    Args:
        geo: the geography whose inference profiles are used, such as `eu`.
        region: the AWS region.
        profile: the profile of the shared AWS configuration files.
        endpoint_url: another endpoint for Amazon Bedrock.
        guarantee: what holds for a JSON Schema in a request: `enforced` only accepts a grammar that holds the model
            to all of it, `validated` (the default) any answer that satisfies it, `any` any JSON.
    """
    from functools import partial

    from bx import aws, config
    from bx.account import kept
    from bx.catalogue import Catalogue, Named, warn
    from bx.engines import Router
    from bx.ledger.meter import around
    from bx.profiles import Profiled
    from bx.structured import Structured

    settings = config.load()
    for note in settings.notes:
        warn(note)
    given = {"region": region, "profile": profile, "endpoint_url": endpoint_url}
    bedrock = {name: value or settings.values.get(name) for name, value in given.items()}
    scope, geo = aws.scope(bedrock), geo or settings.values.get("geo")
    account = partial(kept, scope)
    catalogue = Catalogue(settings.models, geo, region=aws.region(bedrock), account=account)
    guarantee = guarantee or settings.values.get("guarantee", "validated")
    meter = around(Router(bedrock), {**settings.values, **bedrock}, source="python", names=catalogue.ids)
    profiled = Profiled(meter, auto=settings.values.get("auto_profile", False), geo=geo, account=account)
    ladder = Structured(profiled, guarantee, scope=scope, names=catalogue.ids())
    return Named(ladder, catalogue)


def serve(engine: Engine | None = None, *, model: str | None = None, strict: bool = True, **options: Any) -> Endpoint:
    """Make a Bedrock on this machine: any AWS SDK can be pointed at its `url` while its context lasts.

        with bx.serve(model="echo") as endpoint:
            client = boto3.client("bedrock-runtime", endpoint_url=endpoint.url)

    Args:
        engine: what answers every model id, given the requests as they come; else `model` does.
        model: the name of the model that stands in for all model ids: `local`, if it is not given, or `echo`.
        strict: whether a request is held to what the model takes that it names, and refused in its words.
        options: `port` (default: a free one), `faults`, `seed`, `record`, `replay`, ...: see
            `bx.server.endpoint.Options`.

    Returns:
        The server. Besides its `url`, `faults.add(...)` has things go wrong while it runs, `requests` tells what it
        was asked, `stats.summary()` how long that took. Servers of one process share the models that they load.

    Raises:
        ValueError: the model's name or an option is unusable, or the extra is not installed; `fix` says what to do.
    """
    from bx.server import check_installed

    check_installed()
    from bx.server.endpoint import CannotServe, Endpoint, Route
    from bx.server.endpoint import options as made

    if engine is not None and model is not None:
        raise CannotServe("An engine and a model cannot both answer", "Give one of them")
    if engine is not None:
        return Endpoint([Route("*", engine, strict=strict, forward=True)], made(**options))
    from bx import config
    from bx.catalogue import Catalogue, UnknownModel
    from bx.engines import is_ours

    resolved = Catalogue(config.load().models).resolve(model or "local").id
    if not is_ours(resolved):
        message = f"{model!r} is a model of Amazon Bedrock, and cannot stand in for others"
        raise UnknownModel(message, "Choose local or echo, or forward all requests: bx.serve(bx.engine())")
    return Endpoint([Route("*", _embedded(), resolved, strict=strict)], made(**options))


@cache
def _embedded() -> Engine:
    from bx.engines import Router

    return Router()


@cache
def _default(guarantee: str | None = None) -> Named:
    return engine(guarantee=guarantee)


def _equipped(tools: Sequence[Callable[..., Any]]) -> Engine:
    if not tools:
        return _default()
    from bx.turns import Equipped

    return Equipped(_default(), tools)


def _schema(given: Any) -> dict[str, Any]:
    """Return the JSON Schema that is given in one of its forms, and is one.

    Raises:
        ValueError: it is none.
    """
    from bx.schema import check, concise, source

    schema = concise.parse(given) if isinstance(given, str) else source.of(given)
    check.well_formed(schema)
    return schema


@cache
def _guarantee() -> str:
    from bx import config

    return str(config.load().values.get("guarantee", "validated"))


@cache
def _model() -> str:
    from bx import catalogue, config

    return str(config.load().values.get("model", catalogue.DEFAULT))
