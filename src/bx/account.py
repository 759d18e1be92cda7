"""What an AWS account can call from a region: its models and inference profiles, as Amazon Bedrock lists them.

The list is asked for when somebody wants it, through a client that is given, and kept for a day. Where a part of it
may not be seen, the rest still counts. This module knows no engine and no configuration.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import foundation
from bx.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DAY = 24 * 3600  # seconds that a list is kept
APPLICATION, SYSTEM_DEFINED = "APPLICATION", "SYSTEM_DEFINED"
_FILE = "account"
_AT_ONCE = 8  # requests
_AGREEMENT = "agreementAvailability"
# What GetFoundationModelAvailability says of a model that can be called, and in words what is wrong else.
_WORDS = {
    "regionAvailability": ("AVAILABLE", "not in this region"),
    "entitlementAvailability": ("AVAILABLE", "not enabled for this account"),
    "authorizationStatus": ("AUTHORIZED", "not authorized"),
    _AGREEMENT: ("AVAILABLE", "agreement {status}"),
}


class Model(NamedTuple):
    """A foundation model that is listed; `types` are how it can be called: ON_DEMAND, INFERENCE_PROFILE, ..."""

    id: str
    name: str
    provider: str
    input: tuple[str, ...]
    output: tuple[str, ...]
    streaming: bool
    types: tuple[str, ...]
    lifecycle: str
    end_of_life: str = ""


class Profile(NamedTuple):
    """An inference profile that is listed: what is sent to call it, and the base ids that it leads to.

    Of one that AWS defines `id` is sent, of an application's own the `arn`.
    """

    id: str
    arn: str
    name: str
    type: str
    models: tuple[str, ...]

    @property
    def sent(self) -> str:
        """What is sent to call it."""
        return self.arn if self.type == APPLICATION else self.id


class Account(NamedTuple):
    """What an account can call.

    `at` is when it was asked, in Unix seconds. `availability` has a word for each model that was asked about: empty
    where it can be called, else why not. `failures` are the operations that failed, each with the reason.
    """

    at: float
    region: str
    models: dict[str, Model]
    profiles: dict[str, Profile]
    availability: dict[str, str]
    failures: dict[str, str]

    @property
    def tells_profiles(self) -> bool:
        """Whether the profiles that AWS defines are among what is known."""
        return any(each.type == SYSTEM_DEFINED for each in self.profiles.values())


def ask(client: Any, model_ids: Iterable[str], explain: Callable[[Exception], str] = str) -> Account:
    """Ask the account.

    Args:
        client: boto3's client of the service `bedrock`, or one like it.
        model_ids: base ids of models whose availability is asked for, one request each.
        explain: says in a few words why a request failed.

    Returns:
        What was learned; what failed is among its `failures`.

    Raises:
        Exception: as the client does, where nothing at all could be learned.
    """
    from concurrent import futures
    from functools import partial

    failures: dict[str, Exception] = {}

    def attempt(name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as failure:  # noqa: BLE001 # whatever it is, the rest still counts, and it is told
            failures[name] = failure
            return None

    def availability(model_id: str) -> Any:
        call = client.get_foundation_model_availability
        return attempt(f"GetFoundationModelAvailability {model_id}", lambda: call(modelId=model_id))

    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        models = pool.submit(attempt, "ListFoundationModels", client.list_foundation_models)
        kinds = {
            kind: pool.submit(attempt, f"ListInferenceProfiles {kind}", partial(_pages, client, kind))
            for kind in (SYSTEM_DEFINED, APPLICATION)
        }
        asked = {model_id: pool.submit(availability, model_id) for model_id in dict.fromkeys(model_ids)}
    if len(failures) == len(kinds) + 1 + len(asked):
        raise failures["ListFoundationModels"]
    return Account(
        time.time(),
        client.meta.region_name,
        {each["modelId"]: _model(each) for each in (models.result() or {}).get("modelSummaries", ())},
        {found.id: found for kind in kinds.values() for found in map(_profile, kind.result() or ())},
        {model_id: _availability(answer.result()) for model_id, answer in asked.items() if answer.result()},
        {name: explain(failure) for name, failure in failures.items()},
    )


def keep(scope: str, account: Account) -> None:
    """Keep what was learned for a day, under the name of the part of AWS that was asked; see `bx.aws.scope`."""
    rows = {"models": [*account.models.values()], "profiles": [*account.profiles.values()]}
    Memory(_FILE, DAY).put(scope, {**account._asdict(), **rows})


def kept(scope: str) -> Account | None:
    """Return what was learned of a part of AWS today; None where nothing was, or it cannot be read."""
    fact = Memory(_FILE, DAY).get(scope)
    try:
        models = [Model(*map(_frozen, each)) for each in fact["models"]]
        profiles = [Profile(*map(_frozen, each)) for each in fact["profiles"]]
        by_id = {"models": {each.id: each for each in models}, "profiles": {each.id: each for each in profiles}}
        return Account(**{**fact, **by_id})
    except (TypeError, KeyError):  # nothing is kept, or another version of bx kept it
        return None


def profiles(base: str, region: str = "", account: Account | None = None) -> list[str]:
    """Name the inference profiles through which a model can be called from a region, AWS's own first.

    They are those of the account where it was asked, else those that are known.
    """
    if account and account.tells_profiles:
        found = [each for each in account.profiles.values() if base in each.models]
        return [each.sent for each in sorted(found, key=lambda each: (each.type == APPLICATION, each.id))]
    return [each.id for each in foundation.profiles(region) if each.model.id == base]


def remark(model_id: str, region: str = "", account: Account | None = None) -> str:
    """Say what speaks against calling a model, as far as that is known; mostly nothing.

    Nothing is forbidden by it: what is known may be out of date.
    """
    named = foundation.name(model_id)
    if named is None or not named.base:
        return ""
    base, model = named.base, foundation.find(model_id)
    listed = account.models.get(base) if account else None
    if model and not model.converse:
        return f"{base} is no model for Converse ({', '.join(model.output).lower()}): Amazon Bedrock will refuse it"
    ends = (listed.end_of_life if listed else "") or (str(model.end_of_life or "") if model else "")
    if ends and ends <= today():
        return f"{base} reached the end of its life on {ends}: Amazon Bedrock will refuse it"
    if (listed.lifecycle if listed else model.lifecycle if model else "") == "LEGACY":
        until = f", and until {ends}" if ends else ""
        return f"{base} is marked as Legacy: it answers accounts that used it in the last 30 days{until}"
    return _misplaced(model_id, named.geo, region, account)


def _misplaced(model_id: str, geo: str, region: str, account: Account | None) -> str:
    """Say so where a profile cannot be called from a region."""
    if not geo:
        return ""
    if account and account.tells_profiles:
        known = model_id.rpartition("/")[2] in account.profiles
        return "" if known else f"{model_id} is not among this account's inference profiles in {account.region}"
    if foundation.reaches(geo, region):
        return ""
    callers = ", ".join(foundation.geographies()[geo].callers)
    return f"{model_id} can be called from {callers} only, and not from {region}"


def today() -> str:
    """Return the date, UTC, as the ends of models' lives are written."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def _pages(client: Any, kind: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_inference_profiles").paginate(typeEquals=kind)
    return [each for page in pages for each in page.get("inferenceProfileSummaries", ())]


def _model(told: dict[str, Any]) -> Model:
    life = told.get("modelLifecycle", {})
    end = life.get("endOfLifeTime")
    return Model(
        told["modelId"],
        told.get("modelName", ""),
        told.get("providerName", ""),
        tuple(told.get("inputModalities", ())),
        tuple(told.get("outputModalities", ())),
        told.get("responseStreamingSupported", False),
        tuple(told.get("inferenceTypesSupported", ())),
        life.get("status", ""),
        end.date().isoformat() if end else "",
    )


def _profile(told: dict[str, Any]) -> Profile:
    bases = dict.fromkeys(each.get("modelArn", "").rpartition("/")[2] for each in told.get("models", ()))
    return Profile(
        told["inferenceProfileId"],
        told.get("inferenceProfileArn", ""),
        told.get("inferenceProfileName", ""),
        told.get("type", SYSTEM_DEFINED),
        tuple(bases),
    )


def _availability(told: dict[str, Any]) -> str:
    """Say in words what stands in the way of a model; nothing where it can be called."""
    for name, (good, words) in _WORDS.items():
        status = told.get(name, good)
        if name == _AGREEMENT:
            status = status.get("status", good) if isinstance(status, dict) else good
        if status != good:
            return words.format(status=status.lower().replace("_", " "))
    return ""


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
