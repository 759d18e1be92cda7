"""Who asks: AWS signatures (Signature Version 4) and bearer keys, verified as Amazon Bedrock does.

What was signed is put together here from the request as it arrived; the computation itself is botocore's. The
texts are AWS's. No message and no `repr` shows a secret.
"""

from __future__ import annotations

import configparser
import hashlib
import hmac
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from bx.converse import error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from bx.server.exchange import Received

_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE, _TERMINATOR = "bedrock", "aws4_request"
_STAMP = "%Y%m%dT%H%M%SZ"
_AUTHORITY = ":authority"  # the host, as HTTP/2 and those who sign for it have it
_SKEW = timedelta(minutes=5)
_SCOPE_PARTS = 5
_BEARER = "bearer_token"
_PAIR = ("aws_access_key_id", "aws_secret_access_key")

_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
_UNKNOWN = "The security token included in the request is invalid."


class KeysError(ValueError):
    """A file of keys is unusable; the message names it, `fix` says what to do. Neither quotes the file."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Pair(NamedTuple):
    """What belongs to an access key id; `token` is empty unless the credentials are temporary."""

    secret: str
    token: str

    def __repr__(self) -> str:
        return "Pair(***)"


class Keys:
    """The keys that are let in.

    Args:
        pairs: by access key id.
        bearers: keys that are sent as they are, after `Bearer`.
    """

    def __init__(self, pairs: Mapping[str, Pair], bearers: Iterable[str] = ()) -> None:
        self._pairs = dict(pairs)
        self._bearers = [bearer.encode() for bearer in bearers]

    def __repr__(self) -> str:
        return f"Keys({len(self._pairs)} pairs, {len(self._bearers)} bearer keys)"

    @property
    def has_bearers(self) -> bool:
        """Whether there is a key among them that is sent as it is."""
        return bool(self._bearers)

    def one(self) -> tuple[str, ...]:
        """Return one of the keys: an access key id with its secret and its token, or a bearer key alone."""
        for access_key, pair in self._pairs.items():
            return (access_key, pair.secret, pair.token)
        return (self._bearers[0].decode(),)

    def pair(self, access_key: str) -> Pair | None:
        """Return what belongs to an access key id, or None."""
        return self._pairs.get(access_key)

    def admits(self, bearer: str) -> bool:
        """Whether a bearer key is one of these; all are compared, so that time tells nothing."""
        given = bearer.encode(errors="replace")
        return any([hmac.compare_digest(given, known) for known in self._bearers])  # noqa: C419 # a list has no early end


# ---- files ----------------------------------------------------------------------------------------------------


def load(path: Path) -> Keys:
    """Read a file in the form of `~/.aws/credentials`.

    Every section may have a pair (`aws_access_key_id`, `aws_secret_access_key`, and `aws_session_token` where the
    credentials are temporary), a `bearer_token`, or both.

    Raises:
        KeysError: the file is missing, is no such file, has no key or half of a pair, or others may read it.
    """
    pairs, bearers = dict[str, Pair](), list[str]()
    for name, section in _sections(path).items():
        if bearer := section.get(_BEARER, ""):
            bearers.append(bearer)
        access_key, secret = (section.get(part, "") for part in _PAIR)
        if bool(access_key) != bool(secret):
            missing = _PAIR[bool(access_key)]
            raise KeysError(f"The section [{name}] of {path} lacks its {missing}", f"Add {missing} to [{name}]")
        pair = Pair(secret, section.get("aws_session_token", ""))
        if access_key and pairs.setdefault(access_key, pair) != pair:
            raise KeysError(
                f"The section [{name}] of {path} has an access key id that stands there before, with another secret",
                f"Remove one of the two from {path}",
            )
    if not pairs and not bearers:
        raise KeysError(f"There is no key in {path}", f"Add {_PAIR[0]} and {_PAIR[1]}, or {_BEARER}, to a section")
    return Keys(pairs, bearers)


def _sections(path: Path) -> dict[str, dict[str, str]]:
    # No section shares its values with the others, as configparser's DEFAULT does.
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(_text(path))
    except configparser.Error as cause:  # whose own text quotes the line
        line = getattr(cause, "lineno", None) or next(iter(getattr(cause, "errors", ())), (None,))[0]
        where = f"line {line} of {path}" if line else str(path)
        fix = "Write it as ~/.aws/credentials is written: [name], then lines of `key = value`"
        raise KeysError(f"The keys cannot be read: {where} does not fit ({type(cause).__name__})", fix) from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and stat.S_ISREG(mode) and mode & 0o077:
                raise KeysError(f"Others on this machine may open the keys in {path}", f"chmod 600 {path}")
            return file.read().decode("utf-8-sig")
    except OSError as cause:
        raise KeysError(f"The keys in {path} cannot be read: {cause.strerror}", "Name a file that exists") from None
    except UnicodeDecodeError:
        raise KeysError(f"The keys cannot be read: {path} is no text in UTF-8", "Name a text file") from None


# ---- requests -------------------------------------------------------------------------------------------------


class _Signed(NamedTuple):
    """What an Authorization header says. `scope` is the access key id, date, region, service and terminator."""

    scope: list[str]
    headers: str
    signature: str
    stamp: str


def region(received: Received) -> str:
    """Return the region that a request was signed for, without verifying it; empty where it was not signed."""
    found = re.search(r"\bCredential=[^/,\s]+/\d{8}/([a-z0-9-]+)/", received.headers.get("authorization", ""))
    return found[1] if found else ""


def verify(received: Received, keys: Keys, now: datetime) -> str:
    """Return the region that a request was signed for; empty for a bearer key.

    Args:
        received: the request as it arrived; headers that came twice are joined with a comma.
        keys: those that are let in.
        now: the time, with its zone.

    Raises:
        ClientError: the request is refused, with AWS's code and text.
    """
    claim = claimed(received, keys, now)
    if claim is None:
        return ""
    signed, pair = claim
    if not _is_authentic(received, signed, pair):
        raise error("InvalidSignatureException", _MISMATCH)
    return signed.scope[2]


def claimed(received: Received, keys: Keys, now: datetime) -> tuple[_Signed, Pair] | None:
    """Check all of a signature that its head can tell, without the body; a bearer key needs no more, and gives None.

    Raises:
        ClientError: the request is refused, with AWS's code and text.
    """
    authorization = received.headers.get("authorization", "").strip()
    if not authorization:
        raise error("MissingAuthenticationTokenException", "Missing Authentication Token")
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        if not keys.admits(rest.strip()):
            text = "Authentication failed: Please make sure your API Key is valid."
            raise error("AccessDeniedException", text)
        return None
    signed = _parsed(scheme, rest, received.headers)
    _check_time(signed.stamp, now)
    _check_headers(signed, received.headers)
    _check_scope(signed)
    pair = keys.pair(signed.scope[0])
    token = received.headers.get("x-amz-security-token", "")
    if pair is None or not hmac.compare_digest(token.encode(errors="replace"), pair.token.encode()):
        raise error("UnrecognizedClientException", _UNKNOWN)
    return signed, pair


def _parsed(scheme: str, rest: str, headers: Mapping[str, str]) -> _Signed:
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    lacking = [
        f"Authorization header requires '{name}' parameter."
        for name in ("Credential", "Signature", "SignedHeaders")
        if not parts.get(name)
    ]
    stamp = headers.get("x-amz-date", "").strip()
    if not stamp:
        lacking.append("Authorization header requires existence of a 'X-Amz-Date' header.")
    if lacking:
        raise error("IncompleteSignatureException", " ".join(lacking))
    if scheme != _ALGORITHM:
        text = f"Unsupported AWS 'algorithm': only {_ALGORITHM} is supported."
        raise error("IncompleteSignatureException", text)
    scope = parts["Credential"].rsplit("/", _SCOPE_PARTS - 1)
    if len(scope) != _SCOPE_PARTS:
        text = "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
        raise error("IncompleteSignatureException", text)
    return _Signed(scope, parts["SignedHeaders"], parts["Signature"], stamp)


def _check_time(stamp: str, now: datetime) -> None:
    try:
        when = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        when = None
    if when is None or when.strftime(_STAMP) != stamp:  # strptime also takes other spellings
        text = f"Date must be in ISO-8601 'basic format'. Got '{stamp}'. See http://en.wikipedia.org/wiki/ISO_8601"
        raise error("IncompleteSignatureException", text)
    current = now.astimezone(UTC)
    oldest, newest = (f"{each:{_STAMP}}" for each in (current - _SKEW, current + _SKEW))
    if when < current - _SKEW:
        text = f"Signature expired: {stamp} is now earlier than {oldest} ({current:{_STAMP}} - 5 min.)"
        raise error("InvalidSignatureException", text)
    if when > current + _SKEW:
        text = f"Signature not yet current: {stamp} is still later than {newest} ({current:{_STAMP}} + 5 min.)"
        raise error("InvalidSignatureException", text)


def _check_headers(signed: _Signed, headers: Mapping[str, str]) -> None:
    """Refuse a request of which a header that matters was not signed, or that lost one that was."""
    names = signed.headers.split(";")
    required = {"host": "'Host' or ':authority'", "x-amz-date": "'X-Amz-Date'"}
    if "x-amz-security-token" in headers:
        required["x-amz-security-token"] = "'X-Amz-Security-Token'"
    for name, spelled in required.items():
        if name not in names and not (name == "host" and _AUTHORITY in names):
            text = f"{spelled} must be a 'SignedHeader' in the AWS Authorization."
            raise error("InvalidSignatureException", text)
    if any(_header(name) not in headers for name in names):
        raise error("InvalidSignatureException", _MISMATCH)


def _check_scope(signed: _Signed) -> None:
    _, day, where, service, terminator = signed.scope
    wrong = []
    if not re.fullmatch(r"[a-z0-9-]+", where):
        wrong.append("Credential should be scoped to a valid region.")
    if service != _SERVICE:
        wrong.append(f"Credential should be scoped to correct service: '{_SERVICE}'.")
    if terminator != _TERMINATOR:
        wrong.append(f"Credential should be scoped with a valid terminator: '{_TERMINATOR}', not '{terminator}'.")
    if day != signed.stamp[:8]:
        wrong.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{day}' != '{signed.stamp[:8]}', from '{signed.stamp}'."
        )
    if wrong:
        raise error("InvalidSignatureException", " ".join(wrong))


def _is_authentic(received: Received, signed: _Signed, pair: Pair) -> bool:
    """Whether the signature is that of this request. What no HTTP message can hold has no signature either."""
    from botocore.auth import SigV4Auth

    digest = hashlib.sha256(received.body).hexdigest()
    if received.headers.get("x-amz-content-sha256", digest) != digest:
        return False
    _, _, where, service, _ = signed.scope
    signer = SigV4Auth(SimpleNamespace(secret_key=pair.secret), service, where)
    moment = SimpleNamespace(context={"timestamp": signed.stamp})
    try:
        text = signer.string_to_sign(moment, _canonical(received, signed.headers, digest))
        computed = signer.signature(text, moment)
        return hmac.compare_digest(computed.encode(), signed.signature.encode())
    except UnicodeEncodeError:
        return False


def _header(name: str) -> str:
    return "host" if name == _AUTHORITY else name


def _canonical(received: Received, signed: str, digest: str) -> str:
    """Return the canonical request: the names as the client listed them, everything else as it arrived.

    A path that is percent-encoded is so once more, as AWS wants it of every service but S3.
    """
    from botocore.utils import normalize_url_path

    names = sorted(set(signed.split(";")))
    values = [f"{name}:{' '.join(received.headers[_header(name)].split())}" for name in names]
    pairs = sorted(each.partition("=")[::2] for each in received.query.split("&")) if received.query else []
    path = quote(normalize_url_path(received.path), safe="/~")
    query = "&".join(f"{name}={value}" for name, value in pairs)
    return "\n".join([received.method.upper(), path, query, *values, "", signed, digest])
