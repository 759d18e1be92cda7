"""A Bedrock for the tests of users: `bx.serve` as a context manager, and the fixture `bx_bedrock`."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

import bx
from bx import aws
from bx.catalogue import UnknownModel
from bx.engines.echo import Echo
from bx.server.endpoint import CannotServe
from bx.server.faults import FaultError
from test_startup import imported

NOVA = "us.amazon.nova-2-lite-v1:0"
ROOT = Path(__file__).parent.parent


def client(endpoint, attempts=1, service="bedrock-runtime", **more):
    """A client as a user makes it."""
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    return boto3.client(service, endpoint_url=endpoint.url, config=Config(retries=retries), **more)


def says(text, endpoint, **more):
    messages = [{"role": "user", "content": [{"text": text}]}]
    with contextlib.closing(client(endpoint, **more)) as asking:
        return bx.text(asking.converse(modelId=NOVA, messages=messages))


def eventually(true):
    until = time.monotonic() + 10
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


class Mine:
    """An engine of a user: the two methods, and no more."""

    def __init__(self):
        self.asked = []

    def converse(self, **request):
        self.asked.append(request)
        return bx.collect(self.converse_stream(**request)["stream"])

    def converse_stream(self, **request):
        self.asked.append(request)
        return Echo().converse_stream(**{**request, "messages": [{"role": "user", "content": [{"text": "mine"}]}]})


# ---- the context manager --------------------------------------------------------------------------------------


def test_an_engine_and_a_model_cannot_both_answer():
    with pytest.raises(ValueError, match="cannot both answer"):
        bx.serve(Echo(), model="echo")


def test_an_engine_of_two_methods_answers_a_real_client_and_is_given_the_request_as_it_came():
    mine = Mine()
    with bx.serve(mine) as endpoint, contextlib.closing(client(endpoint)) as asking:
        request = {
            "modelId": NOVA,
            "messages": [{"role": "user", "content": [{"text": "hi"}]}],
            "inferenceConfig": {"maxTokens": 5},
            "requestMetadata": {"team": "a"},
        }
        assert bx.text(asking.converse(**request)) == "mine"
        assert bx.text(bx.collect(asking.converse_stream(**request)["stream"])) == "mine"
    assert mine.asked[0] == request
    assert mine.asked[-1] == request


def test_a_named_model_stands_in_for_every_model_id():
    with bx.serve(model="echo") as endpoint, contextlib.closing(client(endpoint)) as asking:
        for model_id in (NOVA, "us.anthropic.claude-sonnet-4-6"):
            request = bx.request("hello there", model=model_id)
            assert bx.text(asking.converse(**request)) == "hello there"


def test_a_strict_server_refuses_what_the_named_model_would_and_a_lenient_one_answers():
    request = bx.request("hi", model="amazon.nova-2-lite-v1:0")
    with bx.serve(model="echo") as strict, bx.serve(model="echo", strict=False) as lenient:
        with contextlib.closing(client(strict)) as asking, pytest.raises(ClientError, match="inference profile"):
            asking.converse(**request)
        with contextlib.closing(client(lenient)) as asking:
            assert bx.text(asking.converse(**request)) == "hi"


def test_faults_hit_from_the_start_and_from_the_moment_they_are_added():
    with bx.serve(model="echo", faults=["ThrottlingException,nth=1"]) as endpoint:
        with pytest.raises(ClientError, match="ThrottlingException"):
            says("one", endpoint)
        assert says("two", endpoint) == "two"
        endpoint.faults.add({"fault": "ServiceUnavailableException", "first": 1})
        with pytest.raises(ClientError, match="ServiceUnavailableException"):
            says("three", endpoint)
        endpoint.faults.add("ThrottlingException,first=1")
        assert says("four", endpoint, attempts=3) == "four"
        endpoint.faults.clear()
        assert endpoint.faults.listed() == []


def test_one_fault_needs_no_list():
    with bx.serve(model="echo", faults="ThrottlingException") as endpoint, pytest.raises(ClientError):
        says("hi", endpoint)


def test_what_was_asked_is_told_in_order_also_where_a_fault_hit_or_the_model_refused():
    with bx.serve(model="echo", faults=["ThrottlingException,nth=1"]) as endpoint:
        assert endpoint.requests == []
        assert says("again", endpoint, attempts=2) == "again"
        body = {"messages": [{"role": "user", "content": [{"text": "native"}]}]}
        with contextlib.closing(client(endpoint)) as asking:
            asking.invoke_model(modelId=NOVA, body=json.dumps(body))
            with pytest.raises(ClientError):
                asking.converse(modelId="amazon.nova-2-lite-v1:0", messages=body["messages"])
        first, second, native, refused = endpoint.requests
        assert first == second == ("Converse", {"modelId": NOVA, "messages": first.request["messages"]})
        assert first.request["messages"][0]["content"] == [{"text": "again"}]
        assert native.operation == "InvokeModel"
        assert json.loads(native.request["body"]) == body
        assert refused.request["modelId"] == "amazon.nova-2-lite-v1:0"


def test_only_the_latest_requests_are_kept():
    with bx.serve(model="echo", keep=2) as endpoint:
        for number in range(4):
            says(str(number), endpoint)
        kept = [asked.request["messages"][0]["content"][0]["text"] for asked in endpoint.requests]
    assert kept == ["2", "3"]


def test_the_counters_tell_what_was_done():
    with bx.serve(model="echo") as endpoint:
        says("hi", endpoint)
        assert eventually(lambda: endpoint.stats.summary()["requests"] == {"Converse": 1})


def test_what_was_recorded_is_replayed_without_an_engine(tmp_path):
    mine = Mine()
    with bx.serve(mine, record=str(tmp_path / "kept")) as endpoint:
        assert says("hi", endpoint) == "mine"
    with bx.serve(model="echo", replay=str(tmp_path / "kept")) as endpoint:
        assert says("hi", endpoint) == "mine"
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            says("another", endpoint)
    assert len(mine.asked) == 2


def test_several_servers_run_side_by_side_and_nested():
    with bx.serve(model="echo") as one, bx.serve(Mine()) as other:
        assert one.url != other.url
        with bx.serve(model="echo", faults=["ThrottlingException"]) as inner:
            with pytest.raises(ClientError):
                says("hi", inner)
            assert says("hi", one) == "hi"
        assert says("hi", other) == "mine"
        assert says("hi", one) == "hi"
        assert [len(each.requests) for each in (one, other, inner)] == [2, 1, 1]


def test_an_exception_inside_the_context_stops_the_server_and_goes_on():
    with pytest.raises(KeyError, match="mine"), bx.serve(model="echo") as endpoint:
        raise KeyError("mine")
    with pytest.raises(OSError):  # noqa: PT011 # refused
        urllib.request.urlopen(f"{endpoint.url}/_bx/health", timeout=5)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_a_server_leaves_no_thread_and_no_descriptor():
    def once(number):
        with bx.serve(model="echo") as endpoint, contextlib.closing(client(endpoint)) as asking:
            stream = asking.converse_stream(**bx.request("a b c", model=NOVA))["stream"]
            next(iter(stream))
            stream.close()
            assert bx.text(asking.converse(**bx.request(str(number), model=NOVA))) == str(number)

    def descriptors():
        gc.collect()  # botocore's stream that was given up holds its socket in a cycle
        return len(list(Path("/proc/self/fd").iterdir()))

    def threads():
        return [each for each in threading.enumerate() if each.name.startswith("bx-")]

    once(0)
    assert eventually(lambda: not threads())
    before = descriptors()
    for number in range(10):
        once(number)
    assert eventually(lambda: not threads())
    assert eventually(lambda: descriptors() <= before)


def test_a_server_that_is_never_started_can_be_stopped_and_gives_its_port_back():
    endpoint = bx.serve(model="echo")
    port = int(endpoint.url.rpartition(":")[2])
    endpoint.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_starting_and_stopping_takes_no_time_that_a_test_would_feel():
    with bx.serve(model="echo"):  # the first one loads what it needs
        pass
    times = []
    for _ in range(5):
        began = time.monotonic()
        with bx.serve(model="echo") as endpoint:
            assert says("hi", endpoint) == "hi"
        times.append(time.monotonic() - began)
    assert min(times) < 0.5, times


@pytest.mark.parametrize(
    ("options", "error", "culprit", "remedy"),
    [
        ({"fualts": []}, CannotServe, "'fualts'", "faults"),
        ({"faults": ["Throttling"]}, FaultError, "'Throttling'", "ThrottlingException"),
        ({"model": "claude"}, UnknownModel, "'claude'", "bx.engine()"),
        ({"model": "ecco"}, ValueError, "ecco", ""),
        ({"host": "0.0.0.0"}, CannotServe, "0.0.0.0", "--auth"),
        ({"replay": "nowhere"}, ValueError, "nowhere", ""),
        ({"auth": "nowhere"}, ValueError, "nowhere", ""),
    ],
)
def test_an_option_that_cannot_be_used_is_named_with_its_remedy(options, error, culprit, remedy):
    with pytest.raises(error) as raised:
        bx.serve(**{"model": "echo", **options})
    assert culprit in str(raised.value)
    assert remedy in raised.value.fix


@pytest.mark.parametrize("library", ["uvicorn", "prometheus_client", "trustme"])
def test_without_the_extra_it_is_told_what_to_install(library):
    code = f"import sys; sys.modules[{library!r}] = None; import bx; bx.serve(model='echo')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"bx serve needs libraries that are not installed: {library}" in done.stderr
    code = f"import sys; sys.modules[{library!r}] = None\nfrom bx.server import NotInstalled; print(NotInstalled.fix)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'bedrock-bx[serve]'" in done.stdout


# ---- what points the SDKs at it -------------------------------------------------------------------------------


def test_the_environment_is_filled_up_but_keys_and_regions_of_the_user_stay():
    url = "http://127.0.0.1:1"
    bare = aws.pointed(url, {})
    assert bare["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] == bare["AWS_ENDPOINT_URL_BEDROCK"] == url
    assert bare["AWS_BEARER_TOKEN_BEDROCK"] is None
    assert bare["AWS_DEFAULT_REGION"] == bare["AWS_REGION"] == "us-east-1"
    assert bare["AWS_ACCESS_KEY_ID"]
    assert bare["AWS_SECRET_ACCESS_KEY"]
    assert bare["no_proxy"] == bare["NO_PROXY"] == "127.0.0.1"
    users = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_REGION": "eu-west-1", "NO_PROXY": "corp.example"}
    filled = aws.pointed(url, users)
    assert "AWS_ACCESS_KEY_ID" not in filled
    assert "AWS_SESSION_TOKEN" not in filled
    assert filled["AWS_REGION"] == filled["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert filled["no_proxy"] == "corp.example,127.0.0.1"
    assert "no_proxy" not in aws.pointed(url, {"no_proxy": "*"})
    assert aws.pointed("http://localhost:1", {})["no_proxy"] == "localhost"


# ---- the plugin -----------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's project with bx installed: project(tests, "-k", "some") -> the run of pytest.

    What is installed is what pyproject.toml says, whether or not this environment is up to date.
    """
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    info = tmp_path / "site" / "users_copy_of_bx-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-copy-of-bx\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in declared.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    monkeypatch.setenv("PYTHONPATH", str(info.parent))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)

    def run(tests, *arguments, code=0):
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --strict-config\n")
        (folder / "test_mine.py").write_text(f"{HEAD}\n{tests}")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


HEAD = """
import sys, boto3, pytest
from botocore.exceptions import ClientError

def ask(text="hello", model="us.amazon.nova-2-lite-v1:0"):
    client = boto3.client("bedrock-runtime")
    messages = [{"role": "user", "content": [{"text": text}]}]
    try:
        return client.converse(modelId=model, messages=messages)["output"]["message"]["content"][0]["text"]
    finally:
        client.close()
"""


def test_a_project_gets_the_plugin_by_installing_bx():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"bx": "bx.fixtures"}
    installed = {each.name: each.value for each in importlib.metadata.entry_points(group="pytest11")}
    assert installed.get("bx", "bx.fixtures") == "bx.fixtures"


def test_a_client_that_is_made_in_the_test_finds_the_server_without_any_configuration(project, monkeypatch):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "a-key-that-must-not-be-sent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    project("""
def test_runtime(bx_bedrock):
    assert ask("hi") == "hi"
    assert [asked.operation for asked in bx_bedrock.requests] == ["Converse"]

def test_control(bx_bedrock):
    client = boto3.client("bedrock")
    assert client.list_foundation_models()["modelSummaries"]
    client.close()
""")


def test_the_environment_is_as_before_after_the_test(project):
    project("""
import os
before = dict(os.environ)

def test_one(bx_bedrock):
    assert os.environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] == bx_bedrock.url

def test_two():
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    assert changed <= {"PYTEST_CURRENT_TEST"}
""")


def test_faults_and_requests_do_not_leak_from_one_test_into_the_next(project):
    project("""
@pytest.mark.parametrize("number", range(3))
def test_one(bx_bedrock, number):
    assert bx_bedrock.requests == [] and bx_bedrock.faults.listed() == []
    bx_bedrock.faults.add("AccessDeniedException")
    with pytest.raises(ClientError, match="AccessDenied"):
        ask()
""")


def test_the_marker_chooses_what_answers_and_how(project):
    project("""
import bx
from bx.engines.echo import Echo
from bx.server.endpoint import CannotServe

class Mine(Echo):
    def converse_stream(self, **request):
        return super().converse_stream(**{**request, "messages": [{"role": "user", "content": [{"text": "mine"}]}]})

@pytest.mark.bx_bedrock(engine=Mine())
def test_engine(bx_bedrock):
    assert ask() == "mine"

@pytest.mark.bx_bedrock(faults=["ValidationException,message=no"], seed=3)
def test_faults(bx_bedrock):
    with pytest.raises(ClientError, match="no"):
        ask()

@pytest.mark.bx_bedrock(strict=False)
class TestClass:
    def test_lenient(self, bx_bedrock):
        assert ask(model="amazon.nova-2-lite-v1:0") == "hello"

    @pytest.mark.bx_bedrock()
    def test_nearest(self, bx_bedrock):
        with pytest.raises(ClientError, match="inference profile"):
            ask(model="amazon.nova-2-lite-v1:0")

@pytest.mark.bx_bedrock(self_signed="tls")
def test_https(bx_bedrock):
    assert bx_bedrock.url.startswith("https") and ask("hi") == "hi"

@pytest.mark.bx_bedrock(record="kept")
def test_record(bx_bedrock):
    assert ask("hi") == "hi"

@pytest.mark.bx_bedrock(replay="kept")
def test_replay(bx_bedrock, monkeypatch, tmp_path):
    assert ask("hi") == "hi"
    with pytest.raises(ClientError, match="ResourceNotFound"):
        ask("other")
""")


def test_the_embedded_model_answers_in_json_and_is_loaded_once_for_all_tests(project, local_weights):
    project("""
import json, time
import bx

SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
took = []

@pytest.mark.bx_bedrock(model="local")
@pytest.mark.parametrize("number", range(3))
def test_one(bx_bedrock, number):
    began = time.monotonic()
    client = boto3.client("bedrock-runtime")
    asked = bx.request("Give me a number", model="us.anthropic.claude-sonnet-4-6", schema=SCHEMA)
    assert json.loads(bx.text(client.converse(**asked)))["n"] in (1, 2)
    client.close()
    took.append(time.monotonic() - began)

def test_once():
    assert min(took[1:]) < took[0]
""")


def test_the_paths_of_the_marker_begin_where_the_test_s_file_is(project, tmp_path):
    project(
        """
@pytest.mark.bx_bedrock(record="kept")
def test_record(bx_bedrock):
    ask("hi")
""",
        f"--rootdir={tmp_path}",
    )
    assert list((tmp_path / "project" / "kept").glob("Converse-*.json"))


def test_a_marker_that_cannot_be_used_fails_the_test_with_what_to_do(project):
    told = project(
        """
@pytest.mark.bx_bedrock(fualts=[])
def test_option(bx_bedrock): pass

@pytest.mark.bx_bedrock(faults=["Throttling"])
def test_fault(bx_bedrock): pass

@pytest.mark.bx_bedrock("echo")
def test_position(bx_bedrock): pass

@pytest.mark.bx_bedrock(engine=1, model="echo")
def test_both(bx_bedrock): pass
""",
        code=1,
    )
    assert "There is no option 'fualts'" in told
    assert "There is no fault 'Throttling'" in told
    assert "-> Did you mean ThrottlingException?" in told
    assert told.count("takes (model='echo', engine=None") >= 2
    assert "Traceback" not in told
    assert "fixtures.py" not in told


def test_without_the_extra_the_test_that_asks_for_it_fails_with_what_to_install(project):
    told = project(
        """
sys.modules["uvicorn"] = None

def test_one(bx_bedrock): pass
def test_other(): pass
""",
        code=1,
    )
    assert "pip install 'bedrock-bx[serve]'" in told
    assert "1 passed, 1 error" in told


def test_a_project_that_does_not_use_it_pays_nothing(project):
    project("""
@pytest.mark.bx_bedrock
def test_nothing():
    loaded = {name for name in sys.modules if name.startswith("bx.")}
    assert loaded <= {"bx.converse", "bx.fixtures", "bx.instances"}
""")
    code = "import pytest, sys; before = set(sys.modules); import bx.fixtures; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names <= {"bx"}
    heavy = {"asyncio", "botocore", "msgspec", "prometheus_client", "tomllib", "uvicorn"}
    assert not heavy & (imported("import bx.fixtures") - imported("import pytest"))


def test_a_project_can_do_without_the_plugin(project):
    told = project("def test_nothing(): pass\n", "-p", "no:bx")
    assert "1 passed" in told
    told = project("def test_it(bx_bedrock): pass\n", "-p", "no:bx", code=1)
    assert "fixture 'bx_bedrock' not found" in told


def test_the_fixture_and_its_marker_explain_themselves(project):
    assert "@pytest.mark.bx_bedrock(model='echo'" in project("", "--markers")
    assert "bx_bedrock -- " in project("", "--fixtures")
    assert "Run a Bedrock on this machine for the test" in project("", "--fixtures")
