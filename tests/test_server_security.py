"""What an attacker tries: a web page, a forged signature, text that becomes a header, a file, a line or a counter."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import time
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import bx
from bx.converse import error
from bx.engines.echo import Echo
from bx.server.faults import FaultError, Faults
from bx.server.http import Limits
from bx.server.quotas import Measures, Quota

WAIT = 10  # seconds: far longer than anything here takes
MODEL = "amazon.nova-lite-v1:0"
PATH = f"/model/{MODEL}/converse"
BODY = json.dumps({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}).encode()
KEY = Credentials("AKIDEXAMPLE", "a secret")
BEARER = "bedrock-api-key-of-a-test"
POSTED = b'{"fault": "ThrottlingException"}'


@pytest.fixture
def server():
    with bx.serve(model="echo") as running:
        yield running


@pytest.fixture
def locked(tmp_path):
    file = tmp_path / "keys"
    file.touch(0o600)
    file.write_text(
        f"[one]\naws_access_key_id = {KEY.access_key}\naws_secret_access_key = {KEY.secret_key}\n"
        f"[two]\nbearer_token = {BEARER}\n"
    )
    with bx.serve(model="echo", auth=file) as running:
        yield running


def memory():
    """The bytes that this process, with the servers in it, has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def port(server):
    return int(server.url.rpartition(":")[2])


def raw(server, *lines, body=BODY):
    """Send a request as it stands, with its body's length; returns status and body of all replies."""
    head = [*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", port(server)), timeout=WAIT) as client:
        client.sendall("\r\n".join(head).encode("latin-1") + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]


def ask(server, method="POST", path=PATH, body=BODY, headers=()):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port(server), timeout=WAIT)) as connection:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.headers, response.read()


# ---- web pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost:80@evil.example",
        "localhost\\@evil.example",
        "localhost/evil.example",
        "localhost#evil.example",
        "localhost?evil.example",
        "localhost, evil.example",
        "localhost evil.example",
        "local\thost",
        "127.0.0.1.evil.example",
        "[::1].evil.example",
        "[::1",
        "2130706433",
        "0x7f.1",
        "",
    ],
)
def test_a_host_that_is_not_the_server_s_own_is_refused(server, host):
    status, _ = raw(server, f"POST {PATH} HTTP/1.1", f"Host: {host}")
    assert status == 403


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1", "[::1]:80"])
def test_a_host_of_the_loopback_is_let_in(server, host):
    assert raw(server, f"POST {PATH} HTTP/1.1", f"Host: {host}")[0] == 200


def test_several_hosts_or_none_are_refused(server):
    line = f"POST {PATH} HTTP/1.1"
    assert raw(server, line, "Host: localhost", "Host: evil.example")[0] == 400
    assert raw(server, line)[0] == 400
    assert raw(server, f"POST {PATH} HTTP/1.0")[0] == 403


def test_the_host_in_a_request_s_own_line_lets_nobody_in(server):
    assert raw(server, f"POST http://localhost{PATH} HTTP/1.1", "Host: evil.example")[0] == 403
    assert raw(server, f"POST http://evil.example{PATH} HTTP/1.1", "Host: localhost")[0] == 404


def test_the_name_that_it_listens_on_is_its_own():
    with bx.serve(model="echo", host="127.0.0.2") as server:
        line = f"GET /_bx/health HTTP/1.1\r\nHost: 127.0.0.2:{port(server)}\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.2", port(server)), timeout=WAIT) as client:
            client.sendall(line.encode())
            assert client.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://[::1"},
        {"Origin": ""},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none, cross-site"},
        {"Sec-Fetch-Site": ""},
    ],
)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_form_of_another_site_changes_no_fault_and_asks_no_model(server, headers, content_type):
    for path, body in ((PATH, BODY), ("/_bx/faults", POSTED), ("/_bx/faults", b"[]")):
        assert ask(server, "POST", path, body, {"Content-Type": content_type, **headers})[0] == 403
    assert ask(server, "DELETE", "/_bx/faults", b"", headers)[0] == 403
    assert ask(server, "GET", "/_bx/stats", b"", headers)[0] == 403
    assert server.faults.listed() == []


def test_no_reply_allows_another_site_to_read_it(server):
    for method in ("OPTIONS", "GET", "POST"):
        status, headers, _ = ask(server, method, PATH, BODY, {"Origin": "http://evil.example"})
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control")]


# ---- signatures -----------------------------------------------------------------------------------------------


def signed(server, path=PATH, *, method="POST", body=BODY, keys=KEY, service="bedrock", **more):
    """The headers of a request that is signed."""
    request = AWSRequest(method, f"http://127.0.0.1:{port(server)}{path}", dict(more), body)
    SigV4Auth(keys, service, "us-east-1").add_auth(request)
    return dict(request.headers.items())


def test_who_has_the_key_is_let_in(locked):
    assert ask(locked, headers=signed(locked))[0] == 200
    assert ask(locked, headers={"Authorization": f"Bearer {BEARER}"})[0] == 200


def test_a_signature_is_good_for_its_own_request_only(locked):
    headers = signed(locked, **{"X-Amz-Meta": "a"})
    assert ask(locked, headers=headers)[0] == 200
    stream = f"/model/{MODEL}/converse-stream"
    assert ask(locked, path=stream, headers=headers)[0] == 403
    assert ask(locked, path=f"{PATH}?a=b", headers=headers)[0] == 403
    assert ask(locked, path=PATH.replace("lite", "pro"), headers=headers)[0] == 403
    assert ask(locked, body=BODY.replace(b"hi", b"ho"), headers=headers)[0] == 403
    assert ask(locked, body=b"", headers=headers)[0] == 403
    assert ask(locked, headers={**headers, "X-Amz-Meta": "b"})[0] == 403
    assert ask(locked, headers={**headers, "Host": "evil.example"})[0] == 403
    assert ask(locked, "DELETE", "/_bx/faults", headers=headers)[0] == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "Bearer",
        lambda text: "Bearer ",
        lambda text: "Bearer , ",
        lambda text: f"Bearer {BEARER[:-1]}",
        lambda text: f"Bearer {BEARER},x",
        lambda text: f"Bearer x {BEARER}",
        lambda text: f"Basic {BEARER}",
        lambda text: re.sub(r"Signature=\w+", "Signature=", text),
        lambda text: re.sub(r"Signature=\w+", f"Signature={'0' * 64}", text),
        lambda text: text[:-1],
        lambda text: f"{text}, Signature={'0' * 64}",
        lambda text: text.upper(),
        lambda text: text.replace("host;", ""),
        lambda text: text.replace("x-amz-date", "x-amz-target"),
        lambda text: re.sub(r"SignedHeaders=[^,]+", "SignedHeaders=", text),
        lambda text: text.replace("AKIDEXAMPLE", "AKIDOTHER"),
        lambda text: text.replace("AKIDEXAMPLE", ""),
        lambda text: text.replace("AKIDEXAMPLE", "one/AKIDEXAMPLE"),
        lambda text: text.replace("/bedrock/", "/s3/"),
        lambda text: text.replace("aws4_request", "aws5_request"),
        lambda text: text.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        lambda text: text.replace("AWS4-HMAC-SHA256", "NONE"),
        lambda text: text.replace("us-east-1", "us-west-2"),
    ],
)
def test_an_authorization_that_was_tampered_with_is_refused(locked, change):
    headers = signed(locked)
    changed = change(headers["Authorization"])
    assert changed != headers["Authorization"]
    assert ask(locked, headers={**headers, "Authorization": changed})[0] == 403


def test_no_second_header_overrules_what_was_signed(locked):
    headers = signed(locked)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    first = [f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{port(locked)}"]
    assert raw(locked, *first, *lines)[0] == 200
    assert raw(locked, *first, "Authorization: Bearer x", *lines)[0] == 403
    assert raw(locked, *first, "X-Amz-Date: x", *lines)[0] == 403
    assert raw(locked, *first, *lines, f"X-Amz-Date: {headers['X-Amz-Date']}")[0] == 403
    assert raw(locked, *first, *lines, "X-Amz-Security-Token: x")[0] == 403
    assert raw(locked, *first, *lines, f"X-Amz-Content-SHA256: {'0' * 64}")[0] == 403
    assert raw(locked, *first, *lines, "X-Amz-Content-SHA256: UNSIGNED-PAYLOAD", body=b"{}")[0] == 403


def test_a_signature_in_the_query_is_none(locked):
    credential = signed(locked)["Authorization"].partition("Credential=")[2].partition(",")[0]
    query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Signature={'0' * 64}"
    assert ask(locked, path=f"{PATH}?{query}")[0] == 403


def test_a_request_in_the_wake_of_a_signed_one_needs_its_own_signature(locked):
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(locked).items())
    line = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port(locked)}\r\nContent-Length: {len(BODY)}\r\n"
    good, bad = line + head + "\r\n", line + "Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port(locked)), timeout=WAIT) as client:
        client.sendall(good.encode() + BODY + bad.encode() + BODY)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"403"]


@pytest.mark.parametrize(
    "path",
    [
        "/_bx/stats",
        "/_bx/metrics",
        "/_bx/faults",
        "/_bx/health/",
        "/_bx/health/../stats",
        "/_bx//health",
        "/_bx/%68ealth",
        "/foundation-models",
        "/nothing",
    ],
)
def test_without_a_key_there_is_nothing_but_health(locked, path):
    assert ask(locked, "GET", path)[0] == 403
    status, _, body = ask(locked, "GET", "/_bx/health?x")
    assert (status, json.loads(body)["status"]) == (200, "ok")


def test_no_refusal_tells_a_secret(locked):
    for headers in (signed(locked, keys=Credentials(KEY.access_key, "wrong")), {"Authorization": "Bearer wrong"}):
        status, told, body = ask(locked, headers=headers)
        text = str(told) + body.decode()
        assert status == 403
        assert KEY.secret_key not in text
        assert BEARER not in text


# ---- text that becomes something else -------------------------------------------------------------------------


def test_a_model_id_becomes_no_header_and_no_file(server):
    for name in ("a%0d%0aX-Evil:%201", "..%2F..%2Fetc%2Fpasswd", "%00", "a%0a", "-", "%2e%2e"):
        status, headers, _ = ask(server, path=f"/model/{name}/converse")
        assert status == 400
        assert "x-evil" not in headers


def test_what_an_engine_says_becomes_no_header():
    class Liar(Echo):
        def converse_stream(self, **request):
            raise error("ValidationException\r\nX-Evil: 1", "no\r\n\r\nreally")

        converse = converse_stream

    with bx.serve(Liar()) as server:
        for path in (PATH, PATH + "-stream"):
            status, headers, body = ask(server, path=path)
            assert "x-evil" not in headers
            assert status < 600
            assert json.loads(body) == {"message": "no\r\n\r\nreally"}


def test_the_list_of_what_had_no_effect_stays_short(server):
    content = [{"text": "hi"}, *[{"cachePoint": {"type": "default"}}] * 4]
    turn = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"text": "ho"}]}]
    body = json.dumps({"messages": [*turn * 1000, {"role": "user", "content": [{"text": "hi"}]}]})
    with bx.serve(model="echo", strict=False) as lenient:
        status, headers, _ = ask(lenient, body=body.encode())
    assert status == 200
    assert headers["x-bx-ignored"].endswith(" more")
    assert len(headers["x-bx-ignored"]) < 4000


def test_a_fault_s_message_becomes_no_header_and_no_frame(server):
    spec = {"fault": "ThrottlingException", "message": "a\r\nX-Evil: 1\r\n\r\n\ud800"}
    assert ask(server, path="/_bx/faults", body=json.dumps(spec).encode())[0] == 200
    for path in (PATH, PATH + "-stream"):
        status, headers, body = ask(server, path=path)
        assert status == 429
        assert "x-evil" not in headers
        assert json.loads(body)["message"] == spec["message"]


def test_recordings_stay_in_their_folder_whatever_is_asked(tmp_path):
    folder = tmp_path / "deep" / "recordings"
    with bx.serve(model="echo", record=folder, strict=False) as server:
        for name in (
            "..%2F..%2Fescaped",
            "x",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile%2Fa.b",
            "%2e%2e",
        ):
            for kind in ("converse", "invoke", "converse-stream"):
                ask(server, path=f"/model/{name}/{kind}")
        ask(server, "GET", "/foundation-models/..%2F..%2Fescaped", b"")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert all(path.parent == folder and re.fullmatch(r"\w+-[0-9a-f]{12}-\d+\.json", path.name) for path in kept)


def test_a_line_of_the_access_log_is_one_request(server):
    notes = []
    server._log = notes.append
    paths = ["/a%0a12:00:00%20Converse%20forged%20200", "/a\x1b[2J", f"/model/{MODEL}%0aforged/converse"]
    for path in paths:
        with contextlib.suppress(http.client.InvalidURL):
            ask(server, path=path)
        raw(server, f"POST {path} HTTP/1.1", "Host: localhost")
    body = {**json.loads(BODY), "additionalModelRequestFields": {"a\nforged": 1, "\x1b[2J": 2}}
    ask(server, path="/model/my.model/converse", body=json.dumps(body).encode())
    ask(
        server,
        path="/model/my.model/converse",
        headers={"Authorization": "AWS4-HMAC-SHA256 Credential=a/20200101/x\ty/"},
    )
    from bx.cli.serve import _as_json, _as_text

    assert notes
    for note in notes:
        assert _as_text(note).isprintable()
        assert json.loads(_as_json(note))["status"] >= 400 or note["operation"] == "Converse"
        assert "\n" not in _as_json(note)


def test_labels_of_the_counters_cannot_be_forged_or_made_without_end(server):
    notes = {"started": time.monotonic(), "ended": time.monotonic(), "status": 200, "operation": "Converse"}
    server.stats.count({**notes, "model": 'a"} 1\nbx_forged{x="'})
    for number in range(300):
        server.stats.count({**notes, "model": f"made-up.{number}"})
    text = ask(server, "GET", "/_bx/metrics")[2].decode()
    assert "\nbx_forged" not in text
    assert len(set(re.findall(r'model="(made-up[^"]*)"', text))) < 250
    assert 'model="other"' in text


# ---- no end ---------------------------------------------------------------------------------------------------


def test_faults_cannot_be_added_without_end(server):
    many = {"faults": [{"fault": "ThrottlingException", "model": "no.such"}] * 1000}
    assert ask(server, path="/_bx/faults", body=json.dumps(many).encode())[0] == 200
    status, _, body = ask(server, path="/_bx/faults", body=POSTED)
    assert status == 400
    assert "at most 1000 faults" in json.loads(body)["message"]
    assert len(server.faults.listed()) == 1000
    with pytest.raises(FaultError, match="at most 1000"):
        Faults(["ThrottlingException"] * 1001)


def test_quotas_of_model_ids_that_are_made_up_are_forgotten():
    now = [0.0]
    quota = Quota({"rpm": 1}, Measures(clock=lambda: now[0]))
    for number in range(30_000):
        now[0] += 0.01
        quota._window(f"made-up.{number}", "rpm")
    assert len(quota._windows) < 20_000
    kept = quota._window("made-up.29999", "rpm")
    assert quota._window("made-up.29999", "rpm") is kept


def test_bodies_of_requests_for_which_there_is_no_room_are_not_kept():
    with bx.serve(model="echo", limits=Limits(concurrent=1, queue=1)) as server, contextlib.ExitStack() as stack:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port(server)), timeout=WAIT))
            client.sendall(head + BODY[:5])
        until = time.monotonic() + WAIT
        while server.stats.summary()["active"] < 2 and time.monotonic() < until:
            time.sleep(0.01)
        status, _, body = ask(server)
        assert status == 429
        assert "Too many requests" in json.loads(body)["message"]
        client.sendall(BODY[5:])
        assert client.recv(12) == b"HTTP/1.1 200"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
def test_bodies_of_who_is_refused_for_the_head_alone_are_not_kept(locked):
    body = b"x" * (24 * 1024 * 1024)
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 1}\r\n\r\n".encode()
    before = memory()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port(locked)), timeout=WAIT))
            client.sendall(head)
            client.sendall(body)
        assert memory() - before < 2 * len(body), "of the four that were sent"
        client.sendall(b"x")
        assert b"MissingAuthenticationTokenException" in client.recv(10_000)
