"""Who may ask: web pages of other sites may not, nor who cannot show a key.

A page on another site can have a browser send requests to a server on the user's machine. The browser tells so in the
headers Host, Origin and Sec-Fetch-Site, which no SDK sends otherwise.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from bx.converse import error
from bx.server import signatures, wire
from bx.server.exchange import OWN

if TYPE_CHECKING:
    from collections.abc import Collection

    from bx.server.exchange import Answer, Received, Reply
    from bx.server.signatures import Keys

HEALTH = f"{OWN}health"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]*)?", re.IGNORECASE)  # without what only URLs may have


class Guard:
    """Refuses what web pages send and, where there are keys, what is not signed with one of them.

    Without keys, every signature will do, but the server may only be called by a name of the loopback, or by the one
    that it listens on: a page that gave its own name this machine's address would get no further. With keys it could
    not sign.

    Args:
        keys: those of which one is needed.
        name: what the server listens on.
    """

    def __init__(self, keys: Keys | None = None, name: str = "localhost") -> None:
        self._keys = keys
        self._names = () if keys else (*LOOPBACK, name.lower())

    def refuses(self, received: Received) -> Reply | None:
        """Return the reply to a request of which the head alone is enough to refuse it: its body need not be kept."""
        try:
            _check_origin(received, self._names)
            if self._keys and received.path != HEALTH:
                signatures.claimed(received, self._keys, _now())
        except ClientError as refused:
            return wire.failure(refused)
        return None

    def around(self, answer: Answer) -> Answer:
        """Let an `Answer` have what is signed as it should be; `refuses` has looked at the rest."""

        def guarding(received: Received) -> Reply:
            try:
                if self._keys and received.path != HEALTH:
                    received.notes["region"] = signatures.verify(received, self._keys, _now())
                else:
                    received.notes["region"] = signatures.region(received)
            except ClientError as refused:
                return wire.failure(refused)
            return answer(received)

        return guarding


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _check_origin(received: Received, known: Collection[str]) -> None:
    headers = received.headers
    host = _name(headers.get("host", ""))
    if known and host not in known:
        fix = "Call it as localhost or 127.0.0.1, or start it with --auth"
        raise error("AccessDeniedException", f"The server is not known as {host!r}. {fix}.")
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") or (
        origin is not None and origin.partition("://")[2] != headers.get("host")
    ):
        raise error("AccessDeniedException", "A web page of another site may not call this server.")


def _name(host: str) -> str:
    named = _HOST.fullmatch(host)
    return named[1].strip("[]").lower() if named else ""
