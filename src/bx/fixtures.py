"""A plugin of pytest, which every project gets that has bx installed: a Bedrock for a test.

    def test_the_summary_is_stored(bx_bedrock):
        bx_bedrock.faults.add("ThrottlingException,nth=1")
        summarise("report.txt")  # the program under test makes its boto3 client itself
        assert [asked.operation for asked in bx_bedrock.requests] == ["Converse", "Converse"]

Loading this loads nothing heavy: the server's libraries are loaded by the first test that asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import bx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bx.server.endpoint import Endpoint

_MARKER = "bx_bedrock"
_ABOUT = "(model='echo', engine=None, strict=True, **options): how the server of the fixture bx_bedrock is run"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{_MARKER}{_ABOUT}")


@pytest.fixture
def bx_bedrock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """Run a Bedrock on this machine for the test, which the AWS SDKs find by themselves.

    The environment points them at it: AWS_ENDPOINT_URL_BEDROCK_RUNTIME and AWS_ENDPOINT_URL_BEDROCK are set, keys and
    a region too where there are none, and AWS_BEARER_TOKEN_BEDROCK is unset, which they would send over https only.
    A client that was made before the test knows nothing of that: give it `endpoint_url=bx_bedrock.url`.

    The server lives as long as the test. It has `url`; `faults.add("ThrottlingException,nth=1")` and what else can go
    wrong; `requests`, a list of what it was asked: each has an `operation`, such as `Converse`, and the `request`, a
    dict as boto3 takes it; and `stats.summary()`, which may be a moment behind.

    The marker nearest to the test says how it is run, with the arguments of `bx.serve`:

        @pytest.mark.bx_bedrock(model="local")  # real answers, and real structured output
        @pytest.mark.bx_bedrock(engine=MyEngine())  # yours: anything with `converse` and `converse_stream`
        @pytest.mark.bx_bedrock(faults=["ThrottlingException,share=0.2"], seed=7)
        @pytest.mark.bx_bedrock(replay="recordings")  # a path begins where the test's file is

    Without it, each answer repeats the last message (`model="echo"`).
    """
    marker = request.node.get_closest_marker(_MARKER)
    given = dict(marker.kwargs) if marker else {}
    if marker and (marker.args or {"engine", "model"} <= given.keys()):
        pytest.fail(f"@pytest.mark.{_MARKER} takes {_ABOUT}; either a model or an engine", pytrace=False)
    try:
        endpoint = _made(request, given)
    except ValueError as cause:
        fix = getattr(cause, "fix", "")
        pytest.fail(f"The Bedrock for this test cannot be started. {cause}\n-> {fix}", pytrace=False)
    from bx import aws

    variables = aws.pointed(endpoint.url)
    if endpoint.authority:
        variables["AWS_CA_BUNDLE"] = str(endpoint.authority)
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with endpoint:
        yield endpoint


def _made(request: pytest.FixtureRequest, given: dict[str, Any]) -> Endpoint:
    from bx.server import check_installed

    check_installed()
    from bx.server.endpoint import PATHS

    paths = {name: request.path.parent / str(given[name]) for name in PATHS if given.get(name)}
    answering = {} if "engine" in given else {"model": "echo"}
    return bx.serve(**{**answering, **given, **paths})
