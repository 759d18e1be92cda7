"""Amazon Bedrock: a botocore client with our choices of timeouts, retries and region.

The methods, the shapes and the errors are the client's own. What is added: one owner of retries, which never sends a
request again that may already have been answered and billed, and an error wherever botocore takes a broken answer
for a whole one. This module knows no configuration and no names of models.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.eventstream import ParserError
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    EventStreamError,
    HTTPClientError,
)
from botocore.loaders import JSONFileLoader, Loader
from botocore.parsers import EventStreamJSONParser, ResponseParserError, ResponseParserFactory, RestJSONParser
from botocore.tokens import FrozenAuthToken
from urllib3.exceptions import HTTPError

from bx.converse import Stream, broken_stream, complete, error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from bx.converse import Event, Response

_log = logging.getLogger("bx.bedrock")

_DEFAULT_REGION = "us-east-1"
_READ_TIMEOUT = 3600  # seconds between two reads: a long answer, or a schema's first use, can take that long
_CONNECT_TIMEOUT = 10  # seconds
_FREE_TIMEOUT = 30  # seconds, for what can be asked again without cost
_METADATA_TIMEOUT = 0.4  # seconds; up to three requests go out before "no credentials" can be said
_ATTEMPTS = 3  # the SDK's own default
_LONGEST_DELAY = 20  # seconds

# Only what was certainly not sent: behind a read timeout or a closed connection an answer may have been billed.
_NOT_CONNECTED = (EndpointConnectionError, ConnectTimeoutError)
_THROTTLED = {"ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
_SERVER_FAULTS = {500, 502, 503, 504}
_MALFORMED = (AttributeError, TypeError, UnicodeDecodeError, RecursionError)  # what botocore's parsers stumble into
_BROKEN = (HTTPError, HTTPClientError, ParserError, ResponseParserError, OSError, ValueError, *_MALFORMED)


class Bedrock:
    """The `bedrock-runtime` client of one region and profile.

    Args:
        region: an AWS region; else `AWS_DEFAULT_REGION`, else the profile's, else us-east-1 with a warning.
        profile: the name of a profile in the shared AWS configuration files.
        endpoint_url: another endpoint, such as a private one or a local stand-in.
    """

    def __init__(
        self, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None
    ) -> None:
        session = _session(profile)
        region = region or session.get_config_variable("region")
        if not region:
            _log.warning("No region is configured: using %s (choose one with --region)", _DEFAULT_REGION)
            region = _DEFAULT_REGION
        self._attempts = _attempts(session)
        self._client = session.create_client(
            "bedrock-runtime",
            region_name=region,
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=_CONNECT_TIMEOUT,
                read_timeout=_READ_TIMEOUT,
                tcp_keepalive=True,
                # Retrying is ours: botocore would also send again after a read timeout, and pay twice.
                retries={"mode": "standard", "total_max_attempts": 1},
                user_agent_extra="bx",
            ),
        )

    def converse(self, **request: Any) -> Response:
        """Answer in one piece: see `bx.converse.Engine`."""
        try:
            response = self._send(self._client.converse, request)
        except _MALFORMED as cause:
            raise error("ModelErrorException", f"The response is damaged: {cause}") from cause
        if "output" not in response:  # botocore reads a truncated body as an empty object
            raise error("ModelErrorException", "The response ended before the answer did")
        if not _is_answer(response):
            raise error("ModelErrorException", "The response is damaged: it has another form than an answer")
        return response

    def converse_stream(self, **request: Any) -> dict[str, Any]:
        """Answer in events: see `bx.converse.Engine`."""
        response = self._send(self._client.converse_stream, request)
        events = response["stream"]
        unbroken = _unbroken(events, response["ResponseMetadata"])
        return {**response, "stream": Stream(unbroken, lambda: _close(events))}

    def count_tokens(self, **request: Any) -> dict[str, Any]:
        """Count tokens, which costs nothing: see `bx.converse.Engine`."""
        try:
            response = self._send(self._client.count_tokens, request)
        except _MALFORMED as cause:
            raise _miscounted(f"it cannot be read: {cause}") from cause
        if not isinstance(response.get("inputTokens"), int):
            raise _miscounted("it has no number of tokens")
        return response

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, call: Callable[..., Response], request: dict[str, Any]) -> Response:
        """Call, and call again where nothing can have been billed; `RetryAttempts` tells how often."""
        for attempt in range(1, self._attempts + 1):
            try:
                response = call(**request)
            except (ClientError, *_NOT_CONNECTED) as failure:
                delay = _delay(failure, attempt)
                _metadata(failure).update(RetryAttempts=attempt - 1, Region=self._client.meta.region_name)
                if delay is None or attempt == self._attempts:
                    raise
                _log.info(
                    "Attempt %d of %d failed (%s): trying again in %.1f s",
                    attempt,
                    self._attempts,
                    failure,
                    delay,
                )
                time.sleep(delay)
            else:
                _metadata(response).update(RetryAttempts=attempt - 1, Region=self._client.meta.region_name)
                return response
        raise AssertionError("at least one attempt is made")


def client(service: str, *, endpoint_url: str, keys: Sequence[str], verify: str | None = None) -> Any:
    """Make a plain client of botocore's, as any program has it, to try an endpoint with; it sends a request once.

    Args:
        service: such as `bedrock-runtime`.
        endpoint_url: where it is.
        keys: an access key id, its secret and its session token, which may be empty; or a bearer key alone.
        verify: a file with the authority that vouches for the endpoint; else those that the SDKs trust.
    """
    session = botocore.session.Session()
    key, *pair = keys
    token = None if pair else FrozenAuthToken(key)
    # Else the key of the user's own environment would be sent.
    session.register_component("token_provider", SimpleNamespace(load_token=lambda **_: token))
    secret, session_token = pair or (None, None)
    return session.create_client(
        service,
        region_name=_DEFAULT_REGION,
        endpoint_url=endpoint_url,
        verify=verify,
        aws_access_key_id=key if pair else None,
        aws_secret_access_key=secret,
        aws_session_token=session_token or None,
        config=Config(
            auth_scheme_preference="sigv4" if pair else "httpBearerAuth",
            retries={"total_max_attempts": 1},
            proxies={},
            user_agent_extra="bx",
        ),
    )


def user_client(
    service: str, *, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None
) -> Any:
    """Make a plain client of botocore's with the user's own credentials; what it asks for may be asked again.

    Args:
        service: one whose requests cost nothing, such as `bedrock` or `sts`.
        region: see `Bedrock`.
        profile: see `Bedrock`.
        endpoint_url: another endpoint than AWS's own.
    """
    made = _session(profile)
    return made.create_client(
        service,
        region_name=region or made.get_config_variable("region") or _DEFAULT_REGION,
        endpoint_url=endpoint_url,
        config=Config(connect_timeout=_CONNECT_TIMEOUT, read_timeout=_FREE_TIMEOUT, user_agent_extra="bx"),
    )


def session(profile: str | None = None) -> Any:
    """Make a session of botocore's, as the client above has it, for who asks more of AWS than answers."""
    return _session(profile)


def _attempts(session: Any) -> int:
    """Return how often a request may be sent, as AWS's tools are told in the environment and the profile."""
    try:
        chosen = session.get_config_variable("max_attempts")
    except ValueError:
        chosen = 0
    if chosen is not None and chosen < 1:
        message = "AWS_MAX_ATTEMPTS (max_attempts in the profile) must be a whole number of at least 1"
        raise error("ValidationException", message)
    return chosen or _ATTEMPTS


def _session(profile: str | None) -> Any:
    session = botocore.session.Session()
    if profile:
        session.set_config_variable("profile", profile)
    if session.get_config_variable("metadata_service_timeout") == 1:  # the default: nobody has chosen another
        session.get_component("config_store").set_config_variable("metadata_service_timeout", _METADATA_TIMEOUT)
    more = os.path.expandvars(session.get_config_variable("data_path") or "")
    paths = [os.path.expanduser(path) for path in more.split(os.pathsep) if path]  # noqa: PTH111 # botocore wants text
    session.register_component("data_loader", _Loader(paths, _Files()))
    session.register_component("response_parser_factory", _Parsers())
    return session


# Four short cuts at the places that botocore leaves open for it. BENCHMARKS.md says what each one saves;
# tests/test_shortcuts.py holds their results against botocore's own.


class _Files(JSONFileLoader):  # type: ignore[misc] # botocore is untyped
    """The reader of botocore's data files, into plain dicts: they take half the time of the ordered ones."""

    def load_file(self, file_path: str) -> Any:
        plain, packed = Path(f"{file_path}.json"), Path(f"{file_path}.json.gz")
        if plain.is_file():
            return json.loads(plain.read_bytes())
        return json.loads(gzip.decompress(packed.read_bytes())) if packed.is_file() else None


class _Loader(Loader):  # type: ignore[misc] # botocore is untyped
    """The loader of service models, without botocore's walk through the folders of all its services."""

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 # the signature is botocore's
        places = self._potential_locations()
        return sorted({name for place in places for name in os.listdir(place)})  # noqa: PTH208 # the paths are text


class _Events(EventStreamJSONParser):  # type: ignore[misc] # botocore is untyped
    """The parser of a stream's events, with a short way for nearly all of them: the pieces of the text."""

    def parse(self, response: dict[str, Any], shape: Any) -> Any:
        return _piece(response) or super().parse(response, shape)


class _Answers(RestJSONParser):  # type: ignore[misc] # botocore is untyped
    """The parser of the protocol that Bedrock speaks."""

    EVENT_STREAM_PARSER_CLS = _Events


class _Parsers(ResponseParserFactory):  # type: ignore[misc] # botocore is untyped
    """The maker of parsers."""

    def create_parser(self, protocol_name: str) -> Any:
        return _Answers() if protocol_name == "rest-json" else super().create_parser(protocol_name)


def _piece(frame: dict[str, Any]) -> Event | None:
    """Read a frame that holds a piece of the text and nothing else; None for any other."""
    if frame["headers"].get(":event-type") != "contentBlockDelta" or frame["status_code"] != 200:  # noqa: PLR2004 # HTTP
        return None
    try:
        body = json.loads(frame["body"].decode())
    except ValueError:
        return None
    match body:
        case {"contentBlockIndex": int(index), "delta": {"text": str(text), **others}} if not others:
            return {"contentBlockDelta": {"delta": {"text": text}, "contentBlockIndex": index}}
    return None


def _delay(failure: Exception, attempt: int) -> float | None:
    """Return the seconds to wait before the next attempt, or None where another one is useless or may cost."""
    if not isinstance(failure, ClientError):
        return _backoff(0.05, attempt)
    code, text = failure.response["Error"].get("Code", ""), failure.response["Error"].get("Message", "")
    status = _metadata(failure).get("HTTPStatusCode")
    if "per day" in text:  # the daily cap: hopeless before tomorrow
        return None
    if code in _THROTTLED or (status == 429 and code != "ModelNotReadyException"):  # noqa: PLR2004 # an HTTP status
        asked = float(_metadata(failure).get("HTTPHeaders", {}).get("x-amz-retry-after", 0)) / 1000
        waited = _backoff(1, attempt)
        return max(waited, min(asked, waited + 5))
    if code == "ModelNotReadyException" or status in _SERVER_FAULTS:
        return _backoff(0.05, attempt)
    return None


def _is_answer(response: Response) -> bool:
    """Whether a response has the parts that everyone reads; botocore does not look at what it parses."""
    try:
        blocks = response["output"]["message"]["content"]
        texts = [block.get("text", "") for block in blocks]
    except (AttributeError, KeyError, TypeError):
        return False
    return isinstance(response.get("stopReason"), str) and all(isinstance(text, str) for text in texts)


def _miscounted(why: str) -> ClientError:
    return error("InternalServerException", f"The response is damaged: {why}", operation="CountTokens")


def _close(events: Any) -> None:
    """Close botocore's stream; a thread that waits in it for the network finds it broken at once.

    Closing alone would wait for what that thread waits for, up to an hour.
    """
    # Nothing is to be shut down where the connection has gone back to its pool, or is gone.
    with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
        events._raw_stream.shutdown()  # noqa: SLF001 # botocore has no other way to it
    events.close()


def _backoff(base: float, attempt: int) -> float:
    return random.random() * min(base * 2.0 ** (attempt - 1), _LONGEST_DELAY)  # noqa: S311 # jitter is no secret


def _metadata(answer: Any) -> dict[str, Any]:
    """Return the `ResponseMetadata` of a response or of a ClientError, to be read or added to."""
    response = getattr(answer, "response", answer)
    found: dict[str, Any] = response.setdefault("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return found


def _unbroken(events: Any, metadata: dict[str, Any]) -> Generator[Event]:
    """Pass the events of botocore's stream through; whatever breaks becomes the error of a broken stream."""
    try:
        yield from complete(events)
    except EventStreamError as broken:
        broken.response["ResponseMetadata"] = metadata  # the request id, above all
        raise
    except _BROKEN as cause:
        failure = broken_stream("modelStreamErrorException", f"The connection broke: {cause}")
        failure.response["ResponseMetadata"] = metadata
        raise failure from cause
