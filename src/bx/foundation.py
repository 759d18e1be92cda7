"""Amazon Bedrock's foundation models and inference profiles: what their ids mean, and what each takes and refuses.

The facts are data: `foundation.toml`, which says how they are read. This module knows no engine and sends nothing.
"""

from __future__ import annotations

import fnmatch
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import date


class Model(NamedTuple):
    """A foundation model: the keys of `foundation.toml`, which explains them.

    One that is not `listed` is known by its family alone: its geographies and regions are not known.
    """

    id: str
    name: str = ""
    provider: str = ""
    input: tuple[str, ...] = ("TEXT",)
    output: tuple[str, ...] = ("TEXT",)
    documents: bool = True
    geos: tuple[str, ...] = ()
    in_region: bool = True
    regions: tuple[str, ...] = ()
    context: int = 0
    max_output: int = 0
    streaming: bool = True
    converse: bool = True
    lifecycle: str = "ACTIVE"
    end_of_life: date | None = None
    released: date | None = None
    tools: bool = True
    tools_stream: bool = True
    choices: tuple[str, ...] = ("any", "tool")
    sampling: str = "both"
    thinking: str = ""
    adaptive: bool = False
    output_config: str = "outputConfig"
    count_tokens: bool = False
    cache_minimum: int = 0
    burndown: int = 1
    fields: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    listed: bool = True


class Geography(NamedTuple):
    """A prefix of inference profiles: the keys of `foundation.toml`, which explains them."""

    name: str
    callers: tuple[str, ...]
    destinations: tuple[str, ...]
    listed: bool = True


class Profile(NamedTuple):
    """An inference profile that AWS defines: a model, called through a geography."""

    id: str
    name: str
    geo: str
    model: Model


class Name(NamedTuple):
    """What a `modelId` says: `kind` is that of ARNs, `geo` is empty without a profile, `base` where none is told."""

    kind: str
    geo: str
    base: str


FOUNDATION_MODEL = "foundation-model"
INFERENCE_PROFILE = "inference-profile"
_USUAL_OUTPUT = 4096  # tokens
_BASE = r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,3}(:[a-z0-9-]{1,63}){0,2}"
_OPAQUE = "[a-z0-9]{12}"
_ARN = re.compile(r"arn:aws(-[^:]+)?:(bedrock|sagemaker):[a-z0-9-]{1,20}:([0-9]{12})?:(?P<kind>[a-z-]+)/(?P<rest>.+)")
# What may follow the kind of an ARN; botocore's shape ConversationalModelId has the same forms.
_KINDS = {
    FOUNDATION_MODEL: _BASE,
    INFERENCE_PROFILE: _BASE,
    "application-inference-profile": "[a-zA-Z0-9:.-]+",
    "custom-model": f"{_BASE}/{_OPAQUE}",
    "custom-model-deployment": _OPAQUE,
    "default-prompt-router": "[a-zA-Z0-9:.-]+",
    "endpoint": "[a-zA-Z0-9-]+",
    "imported-model": _OPAQUE,
    "prompt": "[0-9a-zA-Z]{10}(:[0-9]{1,5})?",
    "prompt-router": "[a-zA-Z0-9:.-]+",
    "provisioned-model": _OPAQUE,
}


# ---- models ---------------------------------------------------------------------------------------------------


def models() -> list[Model]:
    """Return all models that are listed, in the order of the file."""
    return list(_listed().values())


def find(model_id: str) -> Model | None:
    """Return what is known of a model, by its base id, a profile's id, or an ARN that names it.

    One that is not listed has what its family has; None where not even a family is known.
    """
    named = name(model_id)
    if named is None or not named.base:
        return None
    return _listed().get(named.base) or _of_family(named.base)


@lru_cache(maxsize=256)
def name(model_id: str) -> Name | None:
    """Read a `modelId`; None where it has no form of Amazon Bedrock's, or names a geography that there is not."""
    if not model_id.startswith("arn:"):
        return _of_id(model_id)
    arn = _ARN.fullmatch(model_id)
    kind = arn["kind"] if arn else ""
    if arn is None or kind not in _KINDS or not re.fullmatch(_KINDS[kind], arn["rest"]):
        return None
    if kind in (FOUNDATION_MODEL, INFERENCE_PROFILE):
        found = _of_id(arn["rest"])
        return found if found and found.kind == kind else None
    return Name(kind, "", arn["rest"].partition("/")[0] if kind == "custom-model" else "")


def on_demand(model: Model, region: str = "") -> bool:
    """Whether a model's base id can be called in a region; an empty or unknown region stands for most of them."""
    if model.regions and _is_known(region):
        return region in model.regions
    return model.in_region


def offered(model: Model, region: str = "") -> bool:
    """Whether a model can be called from a region at all: by its base id, or through a profile."""
    return on_demand(model, region) or any(reaches(geo, region) for geo in model.geos)


def max_output(model_id: str) -> int:
    """Return how many tokens an answer of a model may have; a usual number where that is not known."""
    model = find(model_id)
    return (model.max_output if model else 0) or _USUAL_OUTPUT


def burndown(model_id: str) -> int:
    """Return how often each token of a model's output counts against the quotas."""
    model = find(model_id)
    return model.burndown if model else 1


# ---- profiles -------------------------------------------------------------------------------------------------


def profiles(region: str = "") -> list[Profile]:
    """Return the inference profiles that can be called from a region; all of them without one."""
    return [
        Profile(f"{geo}.{model.id}", f"{geographies()[geo].name} {label(model)}", geo, model)
        for model in models()
        for geo in model.geos
        if reaches(geo, region)
    ]


def label(model: Model) -> str:
    """Return a model's name as those of its profiles spell it: with its provider, once."""
    return f"{model.provider} {model.name}" if model.name else model.id


def reaches(geo: str, region: str) -> bool:
    """Whether a region can call the profiles of a geography; a region that is not known can call all."""
    return not _is_known(region) or _matches(region, geographies()[geo].callers)


@cache
def geographies() -> dict[str, Geography]:
    """Return the geographies by their prefixes."""
    return {geo: Geography(**_frozen(table)) for geo, table in _facts()["geographies"].items()}


@lru_cache(maxsize=256)
def _is_known(region: str) -> bool:
    return any(_matches(region, geography.callers) for geography in geographies().values())


# ---- reading --------------------------------------------------------------------------------------------------


def _of_id(model_id: str) -> Name | None:
    if not re.fullmatch(_BASE, model_id):
        return None
    first, _, rest = model_id.partition(".")
    if first in geographies():
        return Name(INFERENCE_PROFILE, first, rest) if re.fullmatch(_BASE, rest) else None
    unknown = first not in _providers() and rest.partition(".")[0] in _providers()
    return None if unknown else Name(FOUNDATION_MODEL, "", model_id)


def _of_family(base: str) -> Model | None:
    known = _flags(base)
    return Model(base, **known, listed=False) if known else None


def _flags(base: str) -> dict[str, Any]:
    """Put together what the families say of an id."""
    known: dict[str, Any] = {}
    for family in _facts()["family"]:
        if _matches(base, family["ids"]):
            known |= {key: value for key, value in _frozen(family).items() if key != "ids"}
    return known


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    """Copy a table with tuples for its lists and tables: what is cached must not be changed by who asks."""
    frozen = {key: tuple(value.items()) for key, value in table.items() if isinstance(value, dict)}
    frozen |= {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    return {**table, **frozen}


@cache
def _listed() -> dict[str, Model]:
    return {table["id"]: Model(**{**_flags(table["id"]), **_frozen(table)}) for table in _facts()["model"]}


@cache
def _providers() -> frozenset[str]:
    """Return what ids begin with before their first dot."""
    ids = [pattern for family in _facts()["family"] for pattern in family["ids"]]
    return frozenset(each.partition(".")[0] for each in [*ids, *_listed()] if not each.startswith("*"))


@cache
def _facts() -> dict[str, Any]:
    import tomllib
    from pathlib import Path

    return tomllib.loads(Path(__file__).with_name("foundation.toml").read_text("utf-8"))
