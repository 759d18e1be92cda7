"""What a model can be asked for when an answer must satisfy a JSON Schema, and what a refusal tells about that.

The facts are data: `capabilities.toml`, which says how they are read. This module knows no engine and sends nothing.
"""

from __future__ import annotations

import fnmatch
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Plan(NamedTuple):
    """How a model is asked: the keys of `capabilities.toml`."""

    rung: str
    family: str = "claude"
    strict: bool = False
    choice: str = "tool"
    unary: bool = False
    loose: bool = False

    @property
    def enforced(self) -> bool:
        """Whether a grammar holds the model to the schema while it writes."""
        return (self.rung == "native" and not self.loose) or (self.rung == "tool" and self.strict)


def plan(model_id: str) -> Plan:
    """Return how to begin with a model, by its id, profile id or ARN."""
    return Plan(**{name: value for name, value in _entry(model_id).items() if name in Plan._fields})


def fields(model_id: str) -> dict[str, Any]:
    """Return the parameters of the model's own (`additionalModelRequestFields`) that a forced tool needs."""
    return dict(_entry(model_id).get("fields", {}))


def after(refused: Plan, text: str) -> tuple[Plan, dict[str, Any], bool] | None:
    """Read a refusal of the service.

    Returns:
        The plan to try next, what it changes, and whether that holds for the model from now on; None where the text
        tells nothing that another plan would help against.
    """
    for rule in _facts()["refusal"]:
        known = {name: value for name, value in rule["on"].items() if getattr(refused, name) != value}
        if not known and re.search(rule["text"], text, re.IGNORECASE):
            return refused._replace(**rule["then"]), rule["then"], bool(rule.get("lasting"))
    return None


def lowered(known: Plan, verdict: Any) -> Plan:
    """Apply what is remembered of a model's refusals to what is known of it; what is none is passed over."""
    verdict = verdict if isinstance(verdict, dict) else {}
    fits = {"rung": ("native", "tool", "prompt"), "choice": ("tool", "any"), "strict": (False,), "unary": (True,)}
    return known._replace(**{name: verdict[name] for name, values in fits.items() if verdict.get(name) in values})


def enforcing(ids: Mapping[str, str]) -> list[str]:
    """Return the names, of a table of names and model ids, whose model is held to a schema by a grammar."""
    return [name for name, model_id in ids.items() if plan(model_id).enforced]


def base(model_id: str) -> str:
    """Return a model id without the geography of its profile; of an ARN, the id at its end."""
    name = model_id.rpartition("/")[2] if model_id.startswith("arn:") else model_id
    geography, _, rest = name.partition(".")
    return rest if geography in _facts()["geographies"] and rest else name


@lru_cache(maxsize=256)
def _entry(model_id: str) -> dict[str, Any]:
    name = base(model_id)
    entries: list[dict[str, Any]] = _facts()["model"]
    return next(entry for entry in entries if any(fnmatch.fnmatchcase(name, pattern) for pattern in entry["ids"]))


@cache
def _facts() -> dict[str, Any]:
    import tomllib
    from pathlib import Path

    return tomllib.loads(Path(__file__).with_name("capabilities.toml").read_text("utf-8"))
