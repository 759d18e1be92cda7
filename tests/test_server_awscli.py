"""The AWS CLI, pointed at a `bx serve` of its own by the line that this prints: nothing else is told to it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awscli") is None, reason="the AWS CLI is not installed: pip install awscli"
)

PROFILE = "us.amazon.nova-2-lite-v1:0"
MESSAGES = [{"role": "user", "content": [{"text": "one two three"}]}]
WAIT = 60  # seconds: far longer than anything here takes


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The variables that a running `bx serve` says to export; asked to stop, it exits with 0."""
    home = str(tmp_path_factory.mktemp("home"))
    command = [sys.executable, "-m", "bx", "serve", "--model", "echo", "--port", "0"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BX_"))}
    process = subprocess.Popen(command, env={**plain, "HOME": home}, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if line.strip().startswith("export "))
        yield dict(re.findall(r"(\w+)=(\S+)", line))
        process.terminate()
        told = process.communicate(timeout=WAIT)[1]
        assert (process.returncode, "Traceback" in told) == (0, False)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def aws(exported, tmp_path):
    """Run `aws`; returns its exit code, stdout and stderr."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "awscli", *arguments],
            env={**os.environ, **exported},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_both_services_are_pointed_at_the_server(exported):
    assert set(exported) == {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL_BEDROCK"}


def test_converse_takes_messages_and_prints_the_answer(aws):
    code, out, err = aws(
        *("bedrock-runtime", "converse", "--model-id", PROFILE, "--messages", json.dumps(MESSAGES)),
        *("--inference-config", "maxTokens=2"),
    )
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["output"]["message"]["content"] == [{"text": "one two"}]
    assert answer["stopReason"] == "max_tokens"


def test_an_error_is_printed_in_the_service_s_words(aws):
    model = "amazon.nova-2-lite-v1:0"
    code, out, err = aws("bedrock-runtime", "converse", "--model-id", model, "--messages", json.dumps(MESSAGES))
    assert (code != 0, out) == (True, "")
    says = f"Invocation of model ID {model} with on-demand throughput isn't supported."
    assert f"An error occurred (ValidationException) when calling the Converse operation: {says}" in err


def test_invoke_model_writes_the_body_to_a_file(aws, tmp_path):
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9}
    body["messages"] = [{"role": "user", "content": "one two three"}]
    model = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-6"
    code, out, err = aws(
        "bedrock-runtime", "invoke-model", "--model-id", model, "--body", json.dumps(body), "answer.json"
    )
    assert (code, json.loads(out), err) == (0, {"contentType": "application/json"}, "")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["content"] == [{"type": "text", "text": "one two three"}]


def test_tokens_are_counted(aws):
    given = json.dumps({"converse": {"messages": MESSAGES}})
    model = "anthropic.claude-sonnet-4-20250514-v1:0"
    code, out, _ = aws("bedrock-runtime", "count-tokens", "--model-id", model, "--input", given)
    assert (code, json.loads(out)) == (0, {"inputTokens": 3})


def test_models_are_listed_by_their_provider(aws):
    query = ("--query", "modelSummaries[].providerName", "--output", "text")
    code, out, _ = aws("bedrock", "list-foundation-models", "--by-provider", "anthropic", *query)
    assert (code, set(out.split())) == (0, {"Anthropic"})


def test_profiles_are_listed_over_several_pages(aws):
    query = ("--query", "length(inferenceProfileSummaries)")
    whole = int(aws("bedrock", "list-inference-profiles", *query)[1])
    code, out, _ = aws("bedrock", "list-inference-profiles", "--page-size", "7", "--output", "json")
    assert (code, len(json.loads(out)["inferenceProfileSummaries"])) == (0, whole)
    assert whole > 14
