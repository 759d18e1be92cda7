"""Servers that `benchmarks/serve.py` compares, each a process that prints its port.

    python benchmarks/served.py paced

`uvicorn` is the HTTP server below `bx serve`, set up as there, over an application that only sends a prepared answer.
`paced` is a bx server over an engine whose pieces come one by one, each the clock's reading as it leaves the engine.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import stub

import bx
from bx.converse import collect

if TYPE_CHECKING:
    from collections.abc import Generator

    from bx.converse import Event, Response

_BODY = stub.answer().partition(b"\r\n\r\n")[2]
_HEADERS = [
    (b"x-amzn-RequestId", b"00000000-0000-0000-0000-000000000000"),
    (b"Content-Type", b"application/json"),
    (b"Content-Length", str(len(_BODY)).encode()),
]


class Paced:
    """An engine that tells the time: `maxTokens` times, with pauses."""

    def converse(self, **request: Any) -> Response:
        """Answer in one piece."""
        return collect(_events(request))

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events."""
        return {"stream": _events(request)}


def _events(request: dict[str, Any]) -> Generator[Event]:
    yield {"messageStart": {"role": "assistant"}}
    for _ in range(request["inferenceConfig"]["maxTokens"]):
        time.sleep(stub.PAUSE)
        yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": f" {time.monotonic_ns()}"}}}
    yield {"messageStop": {"stopReason": "end_turn"}}


async def _bare(_: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


def _uvicorn() -> None:
    import uvicorn

    config = uvicorn.Config(
        _bare, port=0, http="h11", loop="asyncio", ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(stub.PAUSE)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)


def main() -> None:
    """Serve until the process is ended."""
    if sys.argv[1] == "uvicorn":
        _uvicorn()
    else:
        endpoint = bx.serve(Paced()).start()
        print(endpoint.url.rpartition(":")[2], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
