"""What Converse asks of a conversation beyond its shapes: turns in order, media within limits, calls with results.

These rules hold for every model of the service. What one model cannot do is for its engine to refuse.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from bx.converse import error
from bx.validation import check_calls, check_text, check_turns, misplaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.exceptions import ClientError

_ROLES = ("user", "assistant", "system")
_PROMPT = ":prompt/"  # in an ARN: of a stored prompt, which has messages and tools of its own
_ELSEWHERE = {  # blocks that a role's messages never have
    "user": {"toolUse"},
    "assistant": {"image", "document"},
    "system": {"image", "document", "toolUse", "toolResult"},
}
_MOST = {"image": (20, "message"), "document": (5, "request")}  # in a message, whatever the service's text says
_LARGEST_IMAGE = 5 * 1024 * 1024  # bytes, once it is in base64: 3.75 MB before
_LARGEST_DOCUMENT = 4_718_592  # bytes: 4.5 MB
_DOCUMENT_NAME = re.compile(r"[a-zA-Z0-9 ()\[\]-]+")
_BAD_NAME = (
    "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, parentheses, "
    "and square brackets. The name can't contain more than one consecutive whitespace character. Check that the file "
    "name conforms to these restrictions and retry your request."
)
_POINTER = re.compile(r"(?:/(?:[^/~]|~[01])*)+")


def check(request: dict[str, Any]) -> None:
    """Refuse a request that no model of the service would be asked to answer.

    Args:
        request: the members of Converse's or ConverseStream's request, which `shapes.check` accepted; also those that
            CountTokens has of them.

    Raises:
        ClientError: `ValidationException`, with the text that the service uses where it is known.
    """
    messages = request.get("messages", [])
    stored = _PROMPT in request.get("modelId", "")
    if messages or not stored:
        check_turns(messages, _ROLES)
    for index, message in enumerate(messages):
        _check_message(message, f"messages.{index}.content")
    _check_names(messages)
    check_calls(messages, defined=stored or "toolConfig" in request)
    for index, pointer in enumerate(request.get("additionalModelResponseFieldPaths", [])):
        if not _POINTER.fullmatch(pointer):
            advice = "Start it with a slash (/), write ~ as ~0 and / as ~1 in names, and try again."
            raise _refuse(f"The JSON Pointer at additionalModelResponseFieldPaths.{index} is malformed. {advice}")


def _check_message(message: dict[str, Any], where: str) -> None:
    role, content = message["role"], message["content"]
    counts = Counter(kind for block in content for kind in block)
    if role == "user" and "reasoningContent" in counts:
        advice = "Please remove the reasoning content and try again."
        raise _refuse(f"User messages cannot contain reasoning content. {advice}")
    for kind in counts:
        if kind in _ELSEWHERE[role]:
            raise misplaced(kind, f"{role} messages")
        most, whole = _MOST.get(kind, (counts[kind], ""))
        if counts[kind] > most:
            raise _refuse(f"You can't include more than {most} {kind}s in a {whole}.")
    if "document" in counts and "text" not in counts:
        raise _refuse("A text block must be included when using documents.")
    for position, block in enumerate(content):
        if "text" in block:
            check_text(block["text"], f"{where}.{position}")
    for at, block in _blocks(content, where):
        _check_media(block, at)


def _check_media(block: dict[str, Any], where: str) -> None:
    if "image" in block:
        encoded = 4 * -(-_size(block["image"]) // 3)
        if encoded > _LARGEST_IMAGE:
            at = f"The model returned the following errors: {where}.image.source.bytes"
            raise _refuse(f"{at}: image exceeds 5 MB maximum: {encoded} bytes > {_LARGEST_IMAGE} bytes")
    elif "document" in block:
        name = block["document"]["name"]
        if not _DOCUMENT_NAME.fullmatch(name) or "  " in name:
            raise _refuse(_BAD_NAME)
        if _size(block["document"]) > _LARGEST_DOCUMENT:
            at = f"The document field in the ContentBlock object at {where} is larger than 4.5 MB."
            raise _refuse(f"{at} Reduce the size of the document and try again.")


def _size(media: dict[str, Any]) -> int:
    """Return the bytes of an image or a document that travel with the request."""
    return len(media["source"].get("bytes", b""))


def _check_names(messages: list[dict[str, Any]]) -> None:
    blocks = (block for message in messages for _, block in _blocks(message["content"], ""))
    names = Counter(block["document"]["name"] for block in blocks if "document" in block)
    if any(count > 1 for count in names.values()):
        raise _refuse("Messages can't contain duplicate document names.")


def _blocks(content: list[dict[str, Any]], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the block of all content, what tools returned included."""
    for position, block in enumerate(content):
        yield f"{where}.{position}", block
        if "toolResult" in block:
            yield from _blocks(block["toolResult"]["content"], f"{where}.{position}.toolResult.content")


def _refuse(message: str) -> ClientError:
    return error("ValidationException", message)
