"""Texts without what looks like a secret, for what is kept: of any length, and of any service."""

from __future__ import annotations

import re

from bx.diagnosis import redacted

_CHUNK = 50_000  # characters that are searched for secrets in one go: a longer text may have any length
# Ends of chunks: a secret never goes over the end of a line, and hardly over white space.
_CHUNKS = re.compile(rf".{{1,{_CHUNK}}}(?:\n|\Z)|.{{1,{_CHUNK}}}(?=\s)|.{{1,{_CHUNK}}}", re.DOTALL)
_TO_THE_END = "Invalid header value "  # what `redacted` takes for a secret from there to the end: here, of the line
# Keys of services beside AWS, whose own `redacted` knows.
_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|pk|rk)[-_](?:[a-z]+[-_])*[A-Za-z0-9_-]{20,}"
    r"|\bgh[oprsu]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{22,}|\bglpat-[\w-]{20,}"
    r"|\bxox[a-z]-[\w-]{10,}|\bAIza[\w-]{35}|\bhf_[A-Za-z0-9]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}",
    re.DOTALL,
)


def without_secrets(text: str) -> str:
    """Replace what looks like a key, a token or a password by `***`, in a text of any length."""
    return "".join(_redacted(chunk) for chunk in _CHUNKS.findall(_KEYS.sub("***", text)))


def _redacted(chunk: str) -> str:
    if _TO_THE_END not in chunk:
        return redacted(chunk)
    return "\n".join(map(redacted, chunk.split("\n")))
