"""The server's own addresses below `/_bx/`: health, counters, and the faults that are in force."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from bx.server import frames
from bx.server.exchange import OWN, Reply
from bx.server.faults import FaultError
from bx.server.guard import HEALTH

if TYPE_CHECKING:
    from bx.server.exchange import Answer, Received
    from bx.server.faults import Faults
    from bx.server.stats import Stats

_FAULTS = f"{OWN}faults"
_PLAIN = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


def administered(answer: Answer, stats: Stats, faults: Faults) -> Answer:
    """Answer what is below `/_bx/`, and pass on the rest."""
    pages = {
        HEALTH: lambda: _json(200, {"status": "ok", "server": "bx", "pid": os.getpid()}),
        f"{OWN}stats": lambda: _json(200, stats.summary()),
        f"{OWN}metrics": lambda: Reply(200, _PLAIN, stats.text()),
        _FAULTS: lambda: _json(200, {"faults": faults.listed()}),
    }

    def administering(received: Received) -> Reply:
        if not received.path.startswith(OWN):
            return answer(received)
        received.notes["operation"] = "bx"
        if received.path == _FAULTS and received.method in ("POST", "DELETE"):
            return _changed(received, faults)
        if received.path in pages and received.method in ("GET", "HEAD"):
            return pages[received.path]()
        known = ", ".join(["GET " + page for page in pages] + [f"POST {_FAULTS}", f"DELETE {_FAULTS}"])
        return _json(404, {"message": f"There is no {received.method} {received.path}. There are: {known}"})

    return administering


def _changed(received: Received, faults: Faults) -> Reply:
    """Add the faults of a body, one or `{"faults": [...]}`, or remove all."""
    if received.method == "DELETE":
        faults.clear()
        return _json(200, {"faults": []})
    try:
        given = json.loads(received.body)
        asked = given["faults"] if isinstance(given, dict) and "faults" in given else given
        faults.add(*(asked if isinstance(asked, list) else [asked]))
    except FaultError as cause:
        return _json(400, {"message": f"{cause}. {cause.fix}"})
    except (ValueError, RecursionError) as cause:
        form = '{"fault": "ThrottlingException", "nth": 3}'
        return _json(400, {"message": f"The body is not JSON: {cause}. Write it as {form}"})
    return _json(200, {"faults": faults.listed()})


def _json(status: int, value: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, frames.dumped(value) + b"\n")
