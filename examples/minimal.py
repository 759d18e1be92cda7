"""Amazon Bedrock's Converse API bare, with boto3 alone: ask, stream, and JSON held to a schema.

    python examples/minimal.py "Three uses of a brick"
    python examples/minimal.py "Three uses of a brick" --stream
    python examples/minimal.py "Extract: checkout degraded 47 min" --json examples/incident.schema.json

`bx` does the same with shorter names, readable errors and no surprises; this shows what it sends.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import boto3

# Sonnet 4.6 takes a schema, and is called through an inference profile only.
MODEL = "global.anthropic.claude-sonnet-4-6"


def main() -> int:
    """Make one of the three calls."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--json", metavar="SCHEMA")
    arguments = parser.parse_args()
    request: dict[str, Any] = {
        "modelId": arguments.model,
        "messages": [{"role": "user", "content": [{"text": arguments.prompt}]}],
    }
    if arguments.json:
        # The schema travels as a string of JSON, not as an object.
        definition = {"schema": Path(arguments.json).read_text()}
        request["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}
    client = boto3.client("bedrock-runtime")
    return stream(client, request) if arguments.stream else ask(client, request, parse=bool(arguments.json))


def ask(client: Any, request: dict[str, Any], *, parse: bool) -> int:
    """Print the answer in one piece."""
    response = client.converse(**request)
    # Reasoning models put other blocks before the text, so no block is taken by its index.
    text = "".join(block.get("text", "") for block in response["output"]["message"]["content"])
    print(json.dumps(json.loads(text), indent=2) if parse else text)
    return 0


def stream(client: Any, request: dict[str, Any]) -> int:
    """Print the answer as it arrives."""
    finished = False
    for event in client.converse_stream(**request)["stream"]:
        print(event.get("contentBlockDelta", {}).get("delta", {}).get("text", ""), end="", flush=True)
        finished = finished or "messageStop" in event
    print()
    return 0 if finished else 7  # a stream that is cut off ends without an exception


if __name__ == "__main__":
    sys.exit(main())
