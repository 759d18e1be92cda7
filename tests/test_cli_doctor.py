"""`bx doctor` as a process: what it prints, how it ends, and what it never shows."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys

import pytest

import bx as library
from bx.ledger.store import Store
from scripted import closed_port

pytest.importorskip("uvicorn", reason="most of it talks to the server")

SECRET = "sesame0penSesame0penSesame0penSesame0pen"


@pytest.fixture
def bedrock():
    """A Bedrock on loopback: its faults are added by the test."""
    with library.serve(model="echo") as endpoint:
        yield endpoint


@pytest.fixture
def checked(bx, bedrock):
    """Run the doctor against it, about one model unless the test says otherwise."""

    def run(*arguments, models=("nova",), **environ):
        named = [word for model in models for word in ("--model", model)]
        return bx("doctor", "--endpoint-url", bedrock.url, *named, *arguments, **environ)

    return run


def findings(done):
    return {(each["check"], each["model"]): each for each in json.loads(done.stdout)["findings"]}


def test_each_check_is_a_line(checked):
    done = checked()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line[:9].strip() for line in lines if not line.startswith(" ")].count("problem") == 0
    for check in ("python", "sdk", "credentials", "sso", "clock", "region", "endpoint", "dns", "tcp", "identity"):
        assert any(line[9:].startswith(f"{check} ") for line in lines), check
    (nova,) = [line for line in lines if line[9:].startswith("nova ")]
    assert re.search(
        r"^ok +nova +global\.amazon\.nova-2-lite-v1:0; answers in \d+ ms; streams in \d+ ms; JSON by", nova
    )


def test_without_a_model_every_alias_is_looked_at(checked):
    done = checked("--no-calls", models=())
    told = {line[9:24].strip() for line in done.stdout.splitlines()}
    assert {"nova", "claude", "llama", "gpt-oss", "embedded", "ledger"} <= told


def test_the_model_in_use_comes_first_and_its_failure_counts(checked, bedrock):
    bedrock.faults.add("ResourceNotFoundException,model=*anthropic*")
    assert checked(models=()).returncode == 0
    done = checked("--format", "json", models=(), BX_MODEL="claude")
    assert done.returncode == 4
    first = next(each for each in json.loads(done.stdout)["findings"] if each["model"])
    assert first["model"] == "claude"
    text = checked(models=(), BX_MODEL="claude").stdout
    assert "answer: as with claude above" in text


def test_the_failure_of_a_model_that_the_user_added_counts(checked, bedrock, tmp_path):
    (tmp_path / "bx.toml").write_text('[models.ours]\nid = "acme.model-1"\n')
    bedrock.faults.add("ResourceNotFoundException,model=acme.*")
    done = checked(models=())
    assert done.returncode == 4
    assert "bx: problems: ours\n" in done.stderr


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("ExpiredTokenException", 3),
        ("AccessDeniedException,action=bedrock:InvokeModelWithResponseStream", 4),
        ("ThrottlingException", 5),
        ("reset,operation=Converse", 6),
        ("truncate,operation=ConverseStream", 7),
    ],
)
def test_the_exit_code_is_that_of_the_worst_finding(fault, code, checked, bedrock):
    bedrock.faults.add(fault)
    done = checked()
    assert done.returncode == code
    assert re.search(r"^problem ", done.stdout, re.MULTILINE)
    assert "-> " in done.stdout


def test_a_stream_that_is_not_allowed_is_told_beside_what_works(checked, bedrock):
    bedrock.faults.add("AccessDeniedException,action=bedrock:InvokeModelWithResponseStream")
    text = checked().stdout
    assert re.search(r"^problem +nova +stream: This identity may not stream", text, re.MULTILINE)
    assert "-> Allow bedrock:InvokeModelWithResponseStream on arn:" in text
    assert re.search(r"besides: .*; answers in \d+ ms", text)
    assert "request id: " not in text
    assert "request id: " in checked("--verbose").stdout


def test_no_network_is_told_with_its_exit_code(bx):
    done = bx("doctor", "--model", "nova", "--endpoint-url", closed_port())
    assert done.returncode == 6
    assert re.search(r"^problem +tcp +Could not connect to http://127", done.stdout, re.MULTILINE)


def test_json_has_findings_cost_and_the_exit_code(checked):
    done = checked("--format", "json")
    told = json.loads(done.stdout)
    assert set(told) == {"findings", "cost", "exit_code"}
    assert told["exit_code"] == done.returncode == 0
    keys = {"check", "verdict", "evidence", "fix", "exit_code", "model", "cause", "request_id"}
    assert all(set(each) == keys for each in told["findings"])
    assert told["cost"]["estimated"]["calls"] == told["cost"]["spent"]["calls"] == 2
    assert 0 < float(told["cost"]["spent"]["usd"]) <= float(told["cost"]["estimated"]["usd"]) < 0.01


def test_what_it_costs_is_said_before_and_after(checked):
    lines = [line for line in checked().stdout.splitlines() if line[9:].startswith("cost ")]
    assert re.search(r"2 calls of one token: at most USD 0\.0\d+; --no-calls avoids them$", lines[0])
    assert re.search(r"2 calls were answered: USD 0\.0\d+$", lines[1])


def test_without_calls_no_model_is_called(checked, bedrock):
    done = checked("--no-calls", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["cost"] == {"estimated": None, "spent": None}
    assert not [asked for asked in bedrock.requests if asked.operation.startswith("Converse")]


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_nothing_is_asked(how, checked, bedrock):
    done = checked("--offline") if how == "flag" else checked(BX_OFFLINE="1")
    assert done.returncode == 0
    assert not bedrock.requests
    assert re.search(r"^skipped  connection +offline$", done.stdout, re.MULTILINE)


def test_the_calls_stand_in_the_ledger(checked, tmp_path):
    path = tmp_path / "ledger.db"
    assert checked(BX_LEDGER=str(path), BX_TAG="check-up").returncode == 0
    rows = list(Store(path).rows())
    assert [(row["operation"], row["outcome"], row["tag"]) for row in rows] == [
        ("Converse", "answered", "check-up"),
        ("ConverseStream", "answered", "check-up"),
    ]
    assert {row["model_id"] for row in rows} == {"global.amazon.nova-2-lite-v1:0"}


def test_a_corrupt_ledger_is_a_problem_and_the_rest_is_examined(checked, tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database" * 1000)
    done = checked("--offline", BX_LEDGER=str(path))
    assert done.returncode == 2
    assert re.search(r"^problem  ledger ", done.stdout, re.MULTILINE)
    assert re.search(r"^skipped  ledger +none is kept$", checked("--offline", BX_LEDGER="off").stdout, re.MULTILINE)


def test_the_origin_of_the_region_is_told(bx, tmp_path):
    def region(*arguments, **environ):
        done = bx("doctor", "--offline", "--model", "nova", *arguments, **environ)
        return re.search(r"^\w+ +region +(.*)$", done.stdout, re.MULTILINE)[1]

    assert region() == "us-east-1 (AWS_DEFAULT_REGION)"
    (tmp_path / "bx.toml").write_text('region = "us-west-2"\n')
    assert region() == f"us-west-2 ({tmp_path / 'bx.toml'})"
    assert region(BX_REGION="eu-west-1") == "eu-west-1 (BX_REGION)"
    assert region("--region", "eu-west-3", BX_REGION="eu-west-1") == "eu-west-3 (--region)"


def test_an_embedded_model_needs_no_account(bx, local_weights):
    done = bx("doctor", "--model", "local", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^skipped  aws ", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +embedded .*checksum as published$", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +local +smollm2-135m-instruct answers$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_printed(form, bx, bedrock, private_home):
    folder = private_home / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        f"[work]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {SECRET}\n"
        f"aws_session_token = {SECRET}{SECRET}\n"
    )
    proxy = f"http://ann:{SECRET}@127.0.0.1:1"
    bedrock.faults.add(f"AccessDeniedException,message=no AKIAIOSFODNN7EXAMPLE may aws_secret_access_key={SECRET}")
    for environ in (
        {"AWS_BEARER_TOKEN_BEDROCK": f"ABSK{SECRET}"},
        {"BX_PROFILE": "work"},
        {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "HTTP_PROXY": proxy},
    ):
        done = bx("doctor", "-v", "--endpoint-url", bedrock.url, "--model", "nova", "--format", form, **environ)
        printed = done.stdout + done.stderr
        assert done.returncode in (2, 4, 6)
        assert SECRET not in printed
        assert "AKIAIOSFODNN7EXAMPLE" not in printed


def test_a_name_that_is_no_model_is_a_usage_error(bx):
    done = bx("doctor", "--model", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Unknown model 'nowhere'" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
def test_at_a_terminal_lines_fit_and_verdicts_have_colours(checked, bedrock):
    bedrock.faults.add("AccessDeniedException,action=bedrock:InvokeModelWithResponseStream")
    shown = _on_terminal(["doctor", "--endpoint-url", bedrock.url, "--model", "nova"], TERM="xterm")
    assert "\x1b[32mok" in shown
    assert "\x1b[31mproblem" in shown
    assert "\x1b[2mbotocore" in shown
    plain = re.sub(r"\x1b\[\d*m", "", shown)
    long = [line[24:] for line in plain.splitlines() if len(line) > 80]
    assert not [line for line in long if " " in line]  # an ARN or a path stays whole, to be copied
    assert "\x1b" not in _on_terminal(["doctor", "--offline", "--model", "nova"], TERM="xterm", NO_COLOR="1")


def _on_terminal(arguments, **environ):
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | environ
    running = subprocess.Popen([sys.executable, "-m", "bx", *arguments], stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    running.wait(timeout=60)
    return shown.decode()
