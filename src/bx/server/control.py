"""The control plane's answers about models and inference profiles: plain functions on the members of a request.

What there is stands in `foundation.toml`. Members and answers are in boto3's spelling.
"""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from bx import foundation
from bx.converse import error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bx.foundation import Model, Profile

_ACCOUNT = "000000000000"  # of the ARNs of profiles: no account of AWS's has it
DEFAULT_REGION = "us-east-1"  # where the request is, when its signature does not tell
_SINCE = datetime(2026, 10, 1, tzinfo=UTC)  # the date of the facts, for a profile's own, which is not known
_MOST = 1000  # results on a page
_NO_MODEL = "Could not resolve the foundation model from the provided model identifier."
_NO_PROFILE = "The specified inference profile does not exist."  # AWS's own text is not recorded
_SYSTEM_DEFINED = "SYSTEM_DEFINED"


def list_foundation_models(request: dict[str, Any], region: str = "") -> dict[str, Any]:
    """Answer ListFoundationModels: the models that can be called from a region, through a profile or without."""
    filters: dict[str, Callable[[Model], Iterable[str]]] = {
        "byProvider": lambda model: [model.provider],
        "byOutputModality": lambda model: model.output,
        "byInferenceType": lambda model: _inference_types(model, region),
        "byCustomizationType": lambda _: [],  # none can be customized here
    }
    asked = {name: request[name].casefold() for name in filters if name in request}
    found = [
        model
        for model in _models(region)
        if all(value in map(str.casefold, filters[name](model)) for name, value in asked.items())
    ]
    return {"modelSummaries": [_model(model, region) for model in found]}


def get_foundation_model(request: dict[str, Any], region: str = "") -> dict[str, Any]:
    """Answer GetFoundationModel, by a base id or its ARN.

    Raises:
        ClientError: `ResourceNotFoundException` where there is no such model in the region.
    """
    asked = request["modelIdentifier"]
    named = foundation.name(asked)
    base = named.base if named and named.kind == foundation.FOUNDATION_MODEL else ""
    for model in _models(region):
        if model.id == base:
            return {"modelDetails": _model(model, region)}
    raise error("ResourceNotFoundException", _NO_MODEL, operation="GetFoundationModel")


def list_inference_profiles(request: dict[str, Any], region: str = "") -> dict[str, Any]:
    """Answer ListInferenceProfiles: those of AWS that can be called from a region; there are no others.

    Raises:
        ClientError: `ValidationException` when `nextToken` is none that was given out.
    """
    wanted = request.get("typeEquals", _SYSTEM_DEFINED) == _SYSTEM_DEFINED
    found = _profiles(region) if wanted else []
    start = _start(request["nextToken"]) if "nextToken" in request else 0
    end = start + request.get("maxResults", _MOST)
    answer: dict[str, Any] = {"inferenceProfileSummaries": [_profile(each, region) for each in found[start:end]]}
    if end < len(found):
        answer["nextToken"] = base64.urlsafe_b64encode(str(end).encode()).decode()
    return answer


def get_inference_profile(request: dict[str, Any], region: str = "") -> dict[str, Any]:
    """Answer GetInferenceProfile, by a profile's id or its ARN.

    Raises:
        ClientError: `ResourceNotFoundException` where there is no such profile in the region.
    """
    asked = request["inferenceProfileIdentifier"].rpartition("/")[2]
    for profile in _profiles(region):
        if profile.id == asked:
            return _profile(profile, region)
    raise error("ResourceNotFoundException", _NO_PROFILE, operation="GetInferenceProfile")


def get_foundation_model_availability(request: dict[str, Any], region: str = "") -> dict[str, Any]:
    """Answer GetFoundationModelAvailability: whatever there is can be called.

    Raises:
        ClientError: `ResourceNotFoundException` where there is no such model in the region.
    """
    found = get_foundation_model({"modelIdentifier": request["modelId"]}, region)["modelDetails"]
    return {
        "modelId": found["modelId"],
        "agreementAvailability": {"status": "AVAILABLE"},
        "authorizationStatus": "AUTHORIZED",
        "entitlementAvailability": "AVAILABLE",
        "regionAvailability": "AVAILABLE",
    }


def arn(model_id: str, region: str = "") -> str:
    """Return the ARN, in a region, of the profile or model that an id names; an ARN stays as it is."""
    if model_id.startswith("arn:"):
        return model_id
    named = foundation.name(model_id)
    if named and named.geo:
        return f"arn:{_partition(region)}:bedrock:{region or DEFAULT_REGION}:{_ACCOUNT}:inference-profile/{model_id}"
    return _arn(region or DEFAULT_REGION, model_id, region)


OPERATIONS: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "ListFoundationModels": list_foundation_models,
    "GetFoundationModel": get_foundation_model,
    "GetFoundationModelAvailability": get_foundation_model_availability,
    "ListInferenceProfiles": list_inference_profiles,
    "GetInferenceProfile": get_inference_profile,
}


# ---- what there is --------------------------------------------------------------------------------------------


def _models(region: str) -> list[Model]:
    return [model for model in foundation.models() if _lives(model) and foundation.offered(model, region)]


def _profiles(region: str) -> list[Profile]:
    return [profile for profile in foundation.profiles(region) if _lives(profile.model)]


def _lives(model: Model) -> bool:
    return model.end_of_life is None or datetime.now(UTC).date() < model.end_of_life


def _inference_types(model: Model, region: str) -> list[str]:
    """Return how a model can be called; the last one is the service's, though botocore's shape does not list it."""
    types = ["ON_DEMAND"] if foundation.on_demand(model, region) else []
    return [*types, "INFERENCE_PROFILE"] if any(foundation.reaches(geo, region) for geo in model.geos) else types


def _start(token: str) -> int:
    try:
        start = int(base64.urlsafe_b64decode(token.encode()).decode())
    except ValueError:
        start = -1
    if start < 0:
        message = "The provided nextToken is invalid."
        raise error("ValidationException", message, operation="ListInferenceProfiles")
    return start


# ---- as the service spells it ---------------------------------------------------------------------------------


def _model(model: Model, region: str) -> dict[str, Any]:
    lifecycle: dict[str, Any] = {"status": model.lifecycle}
    if model.released:
        lifecycle["startOfLifeTime"] = _midnight(model.released)
    if model.end_of_life:
        lifecycle["endOfLifeTime"] = _midnight(model.end_of_life)
    return {
        "modelArn": _arn(region or DEFAULT_REGION, model.id, region),
        "modelId": model.id,
        "modelName": model.name,
        "providerName": model.provider,
        "inputModalities": [*model.input],
        "outputModalities": [*model.output],
        "responseStreamingSupported": model.streaming,
        "customizationsSupported": [],
        "inferenceTypesSupported": _inference_types(model, region),
        "modelLifecycle": lifecycle,
    }


def _profile(profile: Profile, region: str) -> dict[str, Any]:
    geography = foundation.geographies()[profile.geo]
    # A worldwide profile lists the caller's own region too.
    regions = [region or DEFAULT_REGION, ""] if geography.destinations == ("",) else geography.destinations
    since = _midnight(profile.model.released) if profile.model.released else _SINCE
    return {
        "inferenceProfileName": profile.name,
        "description": f"Routes requests to {foundation.label(profile.model)} {_in_words(regions)}.",
        "createdAt": since,
        "updatedAt": since,
        "inferenceProfileArn": arn(profile.id, region),
        "models": [{"modelArn": _arn(each, profile.model.id, region)} for each in regions],
        "inferenceProfileId": profile.id,
        "status": "ACTIVE",
        "type": _SYSTEM_DEFINED,
    }


def _in_words(regions: list[str] | tuple[str, ...]) -> str:
    if "" in regions:
        return "globally across all supported AWS Regions"
    return f"in {', '.join(regions[:-1])} and {regions[-1]}" if len(regions) > 1 else f"in {regions[0]}"


def _arn(where: str, model_id: str, region: str) -> str:
    return f"arn:{_partition(region)}:bedrock:{where}::foundation-model/{model_id}"


def _partition(region: str) -> str:
    if region.startswith("us-gov-"):
        return "aws-us-gov"
    return "aws-cn" if region.startswith("cn-") else "aws"


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
