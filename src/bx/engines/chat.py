"""Converse and the chat completions that llama.cpp and its kin speak: requests one way, chunks the other way.

Pure functions on dicts and iterators; this module knows no library, no thread and no model.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from bx.engines import toolcalls
from bx.instances import violation

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from bx.converse import Event, Request

LONGEST_ANSWER = 1024  # tokens, where the request sets no maxTokens: small models may never come to an end
_MOST_TOKENS = 2**31 - 1  # what llama.cpp can count to
# Measured with the default model: without DRY and the penalty it repeats itself; with a schema only temperature 0
# copies the words of a text reliably.
_PROSE = {"temperature": 0.7, "min_p": 0.1, "dry_multiplier": 0.8, "repeat_penalty": 1.05}
_DATA = {"temperature": 0, "min_p": 0.1}


def body(request: Request, hint: str | None = None, controls: Iterable[str] = ()) -> dict[str, Any]:
    """Translate a Converse request of text and tools into the body of a chat completion.

    Args:
        request: the members of Converse's request.
        hint: added to the system prompt, for models that should be told what a grammar will make them write.
        controls: the texts that begin and end turns for the model; in a message they are broken apart.
    """
    instructions = [block["text"] for block in request.get("system", [])]
    system = "\n\n".join([*instructions, hint] if hint else instructions)
    messages = [{"role": "system", "content": system}] if system else []
    names: dict[str, str] = {}
    for message in request["messages"]:
        content = "".join(toolcalls.spoken(block, names) for block in message["content"])
        messages.append({"role": message["role"], "content": content})
    for plain in messages:
        plain["content"] = harmless(plain["content"], controls)
    config, sampling = request.get("inferenceConfig", {}), _DATA if hint else _PROSE
    return {
        **sampling,
        "temperature": config.get("temperature", sampling["temperature"]),
        "top_p": config.get("topP", 1),
        "max_tokens": min(config.get("maxTokens", LONGEST_ANSWER), _MOST_TOKENS),
        **request.get("additionalModelRequestFields", {}),
        "messages": messages,
        "stream": True,
    }


def harmless(content: str, controls: Iterable[str]) -> str:
    """Put a space into each control token that stands in a text.

    A model reads them as what they look like: text that holds one could end its own turn and begin another's.
    """
    words = sorted(controls, key=len, reverse=True)
    if not words:
        return content
    found = re.compile("|".join(map(re.escape, words)))
    while found.search(content):  # breaking one apart may leave another that overlapped it
        content = found.sub(lambda match: f"{match[0][0]} {match[0][1:]}", content)
    return content


def events(
    chunks: Generator[dict[str, Any]],
    request: Request,
    schema: dict[str, Any] | None,
    tool: str | None = None,
) -> Iterator[Event]:
    """Turn the chunks of a chat completion into Converse's events, all but the last one's `metrics`.

    With `tool`, the name of one, the chunks are the input of a call. An answer or an input that should satisfy
    `schema` and does not ends with the stop reason `malformed_model_output` or `malformed_tool_use`. Stop sequences
    end text, never a call.
    """
    config = request.get("inferenceConfig", {})
    ending = _Ending(config if tool is None else {**config, "stopSequences": []})
    answer, index, kind = list[str](), 0, ""
    yield {"messageStart": {"role": "assistant"}}
    if tool is not None:
        kind, called = "text", {"toolUseId": toolcalls.new_id(), "name": tool}
        yield {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": called}}}
    for now, written in ending.pieces(chunks):
        if kind and now != kind:
            yield {"contentBlockStop": {"contentBlockIndex": index}}
            index += 1
        kind = now
        if now == "text":
            answer.append(written)
        yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": _delta(now, written, tool)}}
    if not kind:  # an answer of no tokens is still an answer
        yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": ""}}}
    yield {"contentBlockStop": {"contentBlockIndex": index}}
    yield {"messageStop": {"stopReason": _reason(ending.reason, "".join(answer), schema, tool)}}
    yield {"metadata": {"usage": ending.usage}}


def _delta(kind: str, written: str, tool: str | None) -> dict[str, Any]:
    if kind != "text":
        return {"reasoningContent": {"text": written}}
    return {"text": written} if tool is None else {"toolUse": {"input": written}}


def _reason(reason: str, answer: str, schema: dict[str, Any] | None, tool: str | None) -> str:
    """Return the stop reason of an answer that ended for a reason."""
    if reason != "end_turn":
        return reason
    if schema is not None and not _satisfies(answer, schema):
        return "malformed_model_output" if tool is None else "malformed_tool_use"
    return reason if tool is None else "tool_use"


class _Ending:
    """How an answer ends: the stop sequence, the limit or the model's own choice, and the tokens it took."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._stops: list[str] = config.get("stopSequences", [])
        self._limit = config.get("maxTokens", LONGEST_ANSWER)
        self._timings: dict[str, Any] = {}
        self._length = False
        self._stopped = False

    def pieces(self, chunks: Generator[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        """Yield each piece of `text` or `reasoning`; at the first stop sequence, stop the chunks."""
        held = ""
        with contextlib.closing(chunks):
            for chunk in chunks:
                self._timings = chunk.get("timings") or self._timings
                choice = (chunk["choices"] or [{}])[0]
                self._length = self._length or choice.get("finish_reason") == "length"
                delta = choice.get("delta", {})
                if delta.get("reasoning_content"):
                    yield "reasoning", delta["reasoning_content"]
                if delta.get("content"):
                    ready, held, self._stopped = cut(held + delta["content"], self._stops)
                    if ready:
                        yield "text", ready
                    if self._stopped:
                        return
        if held:
            yield "text", held

    @property
    def reason(self) -> str:
        """The stop reason, in Converse's words."""
        if self._stopped:
            return "stop_sequence"
        if not self._length:
            return "end_turn"
        full = self._timings.get("predicted_n", 0) < self._limit
        return "model_context_window_exceeded" if full else "max_tokens"

    @property
    def usage(self) -> dict[str, int]:
        """The tokens read and written."""
        read = self._timings.get("prompt_n", 0) + self._timings.get("cache_n", 0)
        written = self._timings.get("predicted_n", 0)
        return {"inputTokens": read, "outputTokens": written, "totalTokens": read + written}


def written(chunks: Iterable[dict[str, Any]]) -> str:
    """Join the text of chunks."""
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def cut(text: str, stops: list[str]) -> tuple[str, str, bool]:
    """Split off what may be shown before a stop sequence.

    Returns:
        The text that is safe to show, the text to hold back because a stop sequence may begin in it, and whether
        a stop sequence was found (then nothing is held back).
    """
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if found:
        return text[: min(found)], "", True
    longest = max((len(stop) for stop in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size], text[-size:], False
    return text, "", False


def _satisfies(answer: str, schema: dict[str, Any]) -> bool:
    try:
        return violation(json.loads(answer), schema) is None
    except (ValueError, RecursionError):
        return False
