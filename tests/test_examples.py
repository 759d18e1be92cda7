"""The examples run as they stand, against a Bedrock on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bx as package
from scripted import broken

EXAMPLES = Path(__file__).parent.parent / "examples"
SCHEMA = EXAMPLES / "incident.schema.json"
INCIDENT = {"service": "checkout", "severity": "sev2", "duration_minutes": 47, "root_cause": "config push"}


@pytest.fixture
def minimal(endpoint):
    def run(*arguments):
        command = [sys.executable, EXAMPLES / "minimal.py", *arguments]
        environ = {**os.environ, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": endpoint.url}
        return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)

    return run


def test_the_minimal_program_asks(minimal, endpoint):
    assert minimal("Hello there").stdout == "Hello there\n"
    assert endpoint.requests[0].body == {"messages": [{"role": "user", "content": [{"text": "Hello there"}]}]}


def test_the_minimal_program_streams(minimal):
    done = minimal("one two three", "--stream")
    assert (done.returncode, done.stdout) == (0, "one two three\n")


def test_the_minimal_program_notices_a_stream_that_is_cut_off(minimal, endpoint):
    endpoint.script.append(broken(3))
    done = minimal("one two three", "--stream")
    assert (done.returncode, done.stdout) == (7, "one two\n")


def test_the_minimal_program_sends_the_schema(minimal, endpoint):
    done = minimal(json.dumps(INCIDENT), "--json", SCHEMA)
    assert json.loads(done.stdout) == INCIDENT
    sent = endpoint.requests[0].body["outputConfig"]["textFormat"]
    assert json.loads(sent["structure"]["jsonSchema"]["schema"]) == json.loads(SCHEMA.read_text())


def test_bx_and_the_minimal_program_send_the_same(minimal, endpoint, bx):
    minimal(json.dumps(INCIDENT), "--json", SCHEMA)
    bx(json.dumps(INCIDENT), "--json", str(SCHEMA), "--model", "claude", "--endpoint-url", endpoint.url)
    bare, ours = endpoint.requests
    assert bare.model == ours.model
    assert bare.path == ours.path
    schema = [
        received.body["outputConfig"]["textFormat"]["structure"]["jsonSchema"].pop("schema")
        for received in (bare, ours)
    ]
    assert json.loads(schema[0]) == json.loads(schema[1])
    assert bare.body == ours.body


def test_the_incident_schema_is_one_that_the_embedded_model_is_held_to(local_weights):
    schema = json.loads(SCHEMA.read_text())
    prompt = "Extract: checkout degraded 47 min, config push exhausted the payments DB pool"
    answer = package.ask_json(prompt, schema, model="local", temperature=0)
    assert isinstance(answer["duration_minutes"], int)
