"""JSON read by botocore's shapes, and held against every constraint of its models."""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.parse
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bx.server import content, shapes, wire
from bx.server.exchange import Hangup, Received

SERVED = [
    "ApplyGuardrail", "Converse", "ConverseStream", "CountTokens", "GetAsyncInvoke", "InvokeModel",
    "InvokeModelWithResponseStream", "ListAsyncInvokes", "StartAsyncInvoke", "ListFoundationModels",
    "GetFoundationModel", "ListInferenceProfiles", "GetInferenceProfile", "CreateModelInvocationJob",
    "GetModelInvocationJob", "ListModelInvocationJobs", "StopModelInvocationJob",
]  # fmt: skip
CONVERSE = wire.operation("Converse").input_shape
USER = {"role": "user", "content": [{"text": "Hi"}]}


def received(path, body=b"", method="POST", query="", **headers):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Received(method, path, query, headers, sent, "http", Hangup())


def parse(body, path="/model/m/converse"):
    return wire.parse(received(path, body)).request


def refusal(body, **options):
    with pytest.raises(ClientError) as caught:
        parse(body, **options)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


# ---- valid requests -------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def values(shape):
    """Any value that a shape allows."""
    rules = shape.metadata
    if shape.type_name == "structure":
        return structures(shape)
    if shape.type_name == "list":
        return st.lists(st.deferred(lambda: values(shape.member)), min_size=rules.get("min", 0), max_size=2)
    if shape.type_name == "map":
        pairs = {"min_size": rules.get("min", 0), "max_size": 2}
        return st.dictionaries(values(shape.key), values(shape.value), **pairs)
    if shape.type_name == "string":
        return texts(rules)
    return {
        "blob": st.binary(min_size=1, max_size=9),
        "boolean": st.booleans(),
        "integer": st.integers(rules.get("min", -5), rules.get("max", 10**6)),
        "float": st.floats(rules.get("min", -1), rules.get("max", 1)),
        "timestamp": st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    }[shape.type_name]


def structures(shape):
    if shape.is_document_type:
        return JSON.filter(lambda value: value is not None)
    members = {name: st.deferred(lambda each=each: values(each)) for name, each in shape.members.items()}
    if shape.is_tagged_union:
        return st.one_of([st.fixed_dictionaries({name: each}) for name, each in members.items()])
    required = {name: members.pop(name) for name in shape.required_members}
    return st.fixed_dictionaries(required, optional=members)


# What a dot stands for in Python's patterns, and not in Java's.
ENDS_OF_LINES = {"\r", "\x85", "\u2028", "\u2029"}


def texts(rules):
    least, most = rules.get("min", 0), rules.get("max", 10**9)
    if "enum" in rules:
        return st.sampled_from(rules["enum"])
    if "pattern" in rules:
        matching = st.from_regex(re.compile(rules["pattern"], re.ASCII), fullmatch=True)
        return matching.filter(lambda text: least <= len(text) <= most and not ENDS_OF_LINES & {*text})
    return st.text(min_size=least, max_size=min(most, least + 4))


def sent(name, request):
    """What a boto3 client sends for the members of a request."""
    model = wire.operation(name)
    assert not ParamValidator().validate(request, model.input_shape).has_errors()
    wired = create_serializer("rest-json").serialize_to_request(request, model)
    query = urllib.parse.urlencode(wired["query_string"])
    headers = {key.lower(): value for key, value in wired["headers"].items()}
    return Received(wired["method"], wired["url_path"], query, headers, wired["body"], "http", Hangup())


@pytest.mark.parametrize(
    "name", ["Converse", "ConverseStream", "CountTokens", "ListInferenceProfiles", "ListAsyncInvokes"]
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_a_client_sends_is_read_as_what_was_meant(name, data):
    request = data.draw(values(wire.operation(name).input_shape))
    call = wire.parse(sent(name, request))
    assert (call.operation, call.request) == (name, request)


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


RICH = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "Hi"},
                {"image": {"format": "png", "source": {"bytes": "YQ=="}}},
                {"document": {"name": "a", "format": "txt", "source": {"content": [{"text": "a"}]}}},
            ],
        },
        {"role": "system", "content": [{"text": "Be brief"}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "add", "input": {"a": [1]}}}]},
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t", "content": [{"json": {}}, {"text": ""}], "status": "error"}}
            ],
        },
    ],
    "system": [{"text": "Be kind"}, {"cachePoint": {"type": "default"}}],
    "inferenceConfig": {"maxTokens": 5, "temperature": 0.5, "stopSequences": ["a"]},
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "add", "inputSchema": {"json": {"type": "object"}}}}],
        "toolChoice": {"tool": {"name": "add"}},
    },
    "requestMetadata": {"team": "a"},
    "additionalModelResponseFieldPaths": ["/a/b~0"],
    "additionalModelRequestFields": {"top_k": 4},
}


def test_a_request_with_something_of_all_is_accepted():
    content.check(parse(RICH))


@settings(max_examples=200, deadline=None)
@given(
    where=st.sampled_from([path for path in places(RICH) if path]), what=JSON | st.sampled_from([[None], {"a": {}}])
)
def test_whatever_stands_in_a_place_it_is_accepted_or_refused_as_the_service_does(where, what):
    body = json.loads(json.dumps(RICH))
    inside = body
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = what
    try:
        content.check(parse(body))
    except ClientError as refused:
        assert refused.response["Error"]["Code"] in ("ValidationException", "SerializationException")  # noqa: PT017


@given(JSON)
def test_whatever_json_is_sent_it_is_accepted_or_refused_as_the_service_does(body):
    try:
        parse(body)
    except ClientError as refused:
        assert refused.response["Error"]["Code"] in ("ValidationException", "SerializationException")  # noqa: PT017


# ---- JSON -> members ------------------------------------------------------------------------------------------


def test_blobs_are_bytes_nulls_are_absent_and_documents_stay_as_they_are():
    image = {"format": "png", "source": {"bytes": base64.b64encode(b"\x00png").decode()}, "error": None}
    asked = {
        "messages": [{"role": "user", "content": [{"image": image, "text": None}]}],
        "inferenceConfig": {"maxTokens": 5.0, "temperature": 1, "topP": None},
        "additionalModelRequestFields": {"top_k": None, "deep": [1.0, {"bytes": "AAAA"}]},
        "system": None,
    }
    request = parse(asked)
    assert request == {
        "modelId": "m",
        "messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"\x00png"}}}]}],
        "inferenceConfig": {"maxTokens": 5, "temperature": 1},
        "additionalModelRequestFields": {"top_k": None, "deep": [1.0, {"bytes": "AAAA"}]},
    }
    assert isinstance(request["inferenceConfig"]["maxTokens"], int)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ([], "Start of list found where not expected in place of the request's members"),
        ("Hi", "STRING_VALUE cannot be converted to Structure in place of the request's members"),
        ({"messages": {}}, "Start of structure or map found where not expected at 'messages'"),
        ({"messages": "Hi"}, "STRING_VALUE cannot be converted to List at 'messages'"),
        ({"messages": [[]]}, "Start of list found where not expected at 'messages.1.member'"),
        (
            {"messages": [{"role": "user", "content": [{"text": 5}]}]},
            "NUMBER_VALUE cannot be converted to String at 'messages.1.member.content.1.member.text'",
        ),
        (
            {"messages": [USER, {"role": True}]},
            "TRUE_VALUE cannot be converted to String at 'messages.2.member.role'",
        ),
        (
            {"inferenceConfig": {"maxTokens": "5"}},
            "STRING_VALUE cannot be converted to Integer at 'inferenceConfig.maxTokens'",
        ),
        ({"inferenceConfig": {"maxTokens": 1.5}}, "NUMBER_VALUE cannot be converted to Integer"),
        ({"inferenceConfig": {"maxTokens": 2**31}}, "NUMBER_VALUE cannot be converted to Integer"),
        ({"inferenceConfig": {"maxTokens": True}}, "TRUE_VALUE cannot be converted to Integer"),
        ({"inferenceConfig": {"temperature": False}}, "FALSE_VALUE cannot be converted to Float"),
        ({"inferenceConfig": {"temperature": 10**400}}, "NUMBER_VALUE cannot be converted to Float"),
        ({"toolConfig": {"tools": [{"toolSpec": {"strict": "yes"}}]}}, "STRING_VALUE cannot be converted to Boolean"),
        ({"requestMetadata": [1]}, "Start of list found where not expected at 'requestMetadata'"),
        (
            {"requestMetadata": {"team": 1}},
            "NUMBER_VALUE cannot be converted to String at 'requestMetadata.team.member'",
        ),
        (
            {"messages": [{"content": [{"image": {"source": {"bytes": "a"}}}]}]},
            "The blob at 'messages.1.member.content.1.member.image.source.bytes' is no base64",
        ),
        ({"messages": [{"content": [{"image": {"source": {"bytes": "YQ==\n"}}}]}]}, "is no base64"),
        ({"messages": [{"content": [{"image": {"source": {"bytes": "é"}}}]}]}, "is no base64"),
        ({"messages": [{"content": [{"text": "a\ud800"}]}]}, "has a lone surrogate at index 1"),
        ({"requestMetadata": {"\udfff": "a"}}, "The string at 'requestMetadata' has a lone surrogate"),
        (
            {"additionalModelRequestFields": {"a": "\ud800"}},
            "The document at 'additionalModelRequestFields' is no JSON",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(body, told):
    code, message = refusal(body)
    assert code == "SerializationException"
    assert message.startswith(told) or told in message
    message.encode()


def test_a_number_beyond_all_floats_is_refused_also_in_a_document():
    assert "cannot be converted to Float" in refusal(b'{"inferenceConfig": {"topP": 1e999}}')[1]
    assert "is no JSON" in refusal(b'{"additionalModelRequestFields": {"a": [1e999]}}')[1]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"max_tokens": 5}, r'Unknown parameter in input: "max_tokens", must be one of: messages, system, infer.*'),
        ({"inferenceConfig": {"max_tokens": 5}}, r'Unknown parameter in inferenceConfig: "max_tokens", .*'),
        (
            {"messages": [{"role": "user", "content": [{"txt": "Hi"}]}]},
            r'Unknown parameter in messages\.1\.member\.content\.1\.member: "txt", must be one of: text, image.*',
        ),
        ({"\ud800": 1}, r'Unknown parameter in input: "\\ud800", .*'),
        ({"a" * 10**6: 1}, r'Unknown parameter in input: "a{200}\.\.\.", .{,300}'),
    ],
)  # fmt: skip
def test_a_member_that_does_not_exist_is_named_with_those_that_do(body, told):
    code, message = refusal(body)
    assert code == "ValidationException"
    assert re.fullmatch(told, message)


def test_a_member_that_travels_in_the_path_means_nothing_in_the_body():
    assert parse({"modelId": "other", "messages": [USER]})["modelId"] == "m"


def test_a_body_may_be_empty():
    assert parse(b"") == parse(b"null") == parse({}) == {"modelId": "m"}


def deep(levels, pattern='{"a":%s}', innermost="1"):
    before, after = pattern.split("%s")
    return before * levels + innermost + after * levels


def test_documents_may_be_nested_deeply_and_nesting_without_end_is_refused():
    asked = f'{{"additionalModelRequestFields": {deep(400)}}}'
    assert parse(asked.encode())["additionalModelRequestFields"] == json.loads(deep(400))
    for body in (deep(100_000), deep(100_000, "[%s]"), f'{{"additionalModelRequestFields": {deep(100_000)}}}'):
        assert refusal(body.encode())[0] == "SerializationException"


def test_a_shape_that_contains_itself_does_not_exhaust_the_stack():
    shape = wire.operation("CreateEvaluationJob").input_shape
    filters = {"equals": {"key": "a", "value": 1}}
    for _ in range(5_000):
        filters = {"andAll": [filters, filters]}
    found = {"knowledgeBaseRetrievalConfiguration": {"vectorSearchConfiguration": {"filter": filters}}}
    knowledge = {"knowledgeBaseConfig": {"retrieveConfig": {"knowledgeBaseId": "k", **found}}}
    body = {"inferenceConfig": {"ragConfigs": [knowledge]}}
    with pytest.raises(ClientError, match="nested too deeply"):
        shapes.decoded(shape, body)
    with pytest.raises(ClientError, match="nested too deeply"):
        shapes.check(shape, {"jobName": "a", "roleArn": "a", "evaluationConfig": {}, "outputDataConfig": {}, **body})


def test_large_bodies_are_quick():
    data = b"\x00\xff\x10" * 8_000_000
    source = {"bytes": base64.b64encode(data).decode()}
    message = {"role": "user", "content": [{"image": {"format": "png", "source": source}}]}
    begun = time.perf_counter()
    request = shapes.decoded(CONVERSE, {"messages": [message]})
    shapes.check(CONVERSE, {"modelId": "m", **request})
    assert time.perf_counter() - begun < 1
    assert request["messages"][0]["content"][0]["image"]["source"]["bytes"] == data


def test_a_long_conversation_takes_milliseconds():
    turns = [USER, {"role": "assistant", "content": [{"text": "Yes"}]}] * 100
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        shapes.check(CONVERSE, {"modelId": "m", **shapes.decoded(CONVERSE, {"messages": turns})})
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 0.02


def test_moments_in_a_body_are_numbers_or_text():
    shape = wire.operation("ListAsyncInvokes").input_shape.members["submitTimeAfter"]
    moment = datetime(2026, 11, 26, tzinfo=UTC)
    for value in (moment.timestamp(), "2026-11-26T00:00:00Z", "2026-11-26T00:00:00"):
        assert shapes._read(shape, value, "t") == moment
    for value in ("soon", 10**30, True):
        with pytest.raises(ClientError, match="cannot be converted to Timestamp at 't'"):
            shapes._read(shape, value, "t")


# ---- constraints ----------------------------------------------------------------------------------------------


def of(**members):
    return {"messages": [USER], **members}


def block(**members):
    return {"messages": [USER, {"role": "assistant", "content": [{"text": "a"}, members]}]}


BLOCK = "messages.2.member.content.2.member"


@pytest.mark.parametrize(
    ("body", "where", "rule"),
    [
        ({"messages": [{"content": []}]}, "messages.1.member.role", "Member must not be null"),
        ({"messages": [None]}, "messages.1.member", "Member must not be null"),
        (
            block(document={"name": "a" * 201, "source": {"text": "a"}}),
            f"{BLOCK}.document.name",
            "Member must have length less than or equal to 200",
        ),
        (
            block(document={"name": "", "source": {"text": "a"}}),
            f"{BLOCK}.document.name",
            "Member must have length greater than or equal to 1",
        ),
        (
            block(image={"format": "png", "source": {"bytes": ""}}),
            f"{BLOCK}.image.source.bytes",
            "Member must have length greater than or equal to 1",
        ),
        (
            block(toolUse={"toolUseId": "a b", "name": "a", "input": {}}),
            f"{BLOCK}.toolUse.toolUseId",
            "Member must satisfy regular expression pattern: [a-zA-Z0-9_.:-]+",
        ),
        (
            block(toolUse={"toolUseId": "a\n", "name": "a", "input": {}}),
            f"{BLOCK}.toolUse.toolUseId",
            "Member must satisfy regular expression pattern: [a-zA-Z0-9_.:-]+",
        ),
        (block(toolUse={"toolUseId": "a", "name": "a"}), f"{BLOCK}.toolUse.input", "Member must not be null"),
        (
            block(toolUse={"toolUseId": "a", "name": "a", "input": None}),
            f"{BLOCK}.toolUse.input",
            "Member must not be null",
        ),
        (
            of(inferenceConfig={"temperature": 1.1}),
            "inferenceConfig.temperature",
            "Member must have value less than or equal to 1",
        ),
        (
            of(inferenceConfig={"maxTokens": 0}),
            "inferenceConfig.maxTokens",
            "Member must have value greater than or equal to 1",
        ),
        (of(toolConfig={"tools": []}), "toolConfig.tools", "Member must have length greater than or equal to 1"),
        (of(requestMetadata={}), "requestMetadata", "Member must have length greater than or equal to 1"),
        (
            of(requestMetadata={"": "a"}),
            "requestMetadata",
            (
                "Map keys must satisfy constraint: [Member must have length greater than or equal to 1, "
                r"Member must satisfy regular expression pattern: [a-zA-Z0-9\s:_@$#=/+,-.]{1,256}]"
            ),
        ),
        (
            of(requestMetadata={"a": "\xa0"}),
            "requestMetadata.a.member",
            r"Member must satisfy regular expression pattern: [a-zA-Z0-9\s:_@$#=/+,-.]{0,256}",
        ),
        (of(requestMetadata={"a": None}), "requestMetadata.a.member", "Member must not be null"),
        (
            of(toolConfig={"tools": [{"cachePoint": {"type": "default"}}], "toolChoice": {}}),
            "toolConfig.toolChoice",
            "Member must set exactly one of the following keys: [auto, any, tool], but it sets none",
        ),
        (
            of(toolConfig={"tools": [{"cachePoint": {"type": "default"}}], "toolChoice": {"any": {}, "auto": {}}}),
            "toolConfig.toolChoice",
            "Member must set exactly one of the following keys: [auto, any, tool], but it sets [any, auto]",
        ),
    ],
)
def test_a_constraint_that_is_broken_is_named_with_its_place(body, where, rule):
    told = f"1 validation error detected: Value at '{where}' failed to satisfy constraint: {rule}"
    assert refusal(body) == ("ValidationException", told)


def test_where_one_of_a_few_was_meant_the_value_is_named():
    rule = "failed to satisfy constraint: Member must satisfy enum value set: [user, assistant, system]"
    told = f"1 validation error detected: Value 'robot' at 'messages.1.member.role' {rule}"
    assert refusal({"messages": [{"role": "robot", "content": []}]})[1] == told
    assert len(refusal({"messages": [{"role": "r" * 10**6, "content": []}]})[1]) < 500


def test_violations_are_collected_and_the_list_of_them_is_short():
    assert refusal(of(inferenceConfig={"maxTokens": 0, "topP": 2}))[1] == (
        "2 validation errors detected: "
        "Value at 'inferenceConfig.maxTokens' failed to satisfy constraint: "
        "Member must have value greater than or equal to 1; "
        "Value at 'inferenceConfig.topP' failed to satisfy constraint: Member must have value less than or equal to 1"
    )
    begun = time.perf_counter()
    _, message = refusal({"messages": [{"content": [{"text": "a"}]}] * 100_000})
    assert time.perf_counter() - begun < 3
    assert message.startswith("10 validation errors detected: ")
    assert message.count("must not be null") == 10


def patterns():
    found, seen = set(), set()

    def visit(shape):
        if "pattern" in shape.metadata:
            found.add(shape.metadata["pattern"])
        if shape.name in seen:
            return
        seen.add(shape.name)
        inner = [*getattr(shape, "members", {}).values()]
        inner += [getattr(shape, each) for each in ("member", "key", "value") if hasattr(shape, each)]
        for each in inner:
            visit(each)

    for name in SERVED:
        if shape := wire.operation(name).input_shape:
            visit(shape)
    return sorted(found)


@pytest.mark.parametrize("pattern", patterns())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_pattern_of_what_is_served_can_be_used(pattern, data):
    compiled = re.compile(pattern.replace("$)", r"\Z)"), re.ASCII)
    broken = shapes._pattern(pattern)
    text = data.draw(st.from_regex(compiled, fullmatch=True) | st.text("aZ09-_./: \n\xa0é", max_size=12))
    assume(not ENDS_OF_LINES & {*text})
    assert (broken(text) is None) == bool(compiled.fullmatch(text))


def test_the_patterns_of_what_is_not_served_can_be_used_as_well():
    for service in wire._services():
        for shape in map(service.shape_for, service.shape_names):
            if "pattern" in shape.metadata:
                shapes._pattern(shape.metadata["pattern"])("a")


def test_a_hostile_text_does_not_hang_a_pattern():
    shape = wire.operation("CreateModelInvocationJob").input_shape
    begun = time.perf_counter()
    with pytest.raises(ClientError, match=r"'jobName' failed .* regular expression pattern"):
        shapes.check(shape, {"jobName": "a" + "-" * 61 + "!"})
    assert time.perf_counter() - begun < 1


# ---- routes, query strings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "operation", "members"),
    [
        ("/model/us.amazon.nova-2-lite-v1%3A0/converse", "Converse", {"modelId": "us.amazon.nova-2-lite-v1:0"}),
        ("/model/us.amazon.nova-2-lite-v1:0/converse", "Converse", {"modelId": "us.amazon.nova-2-lite-v1:0"}),
        (
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.a.b-v1%3A0/converse-stream",
            "ConverseStream",
            {"modelId": "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.a.b-v1:0"},
        ),
    ],
)
def test_a_model_is_named_by_an_id_or_an_arn_in_the_path(path, operation, members):
    call = wire.parse(received(path, {}))
    assert (call.operation, call.request) == (operation, members)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/model/m/converse"),
        ("POST", "/model/m/n/converse"),
        ("POST", "/model//converse"),
        ("POST", "/model/m/chat"),
        ("POST", "/"),
        ("POST", ""),
    ],
)
def test_there_is_nothing_where_the_service_has_nothing(method, path):
    assert wire.parse(received(path, {}, method)) is None


def test_a_model_id_that_cannot_be_one_is_refused():
    assert "at 'modelId' failed to satisfy constraint" in refusal({}, path="/model/a%20b/converse")[1]
    assert "at 'modelId' failed to satisfy constraint" in refusal({}, path="/model/%2e%2e%2f/converse")[1]


def test_bodies_that_no_shape_describes_are_passed_on_as_bytes():
    call = wire.parse(received("/model/m/invoke", b"\xff{}", **{"content-type": "application/json"}))
    assert call.request == {"modelId": "m", "body": b"\xff{}", "contentType": "application/json"}
    with pytest.raises(ClientError, match=r"Value 'ON' at 'trace' failed .*: \[ENABLED, DISABLED, ENABLED_FULL\]"):
        wire.parse(received("/model/m/invoke", b"{}", **{"x-amzn-bedrock-trace": "ON"}))


def test_headers_hold_text_only_so_their_values_need_no_reading():
    for service in wire._services():
        for name in service.operation_names:
            members = getattr(service.operation_model(name).input_shape, "members", {}).values()
            kinds = {each.type_name for each in members if each.serialization.get("location") == "header"}
            assert kinds <= {"string"}, name


def test_a_body_of_events_is_left_alone():
    call = wire.parse(received("/model/m/invoke-with-bidirectional-stream", b"\x00"))
    assert call.request == {"modelId": "m", "body": b"\x00"}


@pytest.mark.parametrize(
    ("query", "members"),
    [
        ("maxResults=10&type=APPLICATION", {"maxResults": 10, "typeEquals": "APPLICATION"}),
        ("nextToken=a%2Bb", {"nextToken": "a+b"}),
        ("", {}),
    ],
)
def test_a_query_string_is_read_by_its_shapes(query, members):
    assert wire.parse(received("/inference-profiles", method="GET", query=query)).request == members


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("maxResults=ten", "Value 'ten' at 'maxResults' failed to satisfy constraint: Member must be a whole number"),
        ("maxResults=1_0", "Member must be a whole number"),
        ("maxResults=", "Member must be a whole number"),
        ("maxResults=99999999999", "Member must be a whole number"),
        ("maxResults=0", "Member must have value greater than or equal to 1"),
        ("maxResults=1001", "Member must have value less than or equal to 1000"),
        ("type=NONE", r"Member must satisfy enum value set: \[SYSTEM_DEFINED, APPLICATION\]"),
    ],
)
def test_a_query_string_that_breaks_its_shapes_is_refused(query, told):
    with pytest.raises(ClientError, match=f"ValidationException.*{told}"):
        wire.parse(received("/inference-profiles", method="GET", query=query))


def test_truth_and_moments_in_a_query_string():
    members = wire.operation("ListCustomModels").input_shape.members
    assert shapes.from_text(members["isOwned"], "true", "isOwned") is True
    assert shapes.from_text(members["isOwned"], "false", "isOwned") is False
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert shapes.from_text(members["creationTimeAfter"], "2026-01-02T03:04:05Z", "t") == moment
    for name, text in (("isOwned", "1"), ("creationTimeAfter", "soon")):
        with pytest.raises(ClientError, match=f"Value '{text}' at '{name}' failed"):
            shapes.from_text(members[name], text, name)
