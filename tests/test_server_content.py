"""What Converse refuses beyond its shapes, and what every model of the service may be asked."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from bx.server import shapes, wire
from bx.server.content import check

CONVERSE = wire.operation("Converse").input_shape
TOOLS = {"tools": [{"toolSpec": {"name": "add", "inputSchema": {"json": {"type": "object"}}}}]}


def user(*blocks):
    return {"role": "user", "content": list(blocks) or [{"text": "Hi"}]}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks) or [{"text": "Yes?"}]}


def system(*blocks):
    return {"role": "system", "content": list(blocks) or [{"text": "Be brief"}]}


def image(size=3):
    return {"image": {"format": "png", "source": {"bytes": bytes(size)}}}


def document(name="report", size=3):
    return {"document": {"name": name, "format": "pdf", "source": {"bytes": bytes(size)}}}


def use(called="t", **members):
    return {"toolUse": {"toolUseId": called, "name": "add", "input": {}, **members}}


def result(called="t", *content, **members):
    return {"toolResult": {"toolUseId": called, "content": list(content), **members}}


TEXT = {"text": "Look"}
THOUGHT = {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}}
BUCKET = {"s3Location": {"uri": "s3://bucket/key"}}


def request(*messages, **members):
    """A request that the shapes accept: only what is beyond them is tested here."""
    asked = {"modelId": "us.amazon.nova-pro-v1:0", "messages": list(messages), **members}
    shapes.check(CONVERSE, asked)
    return asked


@pytest.mark.parametrize(
    "accepted",
    [
        request(user()),
        request(user(), assistant()),
        request(user(TEXT, *[image()] * 20)),
        request(user(image(3_932_160))),
        request(user(TEXT, *[document(f"a-{index}") for index in range(5)])),
        request(user(document("Annual report (2026) [v2]-final", 4_718_592), TEXT)),
        request(user({"document": {"name": "a", "source": {"text": "a"}}}, TEXT)),
        request(user({"document": {"name": "a", "source": {"content": [{"text": "a"}]}}}, TEXT)),
        request(user({"document": {"name": "a", "format": "pdf", "source": BUCKET}}, TEXT)),
        request(user({"image": {"format": "png", "source": BUCKET}})),
        request(user({"video": {"format": "mp4", "source": BUCKET}})),
        request(user({"guardContent": {"text": {"text": "a", "qualifiers": ["query"]}}})),
        request(user(TEXT, {"cachePoint": {"type": "default"}}), system=[TEXT, {"cachePoint": {"type": "default"}}]),
        request(user(), assistant(THOUGHT, TEXT), user()),
        request(user(), assistant({"citationsContent": {"content": [{"text": "a"}], "citations": []}}), user()),
        request(user(), system(), assistant()),
        request(system(), user(), assistant(), system(), user(), system()),
        request(user(), assistant(use()), user(result("t", {"text": ""})), toolConfig=TOOLS),
        request(user(), assistant(THOUGHT, use()), system(), user(result()), toolConfig=TOOLS),
        request(user(), assistant(use("a"), use("b")), user(result("b"), result("a"), TEXT), toolConfig=TOOLS),
        request(user(), assistant(use()), user(result()), assistant(use()), user(result()), toolConfig=TOOLS),
        request(user(), assistant(use()), user(result("t", image(), document())), toolConfig=TOOLS),
        # The service's own tools answer within the model's turn.
        request(
            user(),
            assistant(use(type="server_tool_use"), result(type="server_tool_result"), TEXT),
            user(),
            toolConfig={"tools": [{"systemTool": {"name": "nova_grounding"}}]},
        ),
        request(user(), additionalModelResponseFieldPaths=["/stop_sequence", "/a/b~0c~1d", "/"]),
        # A stored prompt has messages and tools of its own.
        {"modelId": "arn:aws:bedrock:us-east-1:123456789012:prompt/PROMPT1234:1", "promptVariables": {}},
        {"messages": [user()], "system": [TEXT]},  # what CountTokens has of a request
    ],
)  # fmt: skip
def test_what_some_model_can_answer_is_accepted(accepted):
    check(accepted)


NAME = (
    "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, parentheses, "
    "and square brackets. The name can't contain more than one consecutive whitespace character. Check that the file "
    "name conforms to these restrictions and retry your request."
)
ALTERNATE = (
    "A conversation must alternate between user and assistant roles. "
    "Make sure the conversation alternates between user and assistant roles and try again."
)
START = (
    "A conversation must start with a user message. Try again with a conversation that starts with a user message."
)
UNDEFINED = "The toolConfig field must be defined when using toolUse and toolResult content blocks."
EXCESS = (
    "The number of toolResult blocks at messages.0.content exceeds the number of toolUse blocks of previous turn."
)
POINTER = (
    "The JSON Pointer at additionalModelResponseFieldPaths.1 is malformed. "
    "Start it with a slash (/), write ~ as ~0 and / as ~1 in names, and try again."
)


def misplaced(name, role):
    return f"This model doesn't support the {name} field for {role} messages. Remove {name} and try again."


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        (request(), START),
        (request(assistant()), START),
        (request(system()), START),
        (request(system(), assistant(), user()), START),
        (request(user(), user()), ALTERNATE),
        (request(user(), system(), user()), ALTERNATE),
        (request(user(), assistant(), assistant()), ALTERNATE),
        (
            request(user(), {"role": "assistant", "content": []}),
            ("The content field in the Message object at messages.1 is empty. "
            "Add a ContentBlock object to the content field and try again."),
        ),
        (
            request(user(TEXT, {"text": " \n"})),
            ("The text field in the ContentBlock object at messages.0.content.1 is blank. "
            "Add text to the text field, and try again."),
        ),
        (
            request(user(THOUGHT)),
            "User messages cannot contain reasoning content. Please remove the reasoning content and try again.",
        ),
        (request(user(), assistant(image())), misplaced("image", "assistant")),
        (request(user(), assistant(TEXT, document())), misplaced("document", "assistant")),
        (request(user(), system(image())), misplaced("image", "system")),
        (request(user(use()), toolConfig=TOOLS), misplaced("toolUse", "user")),
        (request(user(), system(result()), toolConfig=TOOLS), misplaced("toolResult", "system")),
        (request(user(*[image()] * 21)), "You can't include more than 20 images in a message."),
        (
            request(user(TEXT, *[document(f"a-{index}") for index in range(6)])),
            "You can't include more than 5 documents in a request.",
        ),
        (
            request(user(TEXT, image(3_932_161))),
            ("The model returned the following errors: messages.0.content.1.image.source.bytes: "
            "image exceeds 5 MB maximum: 5242884 bytes > 5242880 bytes"),
        ),
        (
            request(user(), assistant(use()), user(result("t", image(4_000_000))), toolConfig=TOOLS),
            ("The model returned the following errors: "
            "messages.2.content.0.toolResult.content.0.image.source.bytes: "
            "image exceeds 5 MB maximum: 5333336 bytes > 5242880 bytes"),
        ),
        (
            request(user(TEXT, document(size=4_718_593))),
            ("The document field in the ContentBlock object at messages.0.content.1 is larger than 4.5 MB. "
            "Reduce the size of the document and try again."),
        ),
        (request(user(document())), "A text block must be included when using documents."),
        (request(user(document(), image())), "A text block must be included when using documents."),
        (
            request(user(TEXT, document("a")), assistant(), user(TEXT, document("a"))),
            "Messages can't contain duplicate document names.",
        ),
        *[
            (request(user(TEXT, document(name))), NAME)
            for name in ("Bücher", "it's", "a#b", "a&b", "a,b", "a\tb", "a  b", "a.pdf", "a_b", "a\n")
        ],
        (request(user(), assistant(use()), user(result("t", document("a.b"))), toolConfig=TOOLS), NAME),
        (request(user(), assistant(use()), user(result())), UNDEFINED),
        (
            request(user(), assistant(use("a"), use("b")), user(result("b")), toolConfig=TOOLS),
            "Expected toolResult blocks at messages.2.content for the following Ids: a",
        ),
        (
            request(user(), assistant(use("a")), toolConfig=TOOLS),
            "Expected toolResult blocks at messages.2.content for the following Ids: a",
        ),
        (
            request(user(), assistant(use("a")), system(), user(), toolConfig=TOOLS),
            "Expected toolResult blocks at messages.3.content for the following Ids: a",
        ),
        (
            request(user(result("a")), toolConfig=TOOLS),
            EXCESS,
        ),
        (
            request(user(), assistant(use("a"), use("a")), user(result("a")), toolConfig=TOOLS),
            "The toolUse blocks at messages.1.content contain duplicate Ids: a",
        ),
        (
            request(user(), assistant(use("a")), user(result("a"), result("a")), toolConfig=TOOLS),
            "The toolResult blocks at messages.2.content contain duplicate Ids: a",
        ),
        *[
            (request(user(), additionalModelResponseFieldPaths=["/a", pointer]), POINTER)
            for pointer in ("a", "a/b", "/a~", "/a~2", "$.a")
        ],
    ],
)  # fmt: skip
def test_what_no_model_would_be_asked_is_refused_in_the_services_words(refused, told):
    with pytest.raises(ClientError) as caught:
        check(refused)
    assert caught.value.response["Error"] == {"Code": "ValidationException", "Message": told}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_hostile_document_name_or_pointer_is_answered_at_once():
    with pytest.raises(ClientError, match="document file name"):
        check(request(user(TEXT, document("a -" * 66 + "!"))))
    with pytest.raises(ClientError, match="malformed"):
        check(request(user(), additionalModelResponseFieldPaths=["/a" * 127 + "~"]))
