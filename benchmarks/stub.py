"""A Bedrock runtime for benchmarks: one thread, prepared answers, and the moment at which each request arrived.

Prints its port, then for each request the clock's reading when the whole of it had arrived. It checks neither
signatures nor shapes: `tests/endpoint.py` does that.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import re
import struct
import time
from typing import Any

_USAGE = {"inputTokens": 8, "outputTokens": 1, "totalTokens": 9}
_HEAD = b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 00000000-0000-0000-0000-000000000000\r\nContent-Type: "


def _answer() -> bytes:
    message = {"role": "assistant", "content": [{"text": "A short answer."}]}
    body = json.dumps(
        {"output": {"message": message}, "stopReason": "end_turn", "usage": _USAGE, "metrics": {"latencyMs": 1}}
    ).encode()
    return b"%bapplication/json\r\nContent-Length: %d\r\n\r\n%b" % (_HEAD, len(body), body)


def _stream(tokens: int) -> bytes:
    """Encode a stream, one frame in each HTTP chunk, padded to varying lengths as the service does."""
    events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    deltas = ({"contentBlockIndex": 0, "delta": {"text": f" word{number}"}} for number in range(tokens))
    events += [("contentBlockDelta", delta) for delta in deltas]
    usage = {**_USAGE, "outputTokens": tokens}
    events += [
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"
    frames = (_frame(kind, {**body, "p": letters[: 7 * n % 42]}) for n, (kind, body) in enumerate(events))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)
    return _HEAD + b"application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _frame(kind: str, body: dict[str, Any]) -> bytes:
    names = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in names.items()
    )
    payload = json.dumps(body, separators=(",", ":")).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    start = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload
    return start + struct.pack("!I", binascii.crc32(start))


async def _serve() -> None:
    answer, streams = _answer(), dict[int, bytes]()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
            print(time.monotonic(), flush=True)
            tokens = int(body["inferenceConfig"]["maxTokens"])
            if head.split(b" ", 2)[1].endswith(b"/converse-stream"):
                if tokens not in streams:
                    streams[tokens] = _stream(tokens)
                writer.write(streams[tokens])
            else:
                writer.write(answer)
            await writer.drain()
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(exchange, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
