"""The head of a GGUF model file: which tokens control a conversation, and whether it is sound enough to be loaded.

llama.cpp ends the whole process over some kinds of damage, so those are found here first. This
module knows no engine.
"""

from __future__ import annotations

import mmap
import re
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
_FORMATS = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}  # the values that are looked at
_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens
_MOST_LAYERS = 512
_LONGEST_CONTEXT = 2**31 - 1
_MARKED = re.compile(r"<[|\uff5c].*[|\uff5c]>")  # a control token by its looks: not all files say so


def controls(path: Path) -> list[str]:
    """Return the texts of the tokens that begin and end turns, which no text of a user may hold.

    Raises:
        ValueError: the file is damaged, or no model that llama.cpp can run.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            head = _Reader(content).metadata()
        except (struct.error, OverflowError, KeyError, IndexError) as cause:
            raise ValueError(f"its head cannot be read ({cause})") from None
    _check(head)
    tokens, kinds = head["tokenizer.ggml.tokens"], head.get("tokenizer.ggml.token_type", [])
    named = [(token.decode(errors="replace"), kind) for token, kind in zip(tokens, kinds, strict=False) if kind != 1]
    return [
        text
        for text, kind in named
        if len(text) > 1 and (kind == _CONTROL or (kind == _USER_DEFINED and _MARKED.fullmatch(text)))
    ]


def _check(head: dict[str, Any]) -> None:
    tokens = head.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise ValueError("it has no vocabulary")  # noqa: TRY004 # the file's fault, not the caller's
    words = [token for token in tokens if token]
    if len(set(words)) != len(words):
        raise ValueError("its vocabulary has a token twice")
    kind = head.get("general.architecture", b"").decode(errors="replace")
    limits = {"block_count": _MOST_LAYERS, "context_length": _LONGEST_CONTEXT}
    for name, most in limits.items():
        value = head.get(f"{kind}.{name}", 1)
        if not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"its {name} is {value}")


class _Reader:
    """A position in the bytes of a file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 0

    def metadata(self) -> dict[str, Any]:
        """Read the names and values before the tensors."""
        self._at = 4  # the magic
        (_version,) = self._take("<I")
        _tensors, count = self._take("<QQ")
        return {self._string().decode(errors="replace"): self._value(*self._take("<I")) for _ in range(count)}

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._take("<IQ")
            return self._array(inner, count)
        if kind in _FORMATS:
            return self._take(_FORMATS[kind])[0]
        return self._skip(_SIZES[kind])

    def _array(self, kind: int, count: int) -> Any:
        if kind == _STRING:
            return self._strings(count)
        start = self._at
        self._skip(_SIZES[kind] * count)
        if kind not in _FORMATS:
            return None
        return list(struct.unpack_from(f"<{count}{_FORMATS[kind][1]}", self._content, start))

    def _strings(self, count: int) -> list[bytes]:
        """Read many strings; a vocabulary has up to a quarter of a million, so this is written for speed."""
        size_at, content, at = struct.Struct("<Q").unpack_from, self._content, self._at
        found = []
        for _ in range(count):
            (size,) = size_at(content, at)
            at += 8 + size
            found.append(content[at - size : at])
        self._at = at
        return found

    def _string(self) -> bytes:
        (size,) = self._take("<Q")
        self._skip(size)
        return self._content[self._at - size : self._at]

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._content, self._at)
        self._at += struct.calcsize(form)
        return values

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._content):
            raise IndexError("it ends too early")
