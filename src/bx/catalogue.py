"""What a model name means: an alias or a base id -> the id that is sent.

The names are data: `models.toml` here, and the entries that configuration files add. This module knows no engine.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.converse import count_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bx.account import Account
    from bx.converse import Engine, Response

KEYS = {"id": str, "geos": list, "in_region": bool, "note": str}
FILE = "file"  # the key of an entry that names where it stands, when a project has written it
_IN_WORDS = {str: "text", list: "a list of texts", bool: "true or false"}
DEFAULT = "nova"
DEFAULT_GEO = "global"


class UnknownModel(ValueError):
    """A name is no model's, or a model has no profile in a geography; `fix` says what can be chosen."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Resolved(NamedTuple):
    """The id to send, and a note for people where the choice was not theirs."""

    id: str
    note: str = ""


class Catalogue:
    """The known models.

    Args:
        entries: tables that add to or override those of `models.toml`, by alias.
        geo: the geography whose inference profiles are used; None prefers `global` but takes what a model has.
        region: the AWS region, where it is known.
        account: gives what the account can call, where it was asked; it is called for models of Amazon Bedrock alone.
    """

    def __init__(
        self,
        entries: Mapping[str, Mapping[str, Any]] | None = None,
        geo: str | None = None,
        *,
        region: str = "",
        account: Callable[[], Account | None] | None = None,
    ) -> None:
        self.models = _shipped()
        self._shipped_ids = {alias: entry["id"] for alias, entry in self.models.items()}
        for alias, entry in (entries or {}).items():
            # With an id of its own it is another model, of which nothing is known.
            self.models[alias] = dict(entry) if "id" in entry else {**self.models.get(alias, {}), **entry}
            _check(alias, self.models[alias])
        self._geo = geo
        self._region = region
        self._ask_account = account or (lambda: None)

    def ids(self) -> dict[str, str]:
        """Return the model id of each name."""
        return {name: entry["id"] for name, entry in self.models.items()}

    def resolve(self, name: str) -> Resolved:
        """Turn an alias or a base id into the id to send; any other id passes through.

        Raises:
            UnknownModel: the name can be no id and is no alias, or the model has no profile in the geography.
        """
        resolved, entry = self._named(name)
        of_ours = entry is not None and entry["id"] in self._shipped_ids.values()
        if not resolved.note and not of_ours and _of_bedrock(resolved.id):
            from bx.account import remark

            resolved = resolved._replace(note=remark(resolved.id, self._region, self._account))
        if entry and FILE in entry:  # a project's file may come from anyone
            was = self._shipped_ids.get(name, "")
            if was.startswith("local") and not resolved.id.startswith("local"):
                fix = f"Remove models.{name} there, or choose another model"
                raise UnknownModel(f"{entry[FILE]} makes {name!r} leave this machine: it means {resolved.id}", fix)
            if was not in ("", entry["id"]):
                return resolved._replace(note=f"{entry[FILE]} gives {name} another meaning: {resolved.id}")
        return resolved

    def _named(self, name: str) -> tuple[Resolved, dict[str, Any] | None]:
        """Find the id of a name, and its entry; the ARN of a foundation model is another name of its base id."""
        base = name.rpartition(":foundation-model/")[2]
        entry = self.models.get(name) or next((e for e in self.models.values() if e["id"] == base), None)
        if entry is None and "." not in name and ":" not in name:
            raise _unknown(name, self.models)
        if entry is None:
            self._check_geography(name, name)
            return self._needed(name, base) or Resolved(name), None
        found = self._found(name, entry)
        return (Resolved(name, found.note) if found.id == base else found), entry

    def _found(self, name: str, entry: dict[str, Any]) -> Resolved:
        geos, model_id = entry.get("geos", []), entry["id"]
        if entry.get("in_region", True) and not (self._geo and geos):
            self._check_geography(name, model_id)
            if geos and (needed := self._needed(name, model_id, geos)):
                return needed
            return Resolved(model_id, self._without_profile(name, model_id))
        if self._geo in geos:
            return Resolved(f"{self._geo}.{model_id}")
        if self._geo is not None:
            raise _without(name, self._geo, geos)
        account = self._account
        here = [geo for geo in geos if account and f"{geo}.{model_id}" in account.profiles]
        if account and account.tells_profiles and not here:
            return Resolved(f"{geos[0]}.{model_id}", f"{name} has no inference profile in {account.region}")
        here = here or geos
        note = f"{name} has no {DEFAULT_GEO} inference profile: using {here[0]} (choose with --geo)"
        return Resolved(f"{here[0]}.{model_id}", "" if here[0] == DEFAULT_GEO else note)

    def _needed(self, name: str, base: str, among: Iterable[str] = ()) -> Resolved | None:
        """Find the profile of a base id that needs one here, as far as the account was asked."""
        account = self._account if _of_bedrock(base) else None
        listed = account.models.get(base) if account else None
        if not account or not listed or "ON_DEMAND" in listed.types:
            return None
        there = [each.partition(".")[0] for each in account.profiles if each.endswith(f".{base}")]
        geos = [geo for geo in among or sorted(there, key=lambda geo: geo != DEFAULT_GEO) if geo in there]
        if not geos:
            return None
        if self._geo is not None and self._geo not in geos:
            raise _without(name, self._geo, geos)
        geo = self._geo or geos[0]
        note = f"{name} can only be called through an inference profile: using {geo} (choose with --geo)"
        return Resolved(f"{geo}.{base}", "" if self._geo else note)

    @cached_property
    def _account(self) -> Account | None:
        return self._ask_account()

    def _check_geography(self, name: str, model_id: str) -> None:
        """Refuse the profile of another geography than the one that was chosen."""
        prefix = model_id.rpartition("/")[2].partition(".")[0]
        if self._geo is None or prefix == self._geo:
            return
        if any(prefix in model.get("geos", []) for model in self.models.values()):
            message = f"{name} is an inference profile of the geography {prefix!r}, not {self._geo!r}"
            raise UnknownModel(message, f"Choose --geo {prefix}, or a model by its name or base id")

    def _without_profile(self, name: str, model_id: str) -> str:
        """Say so where a geography was chosen and has no effect."""
        of_bedrock = _of_bedrock(model_id) and not model_id.startswith("arn:")
        if self._geo is None or not of_bedrock or model_id.startswith(f"{self._geo}."):
            return ""
        return f"{name} has no inference profiles: it answers in the region that is called, whatever --geo says"


class Named:
    """An engine that takes the catalogue's names as `modelId` and passes the ids on."""

    def __init__(self, engine: Engine, catalogue: Catalogue) -> None:
        self._engine = engine
        self._catalogue = catalogue

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        return self._engine.converse(**self._resolved(request))

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        return self._engine.converse_stream(**self._resolved(request))

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count tokens by the base id of a name, for CountTokens takes no profiles: see `bx.converse.Engine`."""
        name = request.get("modelId")
        if isinstance(name, str):
            self._catalogue.resolve(name)
            request["modelId"] = self._catalogue.ids().get(name, name)
        return count_tokens(self._engine, request)

    def close(self) -> None:
        """Free what the engine holds."""
        if close := getattr(self._engine, "close", None):
            close()

    def _resolved(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("modelId")
        if not isinstance(name, str):  # the engine says what is wrong with it
            return request
        resolved = self._catalogue.resolve(name)
        if resolved.note:
            warn(resolved.note)
        return {**request, "modelId": resolved.id}


def warn(note: str) -> None:
    """Tell a Python program what the command line would print to stderr."""
    import logging

    logging.getLogger("bx").warning(note)


def sources() -> dict[str, str]:
    """Say where what is known of models comes from, and when it was read."""
    told: dict[str, str] = _file()["sources"]
    return told


def _shipped() -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = _file()["models"]
    return models


def _file() -> dict[str, Any]:
    import tomllib
    from pathlib import Path

    return tomllib.loads(Path(__file__).with_name("models.toml").read_text("utf-8"))


def _check(alias: str, entry: Mapping[str, Any]) -> None:
    for key, value in entry.items():
        if key == FILE:
            continue
        if key not in KEYS:
            raise UnknownModel(f"models.{alias}: unknown key {key!r}", f"Use one of: {', '.join(KEYS)}")
        kind = KEYS[key]
        fits = isinstance(value, kind)
        if kind is list:
            fits = fits and all(isinstance(item, str) for item in value)
        if not fits:
            raise UnknownModel(f"models.{alias}.{key} is {value!r}", f"It must be {_IN_WORDS[kind]}")
    if "id" not in entry:
        raise UnknownModel(f"models.{alias} has no id", f'Add a line below [models.{alias}]: id = "..."')
    if not entry.get("in_region", True) and not entry.get("geos"):
        raise UnknownModel(f"models.{alias} is neither in_region nor in any geography", 'Add geos = ["global"]')


def _of_bedrock(model_id: str) -> bool:
    """Whether an id is one of Amazon Bedrock, which begins PROVIDER.MODEL, or an ARN."""
    return "." in model_id.partition(":")[0] or model_id.startswith("arn:")


def _without(name: str, geo: str, geos: Iterable[str]) -> UnknownModel:
    choices = " or ".join(f"--geo {each}" for each in geos)
    return UnknownModel(f"{name} has no inference profile in the geography {geo!r}", f"Choose {choices}")


def _unknown(name: str, aliases: Iterable[str]) -> UnknownModel:
    import difflib

    near = difflib.get_close_matches(name.lower(), aliases, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    known = f"The names are: {', '.join(sorted(aliases))}"
    return UnknownModel(f"Unknown model {name!r}", f"{meant}{known}; a Bedrock model id or ARN works too")
