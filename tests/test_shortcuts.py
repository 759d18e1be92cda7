"""The short cuts in `bx.engines.bedrock` change nothing: each is held against botocore's own way."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from pathlib import Path

import botocore
import botocore.session
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import EventStreamJSONParser, create_parser
from hypothesis import given
from hypothesis import strategies as st

from bx.engines import bedrock

SERVICE = Loader().load_service_model("bedrock-runtime", "service-2")
EVENTS = ServiceModel(SERVICE).operation_model("ConverseStream").output_shape.members["stream"]

REGIONS = [
    "us-east-1", "eu-central-1", "aws-global", "fips-us-east-1", "xx-new-9",
    "cn-north-1", "us-gov-west-1", "us-isob-east-1", "eusc-de-east-1",
]  # fmt: skip
VARIANTS = [(), ("FIPS",), ("DUALSTACK",), ("FIPS", "DUALSTACK")]
CALLS = {
    "bedrock-runtime": ("converse", {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]}),
    "sts": ("get_caller_identity", {}),
    "sso": ("get_role_credentials", {"roleName": "r", "accountId": "1", "accessToken": "t"}),
    "sso-oidc": ("create_token", {"clientId": "c", "clientSecret": "s", "grantType": "refresh_token"}),
}

PLACES = ["contentBlockIndex", "delta", "new", "text", "toolUse", "reasoningContent"]
KINDS = ["contentBlockDelta", "messageStart", "throttlingException"]
pieces = st.builds(
    lambda text, index, padding: json.dumps({"contentBlockIndex": index, "delta": {"text": text}, "p": padding}),
    st.text() | st.sampled_from(["\ud800", "\u2028", '"', ""]),
    st.integers(),
    st.text(),
)


@given(pieces.map(str.encode) | st.binary())
def test_every_piece_of_text_is_read_as_botocore_reads_it(payload):
    assert_read_alike(payload, "contentBlockDelta", 200)


@pytest.mark.parametrize(
    "value", [None, True, 0, 1.5, "", "text", [], {}, {"text": "x"}, {"toolUse": {"input": "{"}}]
)
def test_every_other_frame_is_read_as_botocore_reads_it(value):
    for place, kind, status in itertools.product(PLACES, KINDS, [200, 400]):
        body = {"contentBlockIndex": 0, "delta": {"text": "a piece"}, "p": "abc"}
        (body if place in {*body, "new"} else body["delta"])[place] = value
        for payload in (body, value):
            assert_read_alike(json.dumps(payload).encode(), kind, status)


def assert_read_alike(payload, kind, status):
    frame = {"headers": {":event-type": kind}, "status_code": status, "body": payload}
    ours, theirs = (outcome(parser, frame) for parser in (bedrock._Events(), EventStreamJSONParser()))
    assert ours == theirs


def outcome(parser, frame):
    try:
        parsed = parser.parse(frame, EVENTS)
    except Exception as failure:  # noqa: BLE001 # whatever botocore raises, we raise
        return type(failure), str(failure)
    return json.dumps(parsed, sort_keys=True, default=repr)


def test_only_the_protocol_of_bedrock_gets_another_parser():
    for protocol in ("json", "query", "rest-xml", "ec2"):
        assert type(bedrock._Parsers().create_parser(protocol)) is type(create_parser(protocol))
    assert isinstance(bedrock._Parsers().create_parser("rest-json"), type(create_parser("rest-json")))


@pytest.mark.parametrize("service", CALLS)
def test_requests_go_where_botocore_sends_them(service, monkeypatch):
    sessions = bedrock._session(None), botocore.session.Session()
    for region in REGIONS:
        for variants in VARIANTS:
            with monkeypatch.context() as patch:
                for variant in variants:
                    patch.setenv(f"AWS_USE_{variant}_ENDPOINT", "true")
                ours, theirs = (destination(session, service, region) for session in sessions)
            assert ours == theirs, (region, variants)


def destination(session, service, region):
    """Say what a client sends where: or how it fails, which is an answer too."""

    def stop(request, **_):
        scope = request.headers.get("Authorization", b"").split(b", ")[0].split(b"/")[2:]
        raise Sent(request.method, request.url, scope)

    try:
        client = fresh(session).create_client(service, region_name=region)
        client.meta.events.register("before-send", stop)
        operation, request = CALLS[service]
        getattr(client, operation)(**request)
    except Sent as sent:
        return sent.args, client.meta.partition, client.meta.region_name
    except Exception as failure:  # noqa: BLE001 # both must fail alike
        return type(failure), str(failure)


class Sent(Exception):
    """A request is on its way, and that is enough."""


def fresh(session):
    """Make a session that reads the environment again, with the parsed files of another."""
    made = botocore.session.Session()
    for component in ("data_loader", "response_parser_factory"):
        made.register_component(component, session.get_component(component))
    return made


@pytest.mark.parametrize("spelling", ["{}", "$BX_TEST/models", "~/models", "/nowhere:{}"])
@pytest.mark.parametrize("packed", [False, True])
def test_models_in_aws_data_path_are_found_as_botocore_finds_them(spelling, packed, private_home, monkeypatch):
    folder = private_home / "models"
    model = {**SERVICE, "metadata": {**SERVICE["metadata"], "serviceFullName": "Another"}}
    place = folder / "bedrock-runtime" / "2099-01-01"
    place.mkdir(parents=True)
    text = json.dumps(model).encode()
    (place / "service-2.json").write_bytes(text)
    if packed:
        (place / "service-2.json").unlink()
        (place / "service-2.json.gz").write_bytes(gzip.compress(text))
    shutil.copy(Path(botocore.__file__).parent / "data" / "endpoints.json", folder)
    monkeypatch.setenv("BX_TEST", str(private_home))
    monkeypatch.setenv("AWS_DATA_PATH", spelling.format(folder))
    for session in (bedrock._session(None), botocore.session.Session()):
        loader = session.get_component("data_loader")
        assert session.create_client("bedrock-runtime").meta.service_model.metadata["serviceFullName"] == "Another"
        assert Path(loader.load_data_with_path("endpoints")[1]).parent == folder


def test_botocores_data_reads_the_same():
    ours, theirs = bedrock._Loader(None, bedrock._Files()), Loader()
    for name in ("endpoints", "partitions", "_retry", "sdk-default-configuration"):
        assert ours.load_data(name) == theirs.load_data(name)
    for service in CALLS:
        for kind in ("service-2", "endpoint-rule-set-1", "paginators-1"):
            assert ours.load_service_model(service, kind) == theirs.load_service_model(service, kind)
            assert service in ours.list_available_services(kind)
