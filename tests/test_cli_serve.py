"""`bx serve` as a process of its own: what it says, what it takes, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import bx as package
from bx.converse import collect, text
from bx.engines.bedrock import client

NOVA = "us.amazon.nova-2-lite-v1:0"
CLAUDE = "us.anthropic.claude-sonnet-4-6"
ANYONE = ("id", "secret", "")
READY = re.compile(r"on (https?://\S+) \(Ctrl-C stops it\)")
PATIENCE = 60  # seconds
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the processes are stopped by signals")


class Process:
    """A running `bx serve`; `lines` is what it has said on stderr."""

    def __init__(self, arguments, folder, environ):
        self.lines = []
        self.url = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bx", "serve", *arguments],
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := READY.search(line):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def wait(self):
        assert self._ready.wait(PATIENCE)
        assert self.url, "\n".join(self.lines)
        return self

    def client(self, service="bedrock-runtime", keys=ANYONE, verify=None):
        return client(service, endpoint_url=self.url, keys=keys, verify=verify)

    def stop(self, number=signal.SIGTERM):
        """Send a signal; returns the exit code and what was on stdout."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self):
        """Wait for the end; returns the exit code and what was on stdout."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        printed = self.process.stdout.read() if not self.process.stdout.closed else ""
        self.process.stdout.close()
        self.process.stderr.close()
        return code, printed


@pytest.fixture
def serve(tmp_path):
    """Start `bx serve` on a free port, with an echo that answers unless the arguments say what does."""
    started = []

    def start(*arguments, ready=True, **environ):
        named = {"--model", "--replay", "--upstream"} & {*arguments}
        chosen = [*arguments, *([] if named else ["--model", "echo"])]
        port = [] if "--port" in arguments else ["--port", "0"]
        started.append(Process([*chosen, *port], tmp_path, environ))
        return started[-1].wait() if ready else started[-1]

    yield start
    for each in started:
        each.stop(signal.SIGKILL)


def says(asking, words="hello", model=NOVA, **more):
    with contextlib.closing(asking):
        return text(asking.converse(**package.request(words, model=model, **more)))


@contextlib.contextmanager
def streaming(server, words):
    """A stream whose first event has come."""
    with contextlib.closing(server.client()) as asking:
        stream = asking.converse_stream(**package.request(words, model=NOVA))["stream"]
        with contextlib.closing(stream):
            next(iter(stream))
            yield stream


def fetched(url, context=None):
    with urllib.request.urlopen(url, timeout=PATIENCE, context=context) as response:
        return response.read()


def eventually(true):
    until = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


# ---- starting and stopping ------------------------------------------------------------------------------------


def test_it_says_on_stderr_where_it_is_and_what_points_an_sdk_at_it(serve):
    server = serve()
    told = "\n".join(server.lines)
    assert f"serving echo on {server.url}" in told
    assert eventually(lambda: any("AWS_ACCESS_KEY_ID" in line for line in server.lines))
    assert f"AWS_ENDPOINT_URL_BEDROCK_RUNTIME={server.url} AWS_ENDPOINT_URL_BEDROCK={server.url}" in "\n".join(
        server.lines
    )
    assert says(server.client()) == "hello"
    assert server.stop() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_it_has_done_its_work(serve, number):
    server = serve("--grace", "0.5")
    code, printed = server.stop(number)
    assert (code, printed) == (0, "")
    assert not any("stopping" in line for line in server.lines), "nothing runs that could be waited for"


def test_a_stream_under_way_ends_by_itself_within_the_grace(serve):
    server = serve("--fault", "slow-events,seconds=0.1", "--grace", "30")
    with streaming(server, "a b c d e") as stream:
        server.process.send_signal(signal.SIGTERM)
        assert [event for event in stream if "metadata" in event]
    assert server.ended()[0] == 0
    assert any("stopping" in line for line in server.lines)


def test_a_stream_that_outlasts_the_grace_ends_with_a_modelled_exception(serve):
    server = serve("--fault", "slow-events,seconds=30", "--grace", "0.2")
    with streaming(server, "a b c") as stream:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ClientError, match="serviceUnavailableException"):
            list(stream)
    assert server.ended()[0] == 0


def test_a_stream_that_stalls_does_not_keep_it_from_stopping(serve):
    server = serve("--fault", "stall,after=1", "--grace", "0.2")
    with streaming(server, "a b c"):
        began = time.monotonic()
        assert server.stop()[0] == 0
        assert time.monotonic() - began < 8


def test_the_second_signal_ends_at_once(serve):
    server = serve("--fault", "slow-events,seconds=30", "--grace", "30")
    with streaming(server, "a b c"):
        server.process.send_signal(signal.SIGINT)
        assert eventually(lambda: any("stopping" in line for line in server.lines))
        assert server.stop(signal.SIGINT)[0] == 130


def test_quiet_says_nothing_but_failures(serve, bx, tmp_path):
    port = free_port()
    server = serve("-q", "--port", str(port), ready=False)
    assert eventually(lambda: answers(port))
    server.url = f"http://127.0.0.1:{port}"
    assert says(server.client()) == "hello"
    assert server.stop() == (0, "")
    assert server.lines == []
    failed = bx("serve", "-q", "--model", "echo", "--fault", "nonsense")
    assert failed.returncode == 2
    assert "nonsense" in failed.stderr


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def answers(port):
    try:
        return json.loads(fetched(f"http://127.0.0.1:{port}/_bx/health"))["status"] == "ok"
    except (urllib.error.URLError, OSError):
        return False


# ---- what answers ---------------------------------------------------------------------------------------------


def test_map_gives_some_ids_to_another_model_and_the_rest_to_the_one_for_all(serve):
    server = serve("--map", "us.anthropic.*=echo:other", "--log", "json")
    assert says(server.client(), model=CLAUDE) == "hello"
    assert says(server.client(), model=NOVA) == "hello"
    assert server.stop()[0] == 0


def test_what_was_recorded_is_replayed_and_nothing_else(serve, tmp_path):
    first = serve("--record", "kept")
    asked = package.request("hello", model=NOVA)
    with contextlib.closing(first.client()) as asking:
        whole = asking.converse(**asked)
        streamed = collect(asking.converse_stream(**asked)["stream"])
    first.stop()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "kept").iterdir()} == {0o600}
    for more in ([], ["--realtime"]):
        again = serve("--replay", "kept", *more)
        assert "serving recordings" in again.lines[0]
        with contextlib.closing(again.client()) as asking:
            replayed = asking.converse(**asked)
            assert replayed["output"] == whole["output"]
            assert collect(asking.converse_stream(**asked)["stream"]) == streamed
            with pytest.raises(ClientError, match="ResourceNotFoundException"):
                asking.converse(**package.request("another", model=NOVA))
        assert again.stop()[0] == 0


def test_an_upstream_is_forwarded_to_with_its_region_and_what_comes_back_is_passed_on(serve, tmp_path):
    upstream = serve("--fault", "ThrottlingException,nth=2,message=not so fast", "--log", "json")
    (tmp_path / "config").write_text("[profile mine]\naws_access_key_id = id\naws_secret_access_key = secret\n")
    environ = {"AWS_MAX_ATTEMPTS": "1", "AWS_CONFIG_FILE": str(tmp_path / "config")}
    settings = ("--region", "eu-west-1", "--endpoint-url", upstream.url, "--geo", "eu")
    server = serve("--upstream", "bedrock", *settings, "--profile", "mine", "--record", "kept", **environ)
    assert "serving bedrock" in server.lines[0]
    with contextlib.closing(server.client()) as asking:
        asked = package.request("hello", model="eu.amazon.nova-2-lite-v1:0")
        assert text(asking.converse(**asked)) == "hello"
        with pytest.raises(ClientError, match="not so fast"):
            asking.converse(**asked)
        assert text(collect(asking.converse_stream(**asked)["stream"])) == "hello"
    assert server.stop()[0] == upstream.stop()[0] == 0
    assert len(list((tmp_path / "kept").glob("*.json"))) == 3


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("arguments", [["--upstream", "bedrock"], ["--model", "echo", "--map", "us.*=bedrock"]])
def test_requests_are_not_forwarded_in_a_circle(bx, name, arguments):
    port = free_port()
    url = f"http://{name}:{port}"
    done = bx("serve", "--port", str(port), *arguments, AWS_ENDPOINT_URL_BEDROCK_RUNTIME=url)
    assert done.returncode == 2
    assert "The upstream is this server itself" in done.stderr
    assert "Unset AWS_ENDPOINT_URL_BEDROCK_RUNTIME" in done.stderr


def test_missing_weights_are_told_before_anybody_waits_for_them(bx):
    pytest.importorskip("xllamacpp", reason="the embedded engine has no wheel for this platform")
    done = bx("serve", "--port", "0", BX_OFFLINE="true")
    assert done.returncode not in (0, 1)
    assert "bx pull" in done.stderr
    assert "serving" not in done.stderr
    assert done.stdout == ""


def test_yes_fetches_missing_weights_without_a_question(bx, index):
    pytest.importorskip("xllamacpp", reason="the embedded engine has no wheel for this platform")
    done = bx("serve", "--port", "0", "--yes")  # the index has another model only
    assert index.requests
    assert "fetching" in done.stderr
    assert done.returncode not in (0, 1)
    assert done.stdout == ""


def test_a_file_that_is_no_model_is_named(bx, tmp_path):
    pytest.importorskip("xllamacpp", reason="the embedded engine has no wheel for this platform")
    done = bx("serve", "--port", "0", "--model", f"local:{tmp_path}/none.gguf")
    assert done.returncode not in (0, 1)
    assert "none.gguf" in done.stderr


# ---- how true to the service ----------------------------------------------------------------------------------


def test_strict_refuses_what_the_named_model_would_and_lenient_answers(serve):
    asked = {"words": "hello", "model": "amazon.nova-2-lite-v1:0"}
    for strict in ([], ["--strict"]):
        with pytest.raises(ClientError, match="inference profile"):
            says(serve(*strict).client(), **asked)
    assert says(serve("--lenient").client(), **asked) == "hello"


def test_faults_hit_as_the_options_say_and_the_seed_decides_which(serve):
    def hits(seed):
        server = serve("--fault", "ThrottlingException,share=0.5", "--seed", seed)
        codes = []
        with contextlib.closing(server.client()) as asking:
            for _ in range(12):
                try:
                    asking.converse(**package.request("hello", model=NOVA))
                except ClientError as failed:
                    codes.append(failed.response["Error"]["Code"])
                else:
                    codes.append("")
        return codes

    first = hits("1")
    assert set(first) == {"", "ThrottlingException"}
    assert hits("1") == first
    assert hits("2") != first


def test_the_faults_are_listed_on_stdout(bx):
    from bx.server.faults import described

    done = bx("serve", "--fault", "list")
    assert done.returncode == 0
    assert done.stderr == ""
    for fault in described():
        assert re.search(rf"^{re.escape(fault['name'])} +\S", done.stdout, re.MULTILINE)


# ---- who may ask ----------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path):
    """A file of keys, private as it must be."""
    file = tmp_path / "keys"
    file.write_text(
        "[me]\naws_access_key_id = AKIAME\naws_secret_access_key = mine\n[ci]\nbearer_token = s3cret-bearer\n"
    )
    file.chmod(0o600)
    return file


def test_only_the_keys_of_the_file_are_let_in_and_none_is_told(serve, keys):
    server = serve("--auth", str(keys))
    assert says(server.client(keys=("AKIAME", "mine", ""))) == "hello"
    with pytest.raises(ClientError, match="security token"):
        says(server.client(keys=("AKIAOTHER", "x", "")))
    with pytest.raises(ClientError, match="signature"):
        says(server.client(keys=("AKIAME", "wrong", "")))
    assert eventually(lambda: any("API key is only sent over https" in line for line in server.lines))
    assert "--self-signed" in "\n".join(server.lines)
    server.stop()
    assert not {"mine", "s3cret-bearer"} & set(re.findall(r"[\w-]+", "\n".join(server.lines)))


def test_a_bearer_key_is_taken_over_https_that_is_signed_by_our_own_authority(serve, keys, tmp_path):
    server = serve("--auth", str(keys), "--self-signed", "tls")
    assert server.url.startswith("https://")
    authority = next(
        word.partition("=")[2] for line in server.lines for word in line.split() if "AWS_CA_BUNDLE" in word
    )
    assert says(server.client(keys=("s3cret-bearer",), verify=str(tmp_path / authority))) == "hello"
    with pytest.raises(ClientError):
        says(server.client(keys=("another",), verify=str(tmp_path / authority)))


def test_a_certificate_of_the_user_is_spoken_with(serve, tmp_path):
    from bx.server import tls

    certificate, key, authority = tls.self_signed(tmp_path / "own", ["127.0.0.1"])
    server = serve("--cert", str(certificate), "--key", str(key))
    assert server.url.startswith("https://")
    assert says(server.client(verify=str(authority))) == "hello"
    assert json.loads(fetched(f"{server.url}/_bx/health", ssl.create_default_context(cafile=authority)))


def test_another_host_needs_keys_and_then_is_served(serve, bx, keys):
    refused = bx("serve", "--model", "echo", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "--host 0.0.0.0" in refused.stderr
    assert "--auth" in refused.stderr
    server = serve("--host", "0.0.0.0", "--auth", str(keys))
    assert says(server.client(keys=("AKIAME", "mine", ""))) == "hello"


# ---- limits and the log ---------------------------------------------------------------------------------------


def test_every_limit_can_be_chosen(serve):
    chosen = ("--max-body", "2000", "--max-concurrent", "1", "--max-queue", "0", "--idle-timeout", "20")
    server = serve(*chosen, "--timeout", "30", "--fault", "latency,seconds=2", "--log", "off")
    with pytest.raises(ClientError, match="too long"):
        says(server.client(), words="x" * 2001)
    told = []

    def ask():
        try:
            told.append(says(server.client()))
        except ClientError as failed:
            told.append(failed.response["Error"]["Code"])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(told) == ["ThrottlingException", "hello"]
    server.stop()
    assert not [line for line in server.lines if "Converse" in line]


def test_a_total_time_that_is_over_ends_the_request(serve):
    server = serve("--timeout", "0.3", "--fault", "latency,seconds=30")
    began = time.monotonic()
    with pytest.raises(Exception, match=r"closed|reset|aborted|disconnected"):
        says(server.client())
    assert time.monotonic() - began < 20
    assert server.stop() == (0, "")
    assert not [line for line in server.lines if "ASGI" in line]


def test_the_log_is_a_json_object_a_line_that_tells_what_happened(serve):
    server = serve("--log", "json", "--fault", "ThrottlingException,nth=2")
    assert says(server.client(), "a b c") == "a b c"
    with pytest.raises(ClientError):
        says(server.client(), "private words")
    assert server.stop() == (0, "")
    first, second = (json.loads(line) for line in server.lines if line.startswith("{"))
    assert (first["operation"], first["model"], first["status"]) == ("Converse", NOVA, 200)
    assert (first["input_tokens"], first["output_tokens"], first["stop_reason"]) == (3, 3, "end_turn")
    assert first["latencyMs"] >= first["firstByteMs"] > 0
    assert re.fullmatch(r"[0-9a-f-]{36}", first["request_id"])
    assert (second["status"], second["code"], second["faults"]) == (
        429,
        "ThrottlingException",
        ["ThrottlingException"],
    )
    assert "private words" not in "\n".join(server.lines)


def test_the_log_for_people_is_a_line_for_each_request(serve):
    server = serve("--log", "text", "-v")
    says(server.client(), "a b c")
    assert server.stop()[0] == 0
    assert any(re.search(rf"Converse {NOVA} 200 [\d.]+ ms 3\+3 tokens end_turn", line) for line in server.lines)


def test_a_quiet_server_still_writes_the_log_that_was_asked_for(serve):
    port = free_port()
    server = serve("-q", "--log", "json", "--port", str(port), ready=False)
    assert eventually(lambda: answers(port))
    assert server.stop()[0] == 0
    assert {json.loads(line)["operation"] for line in server.lines} == {"bx"}


# ---- options that cannot be used ------------------------------------------------------------------------------

WRONG = [
    (["--strict", "--lenient"], ["--strict", "--lenient"], "Leave one"),
    (["--replay", "x", "--model", "echo"], ["--replay", "--model"], "Leave one"),
    (["--replay", "x", "--upstream", "bedrock"], ["--replay", "--upstream"], "Leave one"),
    (["--replay", "x", "--map", "a=echo"], ["--replay", "--map"], "Leave one"),
    (["--replay", "x", "--record", "y"], ["--replay", "--record"], "Leave one"),
    (["--replay", "x", "--lenient"], ["--replay", "--lenient"], "Leave one"),
    (["--upstream", "bedrock", "--model", "echo"], ["--upstream", "--model"], "Leave one"),
    (["--upstream", "bedrock", "--strict"], ["--upstream", "--strict"], "Leave one"),
    (["--self-signed", "x", "--cert", "y"], ["--self-signed", "--cert"], "Leave one"),
    (["--self-signed", "x", "--key", "y"], ["--self-signed", "--key"], "Leave one"),
    (["--realtime"], ["--realtime"], "--replay DIR"),
    (["--cert", "x"], ["--cert", "--key"], "--key FILE"),
    (["--key", "x"], ["--key", "--cert"], "--cert FILE"),
    (["--cert", "none.pem", "--key", "none.pem"], ["none.pem"], ""),
    (["--map", "echo"], ["--map 'echo'"], "--map 'us.anthropic.*=local'"),
    (["--map", "=echo"], ["--map '=echo'"], "--map 'us.anthropic.*=local'"),
    (["--model", "ecco"], ["ecco"], ""),
    (["--upstream", "openai"], ["--upstream", "openai"], ""),
    (["--replay", "nowhere"], ["nowhere"], ""),
    (["--auth", "nowhere"], ["nowhere"], ""),
    (["--fault", "Throttling"], ["'Throttling'"], "ThrottlingException"),
    (["--fault", "ThrottlingException,nht=1"], ["'nht'"], "nth"),
    (["--fault", "ThrottlingException,nth=x"], ["nth='x'"], "whole number"),
    (["--seed", "x"], ["--seed", "'x'"], "--help"),
    (["--port", "70000"], ["--port", "70000"], "65535"),
    (["--port", "-1"], ["--port", "-1"], "65535"),
    (["--host", "no.such.host.invalid"], ["--host 'no.such.host.invalid'"], "127.0.0.1"),
    (["--host", "192.0.2.1"], ["192.0.2.1"], "--auth"),
    (["--max-body", "0"], ["--max-body", "0"], "above 0"),
    (["--max-concurrent", "0"], ["--max-concurrent", "0"], "above 0"),
    (["--idle-timeout", "0"], ["--idle-timeout"], "above 0"),
    (["--timeout", "nan"], ["--timeout", "nan"], "above 0"),
    (["--max-queue", "-1"], ["--max-queue", "-1"], "at least 0"),
    (["--grace", "-1"], ["--grace", "-1"], "at least 0"),
    (["--log", "xml"], ["--log", "xml", "'text', 'json', 'off'"], "--help"),
    (["--nonsense"], ["--nonsense"], "--help"),
    (["extra"], ["extra"], "--help"),
]


@pytest.mark.parametrize(("arguments", "culprits", "remedy"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_options_that_cannot_be_used_are_named_with_the_remedy(bx, arguments, culprits, remedy):
    done = bx("serve", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    told, _, fix = done.stderr.partition("->")
    assert all(culprit in told for culprit in culprits), done.stderr
    assert remedy in fix, done.stderr
    assert fix.strip(), done.stderr


@pytest.mark.parametrize("secure", [False, True])
def test_a_port_that_another_bx_serve_has_is_told_with_its_process(serve, bx, secure):
    other = serve(*(["--self-signed", "tls"] if secure else []))
    port = other.url.rpartition(":")[2]
    done = bx("serve", "--model", "echo", "--port", port)
    assert done.returncode == 2
    assert f"Port {port} is in use by another bx serve, process {other.process.pid}" in done.stderr
    assert f"kill {other.process.pid}" in done.stderr


def test_a_port_that_another_program_has_is_told_without_waiting_for_it(bx):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = bx("serve", "--model", "echo", "--port", str(port), timeout=30)
    assert done.returncode == 2
    assert f"Port {port} is in use\n" in done.stderr
    assert "another --port" in done.stderr


# ---- the check ------------------------------------------------------------------------------------------------

OPERATIONS = {
    "Converse",
    "ConverseStream",
    "InvokeModel",
    "InvokeModelWithResponseStream",
    "CountTokens",
    "ListFoundationModels",
    "GetFoundationModel",
    "GetFoundationModelAvailability",
    "ListInferenceProfiles",
    "GetInferenceProfile",
}


def checked(done):
    """What a check has printed: (name, "ok" or "failed", milliseconds, why)."""
    lines = [
        re.fullmatch(r"(ok|failed) +([\d.]+) ms  ([\w ]+?)(?:: (.*))?", line) for line in done.stdout.splitlines()
    ]
    assert all(lines), done.stdout
    return {line[3]: (line[1], float(line[2]), line[4]) for line in lines}


@pytest.mark.parametrize("secured", [[], ["--self-signed", "tls"], ["--auth", "keys"], ["--lenient"]])
def test_a_check_asks_every_operation_and_tells_how_long_each_took(bx, keys, secured):
    done = bx("serve", "--check", "--model", "echo", *secured)
    assert done.returncode == 0, done.stdout + done.stderr
    found = checked(done)
    assert set(found) >= OPERATIONS
    assert {state for state, _, _ in found.values()} == {"ok"}
    assert all(milliseconds > 0 for _, milliseconds, _ in found.values())
    assert done.stderr == f"bx: all {len(found)} answered\n"


def test_a_check_that_was_recorded_is_answered_by_its_recordings(bx):
    assert bx("serve", "--check", "--model", "echo", "--record", "kept").returncode == 0
    done = bx("serve", "--check", "--replay", "kept")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_check_by_a_bearer_key_needs_https(bx, tmp_path):
    (tmp_path / "keys").write_text("[ci]\nbearer_token = s3cret-bearer\n")
    (tmp_path / "keys").chmod(0o600)
    done = bx("serve", "--check", "--model", "echo", "--auth", "keys", "--self-signed", "tls")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3cret-bearer" not in done.stdout + done.stderr


def test_a_check_does_not_depend_on_the_environment_of_the_user(bx):
    environ = {
        "AWS_BEARER_TOKEN_BEDROCK": "a-key",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "AWS_REGION": "eu-west-1",
    }
    done = bx("serve", "--check", "--model", "echo", **environ)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_check_names_what_does_not_answer(bx):
    done = bx("serve", "--check", "--model", "echo", "--fault", "ModelErrorException,operation=Converse", "-q")
    assert done.returncode == 7
    found = checked(done)
    failed = {name for name, (state, _, _) in found.items() if state == "failed"}
    assert failed == {"Converse", "Converse with a JSON Schema"}
    assert "ModelErrorException" in found["Converse"][2]
    assert done.stderr == f"bx: 2 of {len(found)} did not answer\n"


@pytest.mark.parametrize("fault", ["reset,after=1", "bad-crc,after=1", "truncate,after=1", "reset"])
def test_a_check_survives_whatever_is_answered(bx, fault):
    done = bx("serve", "--check", "--model", "echo", "--fault", f"{fault},operation=ConverseStream")
    assert done.returncode == 7, done.stderr
    assert checked(done)["ConverseStream"][0] == "failed"


def test_a_check_of_the_embedded_model_has_it_answer_in_json(bx, local_weights):
    done = bx("serve", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert checked(done)["Converse with a JSON Schema"][0] == "ok"


# ---- help -----------------------------------------------------------------------------------------------------


def test_every_option_of_the_help_stands_in_a_test(bx):
    told = bx("serve", "--help").stdout
    options = set(re.findall(r"^  (?:-\w, |-\w [A-Z]+, )?(--[a-z-]+)", told, re.MULTILINE))
    assert {"--model", "--map", "--check", "--yes"} <= options
    source = Path(__file__).read_text()
    untested = {option for option in options if f'"{option}"' not in source}
    assert untested <= {"--help", "--quiet", "--verbose"}  # -q and -v are above
