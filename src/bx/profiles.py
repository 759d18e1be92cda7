"""Inference profiles where they are needed: an engine around an engine, which explains and mends a refusal.

Amazon Bedrock answers the base id of many models with "on-demand throughput isn't supported". Here the profiles that
the region has for the model join that error, under `InferenceProfiles` of its `response`; and where that is allowed,
the request is sent once more, through one of them. It was refused, so nothing is paid twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bx.catalogue import DEFAULT_GEO, warn
from bx.converse import count_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from bx.account import Account
    from bx.converse import Engine, Response

_NEEDS_PROFILE, _WRONG_PROFILE = "on-demand-throughput", "wrong-geography"  # names of diagnoses


class Profiled:
    """An engine that finds the inference profile of a model that needs one.

    Args:
        engine: the engine that is asked.
        auto: whether a request may be sent again through a profile; else the error names the profiles.
        geo: the geography that was chosen, the only one that is used then; None prefers `global`.
        account: gives what the account can call, where it was asked.
        offer: is told the model and its profiles, the one in use first, before the request is sent again; what it
            returns, if anything, is called once the profile has answered, to remember it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        auto: bool = False,
        geo: str | None = None,
        account: Callable[[], Account | None] = lambda: None,
        offer: Callable[[str, list[str]], Callable[[], object] | None] = lambda *_: None,
    ) -> None:
        self._engine = engine
        self._auto = auto
        self._geo = geo
        self._account = account
        self._offer = offer
        self._found: dict[str, str] = {}

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        return self._asked(lambda sent: self._engine.converse(**sent), request)

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        return self._asked(lambda sent: self._engine.converse_stream(**sent), request)

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count tokens; CountTokens takes no profiles: see `bx.converse.Engine`."""
        return count_tokens(self._engine, request)

    def close(self) -> None:
        """Free what the engine holds."""
        if close := getattr(self._engine, "close", None):
            close()

    def _asked(self, call: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
        model_id = request.get("modelId", "")
        if found := self._found.get(model_id):
            return call({**request, "modelId": found})
        try:
            return call(request)
        except Exception as failure:
            usable = self._usable(failure, model_id)
            if not usable:
                raise
        profile = usable[0]
        warn(f"{model_id} can only be called through an inference profile: sent again through {profile}")
        remember = self._offer(model_id, usable)
        answer = call({**request, "modelId": profile})
        self._found[model_id] = profile
        if remember:
            remember()
        return answer

    def _usable(self, failure: Exception, model_id: str) -> list[str]:
        """Put the profiles beside the refusal; return those that may be used instead, the best first."""
        response = getattr(failure, "response", None)
        if not isinstance(response, dict) or response.get("Error", {}).get("Code") != "ValidationException":
            return []
        from bx import foundation
        from bx.account import profiles
        from bx.diagnosis import INFERENCE_PROFILES, explain

        named, kind = foundation.name(model_id), explain(failure, model=model_id).name
        if named is None or not named.base or kind not in (_NEEDS_PROFILE, _WRONG_PROFILE):
            return []
        region = str(response.get("ResponseMetadata", {}).get("Region", ""))
        response[INFERENCE_PROFILES] = found = profiles(named.base, region, self._account())
        if not self._auto or kind != _NEEDS_PROFILE:
            return []
        # A profile decides where a prompt is processed: a geography that was chosen is kept to. One of an
        # application's own is for whoever made it to name.
        of_aws = [each for each in found if not each.startswith("arn:")]
        wanted = [each for each in of_aws if each.startswith(f"{self._geo or DEFAULT_GEO}.")]
        return wanted if self._geo else [*wanted, *(each for each in of_aws if each not in wanted)]
