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

from bx.converse import Engine, InvalidAnswer, collect, data, deltas, request, text, violation

if TYPE_CHECKING:
    from bx.catalogue import Named
    from bx.converse import Stream

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
    "stream",
    "text",
]
__version__ = "0.1.0"


def ask(prompt: str | list[dict[str, Any]], *, model: str | None = None, **more: Any) -> str:
    """Ask a model and return the text of its answer.

    Args:
        prompt: the user's text, or a list of Converse messages.
        model: an alias such as `local` or `claude`, a model id, a profile id or an ARN; else the setting `model`,
            else `nova`.
        more: what `bx.request` takes: `system`, `fields`, `maxTokens`, `temperature`, `topP`, `stopSequences`.

    Raises:
        botocore.exceptions.ClientError: the model refused or failed; `response["Error"]["Code"]` says how.
        botocore.exceptions.BotoCoreError: there are no credentials, no network, or the request has a wrong shape.
        ValueError: the model's name or a setting is unusable.
    """
    return text(_default().converse(**request(prompt, model=model or _model(), **more)))


def stream(prompt: str | list[dict[str, Any]], *, model: str | None = None, **more: Any) -> Stream[str]:
    """Ask a model and iterate over the text of its answer as it arrives; closing the iterator stops the model.

    Takes and raises what `ask` does; also a ClientError when the stream breaks before the answer is whole.
    """
    return deltas(_default().converse_stream(**request(prompt, model=model or _model(), **more)))


def ask_json(
    prompt: str | list[dict[str, Any]], schema: dict[str, Any], *, model: str | None = None, **more: Any
) -> Any:
    """Ask a model for JSON and return it parsed, satisfying the schema.

    Takes and raises what `ask` does.

    Raises:
        InvalidAnswer: the answer was cut off, refused, or does not satisfy the schema; its `text` is what arrived.
        ValueError: the schema is no valid JSON Schema; nothing was sent.
    """
    violation(None, schema)
    return data(_default().converse(**request(prompt, model=model or _model(), schema=schema, **more)), schema)


def engine(
    *, geo: str | None = None, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None
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
    """
    from bx import config
    from bx.catalogue import Catalogue, Named, warn
    from bx.engines import Router

    settings = config.load()
    for note in settings.notes:
        warn(note)
    given = {"region": region, "profile": profile, "endpoint_url": endpoint_url}
    bedrock = {name: value or settings.values.get(name) for name, value in given.items()}
    return Named(Router(bedrock), Catalogue(settings.models, geo or settings.values.get("geo")))


@cache
def _default() -> Named:
    return engine()


@cache
def _model() -> str:
    from bx import catalogue, config

    return str(config.load().values.get("model", catalogue.DEFAULT))
