"""Start-up: a command imports only what it uses. Nothing is timed here: benchmarks/ does that."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = "import sys; from bx.cli import main; from bx.cli.terminal import Terminal; main(sys.argv[1:], Terminal())"
HEAVY = {
    "asyncio",
    "concurrent.futures",
    "email",
    "http.client",
    "multiprocessing",
    "sqlite3",
    "ssl",
    "urllib.request",
}
NETWORK = {"boto3", "botocore.session", "s3transfer", "urllib3"}


def imported(code, *arguments):
    """Run Python code in a new process; return the names of the modules that it has imported."""
    finished = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('modules', *sys.modules, file=sys.stderr)", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    return set(finished.stderr.rpartition("modules ")[2].split())


def packages(modules):
    """Name the installed packages among modules, but those that any Python here starts with."""
    names = {name.partition(".")[0] for name in modules - imported("pass")}
    return names - set(sys.stdlib_module_names)


def test_importing_bx_loads_nothing_heavy():
    modules = imported("import bx")
    assert "bx.converse" in modules
    assert packages(modules) == {"bx"}
    assert not modules & (HEAVY | {"argparse", "logging", "pathlib", "socket", "tomllib"})


def test_the_version_is_told_without_reading_settings():
    modules = imported(PROGRAM, "--version")
    assert packages(modules) == {"bx"}
    assert not modules & (HEAVY | {"bx.config", "logging", "pathlib", "socket", "tomllib"})


@pytest.mark.parametrize("arguments", [["--help"], ["--dry-run", "hi"], ["--dry-run", "hi", "--model", "claude"]])
def test_what_sends_nothing_loads_no_client(arguments):
    modules = imported(PROGRAM, *arguments)
    assert "bx.cli.ask" in modules
    assert packages(modules) == {"bx"}
    assert not modules & HEAVY


def test_the_echo_engine_loads_no_client():
    modules = imported(PROGRAM, "--model", "echo", "hi")
    assert "bx.engines.echo" in modules
    assert packages(modules) == {"bx"}
    assert modules & HEAVY == {"sqlite3"}  # after the answer


def test_the_ledger_is_opened_when_the_answer_is_there():
    watched = "import sys; from bx.cli import terminal; real = terminal.Terminal.answer\n"
    watched += "def answer(*told): print('before', 'sqlite3' in sys.modules, file=sys.stderr); real(*told)\n"
    watched += "terminal.Terminal.answer = answer\n" + PROGRAM
    command = [sys.executable, "-c", watched, "--model", "echo", "hi"]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert finished.stderr == "before False\n"


def test_the_embedded_engine_loads_no_client(local_weights):
    modules = imported(PROGRAM, "--model", "local", "hi", "--max-tokens", "1")
    assert "xllamacpp" in modules
    assert not modules & NETWORK


def test_bedrock_loads_botocore_but_not_boto3(endpoint):
    modules = imported(PROGRAM, "--model", "nova", "hi", "--endpoint-url", endpoint.url)
    assert len(endpoint.requests) == 1
    assert {"botocore.session", "urllib3"} <= modules
    assert not modules & {
        "asyncio",
        "boto3",
        "jsonschema_rs",
        "multiprocessing",
        "s3transfer",
        "xllamacpp",
    }
