"""Failures, provoked as they are: real clients, a real endpoint on the loopback, real configuration files.

Run as a program, this writes the generated part of docs/errors.md.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import string
import subprocess
import sys
import time

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, LoginRefreshRequired, MissingDependencyException
from hypothesis import given, settings
from hypothesis import strategies as st

from bx import converse, instances
from bx.diagnosis import Diagnosis, explain, fill, rules
from bx.engines.bedrock import Bedrock
from bx.server.frames import corrupted, event
from scripted import (
    CLOSED,
    HANGUP,
    REFUSED,
    RESET,
    SILENCE,
    STALL,
    Scripted,
    broken,
    closed_port,
    exception,
    failure,
    full_listener,
    reply,
    silent_listener,
    unmodelled,
)

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "errors.md"
MODEL, REGION = "anthropic.claude-sonnet-4-6", "us-east-1"
CONTEXT = {"model": MODEL, "region": REGION, "geo": "eu"}
ASKED = converse.request("one two three", model=MODEL)
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "key"}
ROLE = "arn:aws:iam::111122223333:role/x"
PROFILE_ARN = "arn:aws:bedrock:us-east-1:111122223333:inference-profile/eu.anthropic.claude-sonnet-4-6"


@pytest.fixture(scope="module")
def service():
    with Scripted() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def engine(service):
    """One engine for the many answers that need no other; its credentials are read before a test changes them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
            patch.delenv(name)
        for name, value in {**KEYS, "AWS_MAX_ATTEMPTS": "1"}.items():
            patch.setenv(name, value)
        engine = Bedrock(REGION, endpoint_url=service.url)
        engine.converse(**ASKED)
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _no_account(private_home, monkeypatch):
    """Take away the credentials and the region that other tests have."""
    for name in (*KEYS, "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def told(service, engine):
    """Ask while the service has a fault, and return the diagnosis."""

    def ask(fault, **asked):
        service.script.append(fault)
        return explain(
            fails(engine.converse, **{**ASKED, **asked}), **{**CONTEXT, "model": asked.get("modelId", MODEL)}
        )

    return ask


def body(reply):
    return json.loads(reply.body)


def fails(call, /, *arguments, **keywords):
    """Return what a call raises."""
    try:
        call(*arguments, **keywords)
    except Exception as failure:  # noqa: BLE001 # whatever it is, is the subject
        return failure
    pytest.fail("nothing failed")


def check(diagnosis, name, code, *fragments):
    """Assert what a failure is taken for, what is said of it, and what every diagnosis keeps to."""
    told = [diagnosis.what, diagnosis.why, diagnosis.fix]
    assert (diagnosis.name, diagnosis.exit_code) == (name, code), diagnosis
    for fragment in fragments:
        assert fragment in " | ".join(told)
    fields = {field for text in texts(name) for _, field, _, _ in string.Formatter().parse(text) if field}
    for text in told:
        assert text
        assert text.splitlines() == [text.strip()]
        assert "simply" not in text
        assert not re.search(rf"\b({'|'.join(fields).upper()})\b", text) or not fields
    assert not diagnosis.what.endswith(".")
    assert not diagnosis.fix.endswith(".") or diagnosis.fix.endswith("...")
    assert diagnosis.detail


def texts(name):
    (rule,) = (rule for rule in rules() if rule["name"] == name)
    return [rule["what"], rule["why"], rule["fix"]]


# ---- what the service answers -------------------------------------------------------------------------------------

IAM = "User: arn:aws:sts::111122223333:assumed-role/R/S is not authorized to perform: {} on resource: {}{}"
NO_POLICY = " because no identity-based policy allows the action"
SCP = " with an explicit deny in a service control policy"
ON_DEMAND = (
    f"Invocation of model ID {MODEL} with on-demand throughput isn\u2019t supported. Retry your request with the ID "
    "or ARN of an inference profile that contains this model."
)
FORM = "Model use case details have not been submitted for this account. Fill out the Anthropic use case details form"
LEGACY = "Access denied. This Model is marked by provider as Legacy and you have not been actively using the model"
MARKETPLACE = (
    "Model access is denied due to IAM user or service role is not authorized to perform the required AWS "
    "Marketplace actions (aws-marketplace:ViewSubscriptions, aws-marketplace:Subscribe) to enable access to this"
)
PAYMENT = "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: A valid payment instrument must be provided."
COUNTRY = "Access to Anthropic models is not allowed from unsupported countries, regions, or territories."
FIELD = "This model doesn't support the {0} field. Remove {0} and try again."
BY_MODEL = "The model returned the following errors: {}"
EXTRA = "Extra inputs are not permitted"
BLANK = "The text field in the ContentBlock object at messages.0.content.0 is blank. Add text to the text field"
TOO_MANY = "The maximum tokens you requested exceeds the model limit of 10000. Try again with a maximum tokens value"
EXPIRED = "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z (20260101T001500Z - 5 min.)"


def refuses(text):
    return failure(400, "ValidationException", text)


def denies(text):
    return failure(403, "AccessDeniedException", text)


def misses(text):
    return failure(404, "ResourceNotFoundException", text)


def throttles(text):
    return failure(429, "ThrottlingException", f"{text}, please wait before trying again.")


ON_PROFILE = denies(IAM.format("bedrock:InvokeModel", PROFILE_ARN, NO_POLICY))
BY_POLICY = denies(IAM.format("bedrock:InvokeModel", PROFILE_ARN, SCP))
NO_ENGINE = "The embedded engine is not installed: pip install 'bedrock-bx[local]'"
NOT_ENFORCED = "The JSON Schema cannot be enforced by this model: $.a: not: unimplemented"
# the rule, the exit code, the answer, and what must be said
ANSWERS = [
    ("expired-token", 3, failure(403, "ExpiredTokenException", "The security token is expired"), "aws sso login"),
    ("invalid-token", 3, failure(403, "UnrecognizedClientException", "It is invalid"), "get-caller-identity"),
    ("clock", 3, failure(403, "InvalidSignatureException", EXPIRED), "clock"),
    ("bad-signature", 3, failure(403, "InvalidSignatureException", "It does not match"), "aws configure"),
    ("api-key", 3, denies("Authentication failed: Please make sure your API Key is valid."), REGION),
    ("api-key", 3, denies("Bearer Token has expired"), "AWS_BEARER_TOKEN_BEDROCK"),
    ("daily-tokens", 5, throttles("Too many tokens per day"), "another model today"),
    ("tokens-per-minute", 5, throttles("Too many tokens"), "--max-tokens"),
    ("throttled", 5, throttles("Too many requests"), "attempts: 1"),
    ("throttled", 5, failure(429, "TooManyRequestsException", "Slow down"), "Wait"),
    ("throttled", 5, failure(400, "ServiceQuotaExceededException", "Used up"), "Service Quotas"),
    ("throttled", 5, failure(429, "SomethingNew", "Slow down"), "Wait"),
    ("on-demand-throughput", 4, refuses(ON_DEMAND), f"bx --model eu.{MODEL} ..."),
    ("unknown-model", 4, refuses("The provided model identifier is invalid."), "bx models --live"),
    ("unknown-model", 4, misses("Could not resolve the foundation model from the model identifier."), MODEL),
    ("legacy-model", 4, misses(LEGACY), "--model claude"),
    ("legacy-model", 4, misses("This model version has reached the end of its life."), "retired"),
    ("use-case-form", 4, misses(FORM), "15 minutes"),
    ("unsupported-country", 4, refuses(COUNTRY), "--model nova"),
    ("payment", 4, denies(PAYMENT), "Billing"),
    ("marketplace", 4, denies(MARKETPLACE), "aws-marketplace:Subscribe"),
    ("organization-policy", 4, BY_POLICY, "--geo"),
    ("iam-permission", 4, ON_PROFILE, f"Allow bedrock:InvokeModel on {PROFILE_ARN}"),
    ("model-access", 4, denies("You don't have access to the model with the specified model ID."), MODEL),
    ("access-denied", 4, denies("No"), "AWS denied access: No"),
    ("access-denied", 4, failure(403, "SomethingNew", "No"), "SomethingNew"),
    ("no-structured-output", 8, refuses(FIELD.format("outputConfig")), "bx --model claude ..."),
    ("no-structured-output", 8, refuses(BY_MODEL.format(f"output_config.format: {EXTRA}")), "bx --model claude ..."),
    ("no-structured-output", 8, refuses(BY_MODEL.format(f"output_config: {EXTRA}")), "bx --model claude ..."),
    ("schema-too-complex", 8, refuses(BY_MODEL.format("Schema is too complex.")), "Simplify"),
    ("schema-too-complex", 8, refuses(BY_MODEL.format("Grammar compilation timed out.")), "Simplify"),
    ("schema-too-complex", 8, refuses(BY_MODEL.format("The compiled grammar is too large, which")), "Simplify"),
    ("schema-not-supported", 8, refuses(BY_MODEL.format("For 'array' type, property 'maxItems' is not")), "maxItems"),
    ("schema-not-supported", 8, refuses(NOT_ENFORCED), "$.a: not"),
    ("sampling", 2, refuses(BY_MODEL.format("`temperature` is deprecated for this model.")), "Leave --temperature"),
    ("sampling", 2, refuses(FIELD.format("temperature")), "does not take temperature"),
    ("sampling", 2, refuses(BY_MODEL.format("`temperature` and `top_p` cannot both be specified")), "--top-p"),
    ("unsupported-field", 2, refuses(FIELD.format("effort")), "does not support effort"),
    (
        "unsupported-field",
        2,
        refuses("This model doesn't support the image field for user messages. Remove"),
        "image",
    ),
    (
        "unsupported-field",
        2,
        refuses("This model doesn't support tool use in streaming mode."),
        "not support tool use",
    ),
    ("unsupported-field", 2, refuses(BY_MODEL.format(f"output_config.effort: {EXTRA}")), "output_config.effort"),
    ("tools-dropped", 2, refuses("The toolConfig field must be defined when using toolUse"), "same toolConfig"),
    (
        "tool-result-missing",
        2,
        refuses("Expected toolResult blocks at messages.2.content for"),
        "at messages.2.content",
    ),
    ("blank-text", 2, refuses(BLANK), "empty"),
    ("blank-text", 2, refuses("The content field in the Message object at messages.1 is empty. Add"), "empty"),
    ("too-many-tokens", 2, refuses(TOO_MANY), "at most 10000"),
    ("prompt-too-long", 2, refuses("Input is too long for requested model."), "Shorten"),
    ("prompt-too-long", 2, refuses(BY_MODEL.format("prompt is too long: 250000 tokens > 200000 maximum")), "250000"),
    ("refused-by-model", 2, refuses(BY_MODEL.format("adaptive thinking is not supported")), f"{MODEL} refused"),
    ("refused", 2, refuses("There is nothing available to cache."), "nothing available to cache"),
    ("engine-no-build", 2, misses("The embedded engine has no build for this platform (darwin x86_64)"), "nova"),
    ("engine-not-installed", 2, misses(NO_ENGINE), "pip install 'bedrock-bx[local]'"),
    ("model-not-ready", 7, failure(429, "ModelNotReadyException", "Not ready"), "Wait"),
    ("model-timeout", 6, failure(408, "ModelTimeoutException", "Timed out"), "--max-tokens"),
    ("model-error", 7, failure(424, "ModelErrorException", "Unexpected error"), "Unexpected error"),
    ("no-capacity", 7, failure(503, "ServiceUnavailableException", "Bedrock is unable to"), "not your quota"),
    ("service-failed", 7, failure(500, "InternalServerException", "Oops"), "Oops"),
    ("not-found", 4, misses("No such prompt"), "No such prompt"),
    ("client-error", 2, failure(409, "ConflictException", "In use"), "ConflictException"),
]


@pytest.mark.parametrize(("name", "exit_code", "answer", "fragment"), ANSWERS)
def test_what_the_service_answers_is_explained(told, name, exit_code, answer, fragment):
    diagnosis = told(answer)
    check(diagnosis, name, exit_code, fragment)
    assert diagnosis.detail == f"{answer.headers['x-amzn-errortype'].partition(':')[0]}: {body(answer)['message']}"
    assert re.fullmatch(r"[0-9a-f-]{36}", diagnosis.request_id)


@pytest.mark.parametrize(
    ("name", "fault", "exit_code", "fragment"),
    [
        ("iam-permission", failure(403, "AccessDenied", IAM.format("bedrock:X", "*", ""), key="Message"), 4, "on *"),
        ("wrong-endpoint", reply(404, b'{"Output":{"__type":"x#UnknownOperationException"}}'), 2, "--endpoint-url"),
        ("gateway", reply(403, b"<html>Blocked", {"Content-Type": "text/html"}), 6, "Blocked"),
        ("gateway", reply(302, b"", {"Location": "/sign-in"}), 6, "302"),
        ("service-failed", reply(502, b"<html>", {"Content-Type": "text/html"}), 7, "Bad Gateway"),
        ("reply-cut", reply(body=b'{"output": {"mess'), 7, "cut off"),
        ("reply-cut", reply(body=b"{}"), 7, "cut off"),
        ("connection-closed", reply(body=[b'{"output": {"mess', HANGUP]), 6, "broke"),
        ("connection-closed", CLOSED, 6, "broke"),
        ("connection-closed", REFUSED, 6, "broke"),
    ],
)  # fmt: skip
def test_replies_that_are_not_in_awss_form_are_explained(told, name, fault, exit_code, fragment):
    check(told(fault), name, exit_code, fragment)


def test_a_missing_streaming_permission_names_the_action_and_the_way_without(service, engine):
    action = "bedrock:InvokeModelWithResponseStream"
    service.script.append(failure(403, "AccessDeniedException", IAM.format(action, PROFILE_ARN, NO_POLICY)))
    diagnosis = explain(fails(engine.converse_stream, **ASKED), **CONTEXT)
    check(diagnosis, "stream-permission", 4, f"Allow {action} on {PROFILE_ARN}", "bx --no-stream ...")
    assert converse.text(engine.converse(**ASKED))


@pytest.mark.parametrize(
    ("model", "name", "fragment"),
    [
        ("eu.anthropic.claude-sonnet-4-6", "wrong-geography", "bx --model global.anthropic.claude-sonnet-4-6 ..."),
        ("anthropic.claude-sonnet-9", "unknown-model", "models --live --region us-east-1"),
    ],
)
def test_a_profile_of_another_geography_is_told_from_an_unknown_model(told, model, name, fragment):
    check(told(refuses("The provided model identifier is invalid."), modelId=model), name, 4, fragment)


# ---- streams that break -------------------------------------------------------------------------------------------

DELTA = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "?"}})
BREAKS = [
    ("stream-throttled", [exception("throttlingException", "Slow down")], "Wait"),
    ("stream-failed", [exception("internalServerException", "Oops")], "Oops"),
    ("stream-failed", [exception("modelStreamErrorException", "Oops", originalStatusCode=500)], "Oops"),
    ("stream-failed", [exception("validationException", "Oops")], "Oops"),
    ("stream-failed", [exception("serviceUnavailableException", "Oops")], "Oops"),
    ("stream-failed", [unmodelled("SomethingNew", "Oops")], "SomethingNew"),
    ("stream-cut", [corrupted(DELTA)], "hecksum"),
    ("stream-cut", [HANGUP], "prematurely"),
    ("stream-cut", [RESET], "reset"),
]


@pytest.mark.parametrize(("name", "pieces", "fragment"), BREAKS)
def test_a_broken_stream_is_explained(service, engine, name, pieces, fragment):
    service.script.append(broken(2, *pieces))
    with contextlib.closing(engine.converse_stream(**ASKED)["stream"]) as stream:
        diagnosis = explain(fails(list, stream), **CONTEXT)
    check(diagnosis, name, 7, fragment, "on stdout")


@pytest.mark.parametrize("pieces", [[], [DELTA[:-5]]])
def test_a_stream_that_ends_early_without_an_error_is_explained_all_the_same(service, engine, pieces):
    service.script.append(broken(2, *pieces))
    with contextlib.closing(engine.converse_stream(**ASKED)["stream"]) as stream:
        diagnosis = explain(fails(list, stream), **CONTEXT)
    check(diagnosis, "stream-cut", 7, "ended before the answer did", "on stdout")


@pytest.mark.parametrize(("name", "pieces", "fragment"), [*BREAKS, ("stream-cut", [STALL], "timed out")])
def test_a_stream_of_a_plain_client_is_explained_too(endpoint, keys, name, pieces, fragment):
    endpoint.script.append(broken(2, *pieces))
    client = plain_client(endpoint.url)
    with contextlib.closing(client.converse_stream(**ASKED)["stream"]) as stream:
        check(explain(fails(list, stream), **CONTEXT), name, 7, fragment, "on stdout")
    client.close()


# ---- the network --------------------------------------------------------------------------------------------------


def plain_client(url, region=REGION):
    """A client without our choices: the engine's timeouts are too long for a test."""
    config = Config(read_timeout=0.2, connect_timeout=0.2, retries={"total_max_attempts": 1})
    return botocore.session.Session().create_client("bedrock-runtime", region, endpoint_url=url, config=config)


def test_a_read_timeout_says_that_nothing_was_sent_twice(endpoint, keys):
    endpoint.script.append(SILENCE)
    client, sent = plain_client(endpoint.url), len(endpoint.requests)
    check(explain(fails(client.converse, **ASKED), **CONTEXT), "read-timeout", 6, "billed twice", "--stream")
    assert len(endpoint.requests) == sent + 1
    client.close()


def test_a_port_that_takes_no_connection_is_a_connect_timeout(keys):
    with full_listener() as url:
        client = plain_client(url)
        check(explain(fails(client.converse, **ASKED), **CONTEXT), "connect-timeout", 6, url, "firewall")
        client.close()


def test_a_port_where_nothing_listens_is_unreachable(keys):
    url = closed_port()
    diagnosis = explain(fails(bedrock, endpoint_url=url), **CONTEXT)
    check(diagnosis, "unreachable", 6, f"Could not connect to {url}", "bx --model local ...")


def test_a_dead_proxy_is_named_without_its_password(endpoint, keys, monkeypatch):
    proxy = closed_port()
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("://", "://user:geheim@"))
    diagnosis = explain(fails(bedrock, endpoint_url=endpoint.url), **CONTEXT)
    check(diagnosis, "proxy", 6, proxy.removeprefix("http://"), "NO_PROXY")
    assert "geheim" not in str(diagnosis)


def test_an_endpoint_without_tls_is_explained(endpoint, keys):
    url = endpoint.url.replace("http:", "https:")
    check(explain(fails(bedrock, endpoint_url=url), **CONTEXT), "not-https", 6, "http:// in --endpoint-url")


def test_certificates_that_cannot_be_read_are_explained(endpoint, keys, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", write(tmp_path / "bundle.pem", "no certificate"))
    url = endpoint.url.replace("http:", "https:")
    check(explain(fails(bedrock, endpoint_url=url), **CONTEXT), "certificate", 6, "AWS_CA_BUNDLE")


def test_no_credentials_is_said_within_two_seconds_when_the_metadata_service_is_silent(monkeypatch):
    with silent_listener() as url:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        started = time.monotonic()
        diagnosis = explain(fails(bedrock), **CONTEXT)
        assert time.monotonic() - started < 2
    check(diagnosis, "no-credentials", 3, "bx --model local ...", "aws configure")


# ---- credentials and configuration --------------------------------------------------------------------------------

CONFIG = f"""\
[profile empty]
region = us-east-1
[profile half]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
[profile process]
credential_process = sh -c 'echo the vault is shut >&2; exit 1'
[profile source]
role_arn = {ROLE}
credential_source = EcsContainer
[profile lost]
role_arn = {ROLE}
source_profile = nowhere
[profile keys]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = key
[profile role]
role_arn = {ROLE}
source_profile = keys
[profile login]
login_session = arn:aws:iam::111122223333:user/u
"""
HAS_CRT = importlib.util.find_spec("awscrt") is not None
LOGIN = ("login-expired", 3, "aws login") if HAS_CRT else ("missing-dependency", 2, "botocore[crt]")


def bedrock(region=REGION, profile=None, endpoint_url="http://127.0.0.1:1"):
    """Ask once, from the making of the engine on."""
    with contextlib.closing(Bedrock(region, profile, endpoint_url)) as engine:
        return engine.converse(**ASKED)


@pytest.fixture
def profiles(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", write(tmp_path / "config", CONFIG))


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("profile", "name", "exit_code", "fragment"),
    [
        ("empty", "profile-without-credentials", 3, "aws sso login --profile empty"),
        ("half", "partial-credentials", 3, "aws_secret_access_key is missing"),
        ("process", "credential-process", 3, "the vault is shut"),
        ("source", "credential-source", 3, "EcsContainer"),
        ("lost", "aws-configuration", 2, "nowhere"),
        ("absent", "profile-not-found", 2, "no AWS profile named absent"),
        ("login", *LOGIN),
    ],
)
def test_a_profile_that_gives_no_credentials_is_explained(profiles, profile, name, exit_code, fragment):
    diagnosis = explain(fails(bedrock, profile=profile), **CONTEXT, profile=profile)
    check(diagnosis, name, exit_code, fragment)


@pytest.mark.parametrize(
    ("failure", "name", "exit_code"),
    [
        (LoginRefreshRequired(), "login-expired", 3),
        (MissingDependencyException(msg='You need "botocore[crt]"'), "missing-dependency", 2),
    ],
)
def test_a_login_session_is_explained_with_and_without_the_part_that_it_needs(failure, name, exit_code):
    # Only one of the two can be provoked where this runs: it depends on whether awscrt is installed.
    check(explain(failure, **CONTEXT), name, exit_code)


def test_a_role_that_cannot_be_assumed_is_explained(endpoint, profiles, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint.url)
    text = IAM.format("sts:AssumeRole", ROLE, "")
    answer = f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{text}</Message></Error></ErrorResponse>"
    endpoint.script.append(reply(403, answer.encode(), {"Content-Type": "text/xml"}))
    check(explain(fails(bedrock, profile="role"), **CONTEXT), "assume-role", 3, "sts:AssumeRole", "trust policy")


def test_half_a_key_in_the_environment_is_explained(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    check(explain(fails(bedrock), **CONTEXT), "partial-credentials", 3, "Set AWS_SECRET_ACCESS_KEY too")


def test_a_key_that_was_copied_with_its_line_end_is_explained_and_not_shown(keys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE\nx")
    diagnosis = explain(fails(bedrock, endpoint_url=closed_port()), **CONTEXT)
    check(diagnosis, "unsendable-key", 3, "line break")
    assert "AKIA" not in str(diagnosis)


@pytest.mark.skipif(botocore.__version__ < "1.44", reason="botocore sends such a key in the clear before 1.44")
def test_a_bearer_key_and_a_plain_http_endpoint_are_explained(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "ABSKabcdefghijklmnop")
    diagnosis = explain(fails(bedrock, endpoint_url=endpoint.url), **CONTEXT)
    check(diagnosis, "bearer-over-http", 2, "unset AWS_BEARER_TOKEN_BEDROCK")


def test_a_configuration_file_that_is_none_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", write(tmp_path / "config", "[[no"))
    check(explain(fails(bedrock), **CONTEXT), "aws-configuration", 2, str(tmp_path / "config"))


def test_an_impossible_region_and_none_at_all_are_explained(keys):
    check(
        explain(fails(bedrock, "us east!"), region="us east!"),
        "bad-region",
        2,
        "us east! is not",
        "--region us-east-1",
    )
    check(explain(fails(plain_client, None, None)), "no-region", 2, "--region us-east-1")


@pytest.mark.parametrize("url", ["localhost", "http://[::1", "ftp://127.0.0.1", "http://127.0.0.1:port"])
def test_an_endpoint_that_is_no_url_is_explained(keys, url):
    check(explain(fails(bedrock, endpoint_url=url), **CONTEXT), "bad-endpoint", 2, "--endpoint-url")


# The SDK fixes the folder of SSO's tokens when it is imported, so these need a process with a home of its own.
SSO = """
import json, sys
from bx import converse
from bx.diagnosis import explain
from bx.engines.bedrock import Bedrock
for profile in sys.argv[2:]:
    try:
        Bedrock("us-east-1", profile, sys.argv[1]).converse(**converse.request("Hi", model="m"))
    except Exception as failure:
        print(json.dumps(explain(failure, region="us-east-1", profile=profile)))
"""
SSO_CONFIG = """
[profile {name}]
sso_start_url = https://{name}.example.com/start
sso_region = us-east-1
sso_account_id = 111122223333
sso_role_name = x
"""
SSO_SESSION = """
[profile session]
sso_session = session
sso_account_id = 111122223333
sso_role_name = x
[sso-session session]
sso_start_url = https://session.example.com/start
sso_region = us-east-1
"""


def test_a_sign_in_that_has_expired_or_lacks_the_role_is_explained(endpoint, monkeypatch, tmp_path):
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    for key, until in [
        ("https://expired.example.com/start", 2020),
        ("https://other.example.com/start", 2099),
        ("session", 2020),
    ]:
        token = {"accessToken": "t", "expiresAt": f"{until}-01-01T00:00:00Z"}
        write(cache / f"{hashlib.sha1(key.encode()).hexdigest()}.json", json.dumps(token))
    config = "".join(SSO_CONFIG.format(name=name) for name in ("absent", "expired", "other")) + SSO_SESSION
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_CONFIG_FILE": write(tmp_path / "config", config),
        "AWS_ENDPOINT_URL_SSO": endpoint.url,
    }.items():
        monkeypatch.setenv(name, value)
    endpoint.script.append(failure(403, "ForbiddenException", "No access"))
    endpoint.script.append(failure(401, "UnauthorizedException", "Session token not found or invalid"))
    profiles = ["absent", "expired", "session", "other", "other"]
    done = subprocess.run(
        [sys.executable, "-c", SSO, endpoint.url, *profiles], capture_output=True, text=True, check=True
    )
    told = [Diagnosis(*json.loads(line)) for line in done.stdout.splitlines()]
    for diagnosis, profile in zip(told, profiles, strict=True):
        name = "sso-role" if diagnosis is told[3] else "sso-expired"
        check(
            diagnosis, name, 3, f"--profile {profile}", "aws configure sso" if name == "sso-role" else "aws sso login"
        )


# ---- requests that are not sent -----------------------------------------------------------------------------------


def test_an_sdk_that_is_too_old_for_schemas_is_explained(endpoint, keys, monkeypatch, tmp_path):
    # A folder in AWS_DATA_PATH is searched before the SDK's own, so this is the SDK as it was before outputConfig.
    [source] = pathlib.Path(botocore.__file__).parent.glob("data/bedrock-runtime/2023-09-30/service-2.json*")
    content = source.read_bytes()
    model = json.loads(gzip.decompress(content) if source.suffix == ".gz" else content)
    for operation in ("ConverseRequest", "ConverseStreamRequest"):
        del model["shapes"][operation]["members"]["outputConfig"]
    folder = tmp_path / "bedrock-runtime" / "2023-09-30"
    folder.mkdir(parents=True)
    write(folder / "service-2.json", json.dumps(model))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    with contextlib.closing(Bedrock(REGION, endpoint_url=endpoint.url)) as engine:
        assert engine.converse(**ASKED)
        asked = converse.request("Hi", model=MODEL, schema={"type": "object"})
        for method in (engine.converse, engine.converse_stream):
            check(explain(fails(method, **asked), **CONTEXT), "old-sdk", 2, "pip install -U botocore")


@pytest.mark.parametrize(
    ("extra", "name", "fragment"),
    [
        ({"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": {"a": 1}}}}}},
         "schema-not-text", "json.dumps(schema)"),
        ({"outputConfig": {"textFormatt": {}}}, "invalid-parameter", "textFormatt"),
        ({"inferenceConfig": {"maxTokens": 0}}, "invalid-parameter", "inferenceConfig.maxTokens, value: 0"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "invalid-parameter", "messages[0].content"),
    ],
)  # fmt: skip
def test_a_request_that_the_sdk_refuses_is_explained(engine, extra, name, fragment):
    check(explain(fails(engine.converse, **{**ASKED, **extra}), **CONTEXT), name, 2, fragment)


def test_a_schema_that_is_none_is_explained():
    check(explain(fails(instances.violation, 1, {"type": "strange"})), "invalid-schema", 2, "$.type")


# ---- this machine, and ourselves ----------------------------------------------------------------------------------


def fill_the_disk():
    with open("/dev/full", "w") as full:  # noqa: PTH123 # a device
        full.write("x")


@pytest.mark.parametrize(
    ("call", "name", "exit_code", "fragment"),
    [
        (fill_the_disk, "disk-full", 2, "No space left"),
        (lambda: pathlib.Path("/nowhere/at/all").read_text(), "file", 2, "/nowhere/at/all"),
        (b"caf\xe9".decode, "not-utf8", 2, "iconv"),
        (lambda: [0] * (1 << 61), "memory", 2, "memory"),
        (lambda: json.loads("[" * 200_000), "too-deep", 2, "levels"),
        (lambda: {}["x"], "surprise", 1, "KeyError: 'x'" ),
    ],
)  # fmt: skip
@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_failures_of_this_machine_are_explained_and_a_mistake_of_ours_is_called_one(call, name, exit_code, fragment):
    check(explain(fails(call)), name, exit_code, fragment)


def test_what_is_not_known_leaves_no_gap_in_the_texts(told):
    service_says = told(refuses("The provided model identifier is invalid."))
    assert service_says.fix.endswith("models --live --region us-east-1")
    error = converse.error("ValidationException", "The provided model identifier is invalid.")
    assert explain(error).what == "the model is not known in your region"
    assert explain(error).fix.endswith("bx models --live")


def test_a_failure_with_a_remedy_of_its_own_explains_itself():
    invalid = converse.InvalidAnswer("The answer was cut off", "Raise --max-tokens", "{")
    diagnosis = explain(invalid, **CONTEXT)
    assert (diagnosis.what, diagnosis.fix, diagnosis.exit_code) == ("The answer was cut off", "Raise --max-tokens", 8)
    error = converse.error("ModelNotReadyException", "Not ready")
    error.__cause__ = invalid
    assert explain(error)[1:6] == (
        "The answer was cut off",
        "",
        "Raise --max-tokens",
        "ModelNotReadyException: Not ready",
        "",
    )


def test_explaining_loads_nothing_of_the_sdk():
    code = "import sys; from bx.diagnosis import explain; explain(KeyError()); print('botocore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- what holds for every text ------------------------------------------------------------------------------------

SECRET = st.text("ABCDEFGHabcdefgh01234567", min_size=17, max_size=30).map(lambda rest: f"S3cret{rest}")


@settings(deadline=None, max_examples=50)
@given(
    secret=SECRET,
    form=st.sampled_from(
        [
            "http://{}@127.0.0.1:1/", "http://user:{}@proxy", "Bearer {}", "Invalid header value b'x {}'",
            "https://x/?X-Amz-Security-Token={}&y", "Credential={}/20260101", 'aws_session_token = "{}"',
            "{{'SecretAccessKey': '{}'}}", "key ABSK{}", "AWS_BEARER_TOKEN_BEDROCK={}",
            "bedrock-api-key-{}", "wJalrXUtnFEMI/K7MDENG/{:.18s}",
        ]
    ),
    before=st.text(),
    code=st.sampled_from(["ValidationException", "AccessDeniedException", "ThrottlingException", "Other"]),
)  # fmt: skip
def test_a_secret_is_never_repeated(secret, form, before, code):
    text = f"{before} {form.format(secret)} after"
    error = ClientError({"Error": {"Code": code, "Message": text}}, "Converse")
    for told in (explain(error, **CONTEXT), explain(converse.InvalidAnswer(text, "fix", ""))):
        assert secret[:17] not in str(told)


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text(), st.integers(100, 599), st.text(), st.booleans())
def test_any_error_of_the_service_gets_lines_and_a_known_exit_code(code, text, status, model, stream):
    response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    for error in (ClientError(response, "Converse"), RuntimeError(text), OSError(28, text)):
        diagnosis = explain(error, model=model)
        assert diagnosis.exit_code in exit_codes()
        assert all(len(line.splitlines()) == 1 for line in diagnosis[1:4])


# ---- the page -----------------------------------------------------------------------------------------------------

MARK = "<!-- From here on generated from src/bx/diagnosis.toml: python tests/test_diagnosis.py -->\n"


def exit_codes():
    """The table of exit codes that stands in the page."""
    return {
        int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    }


def generated():
    """The page's entries, sorted by exit code."""
    lines = []
    for code, meaning in exit_codes().items():
        entries = [rule for rule in rules() if rule["exit"] == code]
        lines += [f"## {code}: {meaning}", ""] if entries else []
        for rule in entries:
            what, why, fix = fill(rule, {"text": "(AWS's text)"})
            reason = [f"{why}.", ""] if why != "(AWS's text)" else []
            lines += [f"### {rule['name']}", "", f"**{what}**", "", *reason, f"To do: {fix}", ""]
    return "\n".join(lines)


def test_the_page_of_errors_is_up_to_date():
    assert PAGE.read_text().partition(MARK)[2] == "\n" + generated()


def test_every_rule_is_provoked_here_and_has_a_name_of_its_own():
    names = [rule["name"] for rule in rules()]
    assert len(set(names)) == len(names)
    mine = pathlib.Path(__file__).read_text()
    assert [name for name in names if f'"{name}"' not in mine] == []
    assert {rule["exit"] for rule in rules()} <= set(exit_codes())


if __name__ == "__main__":
    head = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n{generated()}")
