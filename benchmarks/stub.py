"""A Bedrock runtime for benchmarks: one thread, prepared answers, and the moment at which each request arrived.

Prints its port, then for each request the clock's reading when the whole of it had arrived; the latter not with
`--quiet`. With `--paced` the pieces of a stream come one by one, each the clock's reading as it leaves. It checks
neither signatures nor shapes: `bx serve` does that.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import contextlib
import json
import re
import struct
import time
from typing import Any

_USAGE = {"inputTokens": 8, "outputTokens": 1, "totalTokens": 9}
_HEAD = b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 00000000-0000-0000-0000-000000000000\r\nContent-Type: "
_STREAM = _HEAD + b"application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
PAUSE = 0.005  # seconds before each piece of a paced stream


def answer() -> bytes:
    """Write the whole answer to Converse."""
    message = {"role": "assistant", "content": [{"text": "A short answer."}]}
    body = json.dumps(
        {"output": {"message": message}, "stopReason": "end_turn", "usage": _USAGE, "metrics": {"latencyMs": 1}}
    ).encode()
    return b"%bapplication/json\r\nContent-Length: %d\r\n\r\n%b" % (_HEAD, len(body), body)


def _stream(tokens: int) -> bytes:
    """Encode a stream, one frame in each HTTP chunk, padded to varying lengths as the service does."""
    events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    events += [("contentBlockDelta", _delta(f" word{number}")) for number in range(tokens)]
    usage = {**_USAGE, "outputTokens": tokens}
    events += [
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"
    chunks = (_chunk(kind, {**body, "p": letters[: 7 * n % 42]}) for n, (kind, body) in enumerate(events))
    return _STREAM + b"".join(chunks) + _END


def _delta(text: str) -> dict[str, Any]:
    return {"contentBlockIndex": 0, "delta": {"text": text}}


def _chunk(kind: str, body: dict[str, Any]) -> bytes:
    frame = _frame(kind, body)
    return b"%x\r\n%b\r\n" % (len(frame), frame)


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


async def _pace(writer: asyncio.StreamWriter, tokens: int) -> None:
    writer.write(_STREAM + _chunk("messageStart", {"role": "assistant"}))
    for _ in range(tokens):
        await asyncio.sleep(PAUSE)
        writer.write(_chunk("contentBlockDelta", _delta(f" {time.monotonic_ns()}")))
    writer.write(_chunk("messageStop", {"stopReason": "end_turn"}) + _END)


async def _serve(*, quiet: bool, paced: bool) -> None:
    prepared, streams = answer(), dict[int, bytes]()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
        if not quiet:
            print(time.monotonic(), flush=True)
        tokens = int(body["inferenceConfig"]["maxTokens"])
        if not head.split(b" ", 2)[1].endswith(b"/converse-stream"):
            writer.write(prepared)
        elif paced:
            await _pace(writer, tokens)
        else:
            if tokens not in streams:
                streams[tokens] = _stream(tokens)
            writer.write(streams[tokens])
        await writer.drain()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has hung up
            while True:
                await exchange(reader, writer)
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--paced", action="store_true")
    asyncio.run(_serve(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
