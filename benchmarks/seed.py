"""What the tutorials show: a plain boto3 script that asks a model once, whole or streamed."""

from __future__ import annotations

import argparse

import boto3

client = boto3.client("bedrock-runtime")


def main() -> None:
    """Ask, and print the answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()
    request = {
        "modelId": "global.amazon.nova-2-lite-v1:0",
        "messages": [{"role": "user", "content": [{"text": args.prompt}]}],
        "inferenceConfig": {"maxTokens": args.max_tokens},
    }
    if not args.stream:
        response = client.converse(**request)
        print(response["output"]["message"]["content"][0]["text"])
        return
    for event in client.converse_stream(**request)["stream"]:
        if "contentBlockDelta" in event:
            print(event["contentBlockDelta"]["delta"]["text"], end="", flush=True)
    print()


if __name__ == "__main__":
    main()
