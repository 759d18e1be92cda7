"""Tools for a model that was never taught to use them: which one a message asks for, and whether it does at all.

Under `auto` a small model left to itself never calls a tool, or always does. So two things are measured: how much
more it leans towards "yes" than for a message that says nothing, when asked whether the tool fits; and how many of
the words that it would fill into the call were picked from the message: what is not there was invented, and who
copies the whole message or says the same twice has picked nothing. docs/local.md has the accuracy. Pure functions on
requests and chunks; this module knows no library and no thread.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bx.converse import Request

    Spec = dict[str, Any]  # a toolSpec of Converse

NEUTRAL = "..."  # a message that says nothing
# Measured with the default model: without it the words of a call repeat themselves until the tokens run out.
SAMPLING = {"dry_multiplier": 0.8}
_EXAMPLES = [
    ("log_expense: Write down an expense. Needs: amount, purpose", "taxi to the airport 45 euros", "yes"),
    ("order_taxi: Order a taxi. Needs: place, time", "Hello, who are you?", "no"),
    ("book_room: Book a hotel room. Needs: city, nights", "Three nights in Rome", "yes"),
    ("log_expense: Write down an expense. Needs: amount, purpose", "No expenses today", "no"),  # its topic, no task
]
_LONGEST_MESSAGE = 2000  # characters that decide; the end of a longer message
_LONGEST_DESCRIPTION = 500  # characters of a tool's description that decide
_LIKELIEST = 200  # tokens among which yes and no are looked for
_NEVER = 1e-9  # the probability of what is not among them
# Fitted on 82 pairs of a tool and a message, tested on 40 others: see docs/local.md.
_WEIGHT, _THRESHOLD = 3.0, 1.65
_UNKNOWN = 0.5  # the share of words found in a message, for calls without any


def offered(request: Request) -> list[Spec]:
    """Return the tools that may be called: all, or the one that `toolChoice` names."""
    config = request.get("toolConfig", {})
    wanted = config.get("toolChoice", {}).get("tool", {}).get("name")
    specs = [tool["toolSpec"] for tool in config.get("tools", [])]
    return [spec for spec in specs if wanted in (None, spec["name"])]


def is_forced(request: Request) -> bool:
    """Whether the answer must be a call."""
    return not request.get("toolConfig", {}).get("toolChoice", {"auto": {}}).keys() <= {"auto"}


def message(request: Request) -> str | None:
    """Return the text that a call has to be about; None where the last turn is no such text.

    After a tool's results the model tells what they are, and what the assistant has begun is continued: neither
    calls a tool unless one is forced.
    """
    last = request["messages"][-1]
    if last["role"] == "assistant" or any("toolResult" in block for block in last["content"]):
        return None
    return "\n".join(block["text"] for block in last["content"])


def last_text(request: Request) -> str:
    """Return the user's last text, however long ago, or one that says nothing."""
    turns = (turn for turn in request["messages"] if turn["role"] == "user")
    texts = [block["text"] for turn in turns for block in turn["content"] if "text" in block]
    return texts[-1] if texts else NEUTRAL


def hint(schema: dict[str, Any]) -> str:
    """Say what the input must hold: small models copy more of the message where they are told the names alone."""
    properties = schema.get("properties")
    fields = [_field(name, of) for name, of in properties.items()] if isinstance(properties, dict) else []
    return f"Find or write {', '.join(fields)}. Answer in JSON." if fields else "Answer in JSON."


def question(spec: Spec, said: str) -> dict[str, Any]:
    """Ask whether a tool fits a message: the body of a chat completion of one token."""
    turns = [*_EXAMPLES, (_line(spec), said[-_LONGEST_MESSAGE:], "")]
    asked = [{"role": "system", "content": "Decide whether the tool fits the message. Answer yes or no."}]
    for tool, text, answer in turns:
        asked.append({"role": "user", "content": f"Tool: {tool}\nMessage: {text}\nUse the tool?"})
        asked.append({"role": "assistant", "content": answer})
    return {
        "messages": asked[:-1],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": _LIKELIEST,
    }


def leaning(chunks: Iterable[dict[str, Any]]) -> float:
    """Read the answer to a question: the log-odds of "yes" against "no", 0 where the model says neither."""
    found = {"yes": _NEVER, "no": _NEVER}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for token in (choice.get("logprobs") or {}).get("content") or ():
                for likely in token["top_logprobs"]:
                    word = likely["token"].strip().lower()
                    if word in found:
                        found[word] += math.exp(likely["logprob"])
    return math.log(found["yes"] / found["no"])


def is_called(lean: float, written: str, spec: Spec, said: str) -> bool:
    """Whether a drafted call answers a message.

    Args:
        lean: the leaning towards the tool, less that of a message that says nothing.
        written: the JSON of the drafted input.
        spec: the tool.
        said: the message.
    """
    return lean + _WEIGHT * _found(written, spec, said) > _THRESHOLD


def new_id() -> str:
    """Make an id for a call, in the form that Bedrock's have."""
    return "tooluse_" + secrets.token_urlsafe(16)


def spoken(block: dict[str, Any], names: dict[str, str]) -> str:
    """Put a block of a conversation into words; JSON of an earlier call would only be copied.

    Args:
        block: text, a `toolUse` or a `toolResult`.
        names: the id of each call so far -> its tool's name; a `toolUse` adds to it.
    """
    if call := block.get("toolUse"):
        names[call["toolUseId"]] = call["name"]
        filled = ", ".join(f"{name} {_plain(value)}" for name, value in call["input"].items())
        return f"I use {call['name']}{' with ' if filled else ''}{filled}.\n"
    if result := block.get("toolResult"):
        parts = [part["text"] if "text" in part else _plain(part["json"]) for part in result["content"]]
        verb = "failed" if result.get("status") == "error" else "returned"
        return f"{names.get(result['toolUseId'], 'The tool')} {verb}: {' '.join(parts) or 'nothing'}\n"
    return str(block.get("text", ""))


def _field(name: str, schema: Any) -> str:
    about = schema.get("description") if isinstance(schema, dict) else None
    return f"{name} ({about})" if about else name


def _line(spec: Spec) -> str:
    properties = spec["inputSchema"]["json"].get("properties")
    needs = ", ".join(properties) if isinstance(properties, dict) and properties else "nothing"
    about = spec.get("description", spec["name"].replace("_", " "))[:_LONGEST_DESCRIPTION]
    return f"{spec['name']}: {about}. Needs: {needs}"


def _found(written: str, spec: Spec, said: str) -> float:
    """Return the share of an input's words that were picked from the message, each property counting alike."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):  # cut off: words that came to no end are hardly those of the message
        return 0
    properties = spec["inputSchema"]["json"].get("properties", {})
    there = frozenset(_words(said))
    seen, shares = set[frozenset[str]](), list[float]()
    for name, part in value.items():
        known = properties.get(name) if isinstance(properties, dict) else None
        chosen = isinstance(known, dict) and ("enum" in known or "const" in known)
        if chosen or part is None or isinstance(part, bool):  # words of the schema, not of the message
            continue
        words = frozenset(_words(_plain(part)))
        picked = words and words not in seen and not _is_copy(words, there)
        shares.append(len(words & there) / len(words) if picked else 0)
        seen.add(words)
    return sum(shares) / len(shares) if shares else _UNKNOWN


def _is_copy(words: frozenset[str], there: frozenset[str]) -> bool:
    """Whether words hold the whole message: how a model fills in what it has nothing for, unless with numbers."""
    return words >= there and not any(word.isdecimal() for word in words)


def _words(text: str) -> list[str]:
    """Return the words that carry meaning: those of one or two Latin letters hardly ever do."""
    words = re.findall(r"\w+", text.casefold())
    return [word for word in words if len(word) > 2 or not re.fullmatch("[a-z]+", word)]  # noqa: PLR2004 # see above


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
