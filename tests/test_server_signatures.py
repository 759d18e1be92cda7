"""Signatures and keys: requests that real clients signed are let in, and nothing else is."""

from __future__ import annotations

import hashlib
import hmac
import os
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.utils import normalize_url_path
from hypothesis import assume, given
from hypothesis import strategies as st

from bx import diagnosis
from bx.server import signatures
from bx.server.exchange import Received

ACCESS, SECRET, TOKEN = "AKIDEXAMPLE", "secret+of/the/example", "token/of+the=session"
PAIRS = {ACCESS: signatures.Pair(SECRET, ""), "ASIDEXAMPLE": signatures.Pair(SECRET, TOKEN)}
KEYS = signatures.Keys(PAIRS, ["bedrock-api-key-one", "bedrock-api-key-two"])
NOVA = "us.amazon.nova-2-lite-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"


def received(method, url, headers, body=b""):
    parts = urlsplit(url)
    headers = {name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in headers.items()}
    headers.setdefault("host", parts.netloc)
    return Received(method, parts.path, parts.query, headers, body, parts.scheme)


def now():
    return datetime.now(UTC)


def sent(act, *, access=ACCESS, token=None, service="bedrock-runtime", region="eu-west-1", **config):
    """What a real boto3 client would put on the wire for a call."""
    client = boto3.client(
        service,
        region_name=region,
        endpoint_url="http://127.0.0.1:4567",
        aws_access_key_id=access,
        aws_secret_access_key=SECRET,
        aws_session_token=token,
        config=Config(**config),
    )
    caught = []

    def keep(request, **_):
        caught.append(request)
        return AWSResponse(request.url, 200, {"content-type": "application/json"}, _Raw())

    client.meta.events.register("before-send", keep)
    act(client)
    (request,) = caught
    return received(request.method, request.url, request.headers, request.body or b"")


class _Raw:
    def read(self, *_, **__):
        return b"{}"

    def stream(self, **_):
        yield b"{}"


def converse(model):
    return lambda client: client.converse(modelId=model, messages=[{"role": "user", "content": [{"text": "é, ok"}]}])


def signed(body=b'{"messages": []}', path="/model/m%3A0/converse", query="", scheme="http", **changes):
    """A request signed by botocore."""
    url = f"{scheme}://localhost:4567{path}" + (f"?{query}" if query else "")
    headers = {"Content-Type": "application/json", "Host": "localhost:4567", **changes.pop("headers", {})}
    request = AWSRequest("POST", url, headers, body)
    credentials = Credentials(changes.get("access", ACCESS), changes.get("secret", SECRET), changes.get("token"))
    SigV4Auth(credentials, changes.get("service", "bedrock"), "us-west-2").add_auth(request)
    return received("POST", url, dict(request.headers.items()), body)


def refusal(request, *, keys=KEYS, at=None):
    with pytest.raises(ClientError) as failed:
        signatures.verify(request, keys, at or now())
    error = failed.value.response["Error"]
    return error["Code"], error["Message"]


def with_headers(request, **changes):
    headers = {**request.headers, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return replace(request, headers={name: value for name, value in headers.items() if value is not None})


# ---- what is let in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [NOVA, PROFILE])
def test_a_boto3_client_is_let_in_and_its_region_is_told(model):
    request = sent(converse(model))
    assert "%3A" in request.path
    assert "x-amz-content-sha256" not in request.headers
    assert signatures.verify(request, KEYS, now()) == "eu-west-1"
    assert signatures.region(request) == "eu-west-1"


def test_a_boto3_client_with_temporary_credentials_is_let_in():
    request = sent(converse(NOVA), access="ASIDEXAMPLE", token=TOKEN)
    assert signatures.verify(request, KEYS, now()) == "eu-west-1"


def test_a_query_string_is_part_of_what_is_signed():
    request = sent(
        lambda client: client.list_foundation_models(byProvider="a b+c/d", byInferenceType="ON_DEMAND"),
        service="bedrock",
    )
    assert "a%20b%2Bc%2Fd" in request.query
    assert signatures.verify(request, KEYS, now()) == "eu-west-1"
    changed = replace(request, query=request.query.replace("ON_DEMAND", "PROVISIONED"))
    assert refusal(changed)[0] == "InvalidSignatureException"


def by_hand(*, path, body, headers, query=""):
    """Sign as the JavaScript SDK does, from AWS's description alone."""
    names = sorted(headers)
    day = headers["x-amz-date"][:8]
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join(
        ["POST", quote(path, safe="/-_.~"), query, *(f"{n}:{headers[n]}" for n in names), "", ";".join(names), digest]
    )
    scope = f"{day}/us-west-2/bedrock/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = b"AWS4" + SECRET.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    told = f"Credential={ACCESS}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return Received(
        "POST",
        path,
        query,
        {**headers, "authorization": f"AWS4-HMAC-SHA256 {told}", "user-agent": "aws-sdk-js/3"},
        body,
    )


def javascript(body=b'{"messages":[]}', **headers):
    return by_hand(
        path=f"/model/{quote(PROFILE, safe='')}/converse-stream",
        body=body,
        headers={
            "amz-sdk-invocation-id": "6f0f4c7c-3d4b-4f0e-9d5e-000000000000",
            "amz-sdk-request": "attempt=1; max=3",
            "content-length": str(len(body)),
            "content-type": "application/json",
            "host": "127.0.0.1:4567",
            "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
            "x-amz-date": f"{now():%Y%m%dT%H%M%SZ}",
            "x-amz-user-agent": "aws-sdk-js/3.500.0",
            **headers,
        },
    )


def test_a_request_signed_as_the_javascript_sdk_does_is_let_in():
    assert signatures.verify(javascript(), KEYS, now()) == "us-west-2"


def test_over_http2_the_authority_may_be_signed_for_the_host():
    told = javascript(**{":authority": "127.0.0.1:4567"})
    signs = {name: value for name, value in told.headers.items() if name not in ("host", "authorization")}
    del signs["user-agent"]
    made = by_hand(path=told.path, body=told.body, headers=signs)
    arrived = {name: value for name, value in made.headers.items() if name != ":authority"}
    assert signatures.verify(replace(made, headers={**arrived, "host": "127.0.0.1:4567"}), KEYS, now()) == "us-west-2"
    code, text = refusal(replace(made, headers={**arrived, "host": "127.0.0.1:4568"}))
    assert (code, text) == ("InvalidSignatureException", signatures._MISMATCH)
    assert refusal(replace(made, headers=arrived))[0] == "InvalidSignatureException"


def test_the_digest_in_a_header_must_be_the_bodys_even_where_it_was_signed():
    for wrong in (hashlib.sha256(b"another").hexdigest(), "UNSIGNED-PAYLOAD", "é", ""):
        request = javascript(**{"x-amz-content-sha256": wrong})
        assert refusal(request) == ("InvalidSignatureException", signatures._MISMATCH)


def test_a_header_that_is_not_signed_may_change_on_its_way():
    request = with_headers(signed(), user_agent="another", x_forwarded_for="203.0.113.1")
    assert signatures.verify(request, KEYS, now()) == "us-west-2"


# ---- what is refused ------------------------------------------------------------------------------------------


def swapped(data, text):
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(string.ascii_letters + string.digits + "/.%:;=#?& -_"))
    assume(other != text[at])
    return text[:at] + other + text[at + 1 :]


@given(st.data())
def test_any_changed_byte_of_the_body_is_refused(data):
    request = signed(b'{"messages": [{"role": "user"}]}')
    changed = swapped(data, request.body.decode()).encode()
    assert refusal(replace(request, body=changed)) == ("InvalidSignatureException", signatures._MISMATCH)


@given(st.data())
def test_any_changed_character_of_the_path_is_refused(data):
    request = signed(path=f"/model/{quote(PROFILE, safe='')}/converse")
    path = swapped(data, request.path)
    assume(normalize_url_path(path) != request.path)
    assert refusal(replace(request, path=path)) == ("InvalidSignatureException", signatures._MISMATCH)


@pytest.mark.parametrize("more", ["#x", "?x", ";x", "%00", "\t", " "])
def test_nothing_can_be_hung_on_a_path(more):
    request = signed()
    assert refusal(replace(request, path=request.path + more)) == ("InvalidSignatureException", signatures._MISMATCH)


@given(st.data())
def test_any_changed_character_of_a_signed_header_is_refused(data):
    request = signed(access="ASIDEXAMPLE", token=TOKEN)
    name = data.draw(st.sampled_from(["content-type", "host", "x-amz-date", "x-amz-security-token"]))
    value = swapped(data, request.headers[name])
    assume(value.split() != request.headers[name].split())
    assert refusal(with_headers(request, **{name: value}))


@given(st.data())
def test_any_changed_character_of_the_authorization_is_refused_or_means_the_same(data):
    request = signed()
    value = swapped(data, request.headers["authorization"])
    assume(value.replace(" ", "") != request.headers["authorization"].replace(" ", ""))
    assert refusal(with_headers(request, authorization=value))


@pytest.mark.parametrize("name", ["content-type", "x-amz-date", "host"])
def test_a_signed_header_that_is_missing_is_refused(name):
    code, _ = refusal(with_headers(signed(), **{name: None}))
    assert code in ("InvalidSignatureException", "IncompleteSignatureException")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_another_method_is_refused(method):
    assert refusal(replace(signed(), method=method)) == ("InvalidSignatureException", signatures._MISMATCH)


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.sampled_from(["", "Bearer ", "AWS4-HMAC-SHA256 "]))
def test_any_authorization_at_all_gets_an_answer_of_the_service(text, scheme):
    code, _ = refusal(with_headers(signed(), authorization=scheme + text))
    assert code.endswith("Exception")


@given(st.text(max_size=20))
def test_odd_texts_anywhere_are_refused(text):
    request = signed()
    for odd in (
        replace(request, path=f"/{text}"),
        replace(request, query=f"{text}=1"),
        with_headers(request, content_type=f"odd {text}"),
        with_headers(request, authorization=request.headers["authorization"] + f"a{text}"),
        with_headers(request, x_amz_date=f"{text}Z"),
        with_headers(request, x_amz_security_token=f"odd {text}"),
    ):
        assert refusal(odd)


def test_no_authorization_is_refused_with_the_services_text():
    expected = ("MissingAuthenticationTokenException", "Missing Authentication Token")
    assert refusal(with_headers(signed(), authorization=None)) == expected
    assert refusal(with_headers(signed(), authorization=" ")) == expected


def test_an_authorization_that_lacks_a_part_is_refused_with_what_it_lacks():
    code, text = refusal(with_headers(signed(), authorization="AWS4-HMAC-SHA256 Credential=a/b"))
    assert code == "IncompleteSignatureException"
    lacking = [f"Authorization header requires '{name}' parameter." for name in ("Signature", "SignedHeaders")]
    assert text == " ".join(lacking)
    assert refusal(with_headers(signed(), authorization="Basic dXNlcjpwYXNz"))[0] == "IncompleteSignatureException"
    assert refusal(with_headers(signed(), x_amz_date=None))[0] == "IncompleteSignatureException"


def test_an_unknown_key_and_a_wrong_session_token_are_refused_alike():
    expected = ("UnrecognizedClientException", "The security token included in the request is invalid.")
    assert refusal(signed(access="AKIDOTHER")) == expected
    assert refusal(signed(access="ASIDEXAMPLE", token="another")) == expected
    assert refusal(signed(access="ASIDEXAMPLE")) == expected
    assert refusal(signed(token=TOKEN)) == expected


def test_a_wrong_secret_is_refused():
    assert refusal(signed(secret="another")) == ("InvalidSignatureException", signatures._MISMATCH)


def test_a_session_token_must_be_signed():
    request = with_headers(signed(access="ASIDEXAMPLE"), x_amz_security_token=TOKEN)
    code, text = refusal(request)
    assert code == "InvalidSignatureException"
    assert text == "'X-Amz-Security-Token' must be a 'SignedHeader' in the AWS Authorization."


def test_the_host_must_be_signed():
    request = javascript()
    authorization = request.headers["authorization"].replace("host;", "")
    code, text = refusal(with_headers(request, authorization=authorization))
    assert code == "InvalidSignatureException"
    assert text == "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."


def test_the_scope_must_be_bedrocks_and_of_the_day():
    code, text = refusal(signed(service="s3"))
    assert (code, text) == (
        "InvalidSignatureException",
        "Credential should be scoped to correct service: 'bedrock'.",
    )
    request = signed()
    day = request.headers["x-amz-date"][:8]
    authorization = request.headers["authorization"].replace(f"/{day}/", "/20200101/")
    code, text = refusal(with_headers(request, authorization=authorization))
    assert code == "InvalidSignatureException"
    assert text.startswith("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")


def test_a_clock_may_be_five_minutes_off_and_no_more():
    request = signed()
    when = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    for offset in (timedelta(minutes=5), timedelta(minutes=-5)):
        assert signatures.verify(request, KEYS, when + offset) == "us-west-2"
    late, early = when + timedelta(minutes=5, seconds=1), when - timedelta(minutes=5, seconds=1)
    stamp, one_later, one_before = (
        f"{each:%Y%m%dT%H%M%SZ}" for each in (when, when + timedelta(seconds=1), when - timedelta(seconds=1))
    )
    assert refusal(request, at=late) == (
        "InvalidSignatureException",
        f"Signature expired: {stamp} is now earlier than {one_later} ({late:%Y%m%dT%H%M%SZ} - 5 min.)",
    )
    assert refusal(request, at=early) == (
        "InvalidSignatureException",
        f"Signature not yet current: {stamp} is still later than {one_before} ({early:%Y%m%dT%H%M%SZ} + 5 min.)",
    )


@pytest.mark.parametrize("stamp", ["yesterday", "20260101", "2026-01-01T00:00:00Z", "20261399T000000Z"])
def test_a_date_in_another_form_is_refused(stamp):
    code, text = refusal(with_headers(signed(), x_amz_date=stamp))
    assert code == "IncompleteSignatureException"
    assert f"Got '{stamp}'" in text


# ---- bearer keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["Bearer bedrock-api-key-two", "bearer  bedrock-api-key-one "])
def test_a_bearer_key_is_let_in_and_tells_no_region(spelled):
    assert signatures.verify(with_headers(signed(), authorization=spelled), KEYS, now()) == ""


@pytest.mark.parametrize("key", ["", "bedrock-api-key-on", "bedrock-api-key-onee", "ümlaut"])
def test_another_bearer_key_is_refused_with_the_services_text(key):
    request = with_headers(signed(), authorization=f"Bearer {key}")
    expected = ("AccessDeniedException", "Authentication failed: Please make sure your API Key is valid.")
    assert refusal(request) == expected
    assert refusal(request, keys=signatures.Keys(PAIRS)) == expected


@pytest.mark.parametrize("header", ["", "Bearer abc", "AWS4-HMAC-SHA256 Credential=a", "Credential=a/20260101/É/"])
def test_where_no_region_is_told_there_is_none(header):
    assert signatures.region(with_headers(signed(), authorization=header)) == ""


# ---- files of keys --------------------------------------------------------------------------------------------

GOOD = f"""
[default]
aws_access_key_id = {ACCESS}
aws_secret_access_key = {SECRET}

[temporary]
aws_access_key_id = ASIDEXAMPLE
aws_secret_access_key = {SECRET}
aws_session_token = {TOKEN}
region = eu-west-1

[both]
bearer_token = bedrock-api-key=one:with%odd
"""


def keys_file(tmp_path, text, mode=0o600):
    path = tmp_path / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_file_of_keys_has_pairs_temporary_ones_and_bearer_keys(tmp_path):
    keys = signatures.load(keys_file(tmp_path, GOOD))
    assert keys.pair(ACCESS) == (SECRET, "")
    assert keys.pair("ASIDEXAMPLE") == (SECRET, TOKEN)
    assert keys.pair("default") is None
    assert keys.admits("bedrock-api-key=one:with%odd")
    assert signatures.verify(signed(access="ASIDEXAMPLE", token=TOKEN), keys, now()) == "us-west-2"


def test_no_secret_is_shown(tmp_path):
    keys = signatures.load(keys_file(tmp_path, GOOD))
    for shown in (repr(keys), str(keys), repr(keys.pair(ACCESS)), f"{keys.pair('ASIDEXAMPLE')}"):
        assert SECRET not in shown
        assert TOKEN not in shown
        assert "bedrock-api-key" not in shown


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_open_is_refused_with_the_cure(tmp_path, mode):
    path = keys_file(tmp_path, GOOD, mode)
    with pytest.raises(signatures.KeysError, match="Others on this machine") as failed:
        signatures.load(path)
    assert failed.value.fix == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is no key"),
        ("[default]\nregion = eu-west-1\n", "There is no key"),
        (f"[a]\naws_secret_access_key = {SECRET}\n", "lacks its aws_access_key_id"),
        (f"[a]\naws_access_key_id = {ACCESS}\n", "lacks its aws_secret_access_key"),
        (f"aws_secret_access_key = {SECRET}\n", "line 1"),
        (f"[a]\n\n{SECRET}\n", "line 3"),
        (f"[a]\nbearer_token = {SECRET}\nbearer_token = {SECRET}\n", "line 3"),
        (f"[a]\nbearer_token = {SECRET}\n[a]\n", "line 3"),
        (GOOD + f"[x]\naws_access_key_id = {ACCESS}\naws_secret_access_key = other\n", "stands there before"),
        (b"\xff\xfe" + SECRET.encode(), "no text in UTF-8"),
    ],
)
def test_a_file_that_is_no_use_is_explained_and_not_quoted(tmp_path, text, said):
    path = keys_file(tmp_path, text)
    with pytest.raises(signatures.KeysError, match=said) as failed:
        signatures.load(path)
    told = diagnosis.explain(failed.value)
    assert told.exit_code == 2
    assert str(path) in told.what
    assert told.fix
    assert SECRET not in f"{failed.value} {failed.value.fix}"
    assert failed.value.__suppress_context__ or failed.value.__context__ is None


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(signatures.KeysError, match="No such file"):
        signatures.load(tmp_path / "none")
    with pytest.raises(signatures.KeysError, match="cannot be read"):
        signatures.load(tmp_path)


def test_a_section_called_default_in_capitals_is_one_like_the_others(tmp_path):
    path = keys_file(tmp_path, "[DEFAULT]\nbearer_token = key-of-default\n[a]\nbearer_token = key-of-a\n")
    keys = signatures.load(path)
    assert keys.admits("key-of-default")
    assert keys.admits("key-of-a")
    assert repr(keys) == "Keys(0 pairs, 2 bearer keys)"
