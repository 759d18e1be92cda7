"""A connection to an address, made step by step: the name, the port, the certificate, the proxy, an answer."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import re
import socket
import ssl
import time
import urllib.parse
from typing import Any, NamedTuple

from bx.diagnosis import redacted

_PATIENCE = 10  # seconds for each step


class Probe(NamedTuple):
    """What came of connecting: what was seen or failed, by step, and by how many seconds our clock is ahead."""

    steps: dict[str, str | Exception]
    ahead: float | None = None


def connect(url: str, proxy: str, authorities: str) -> Probe:
    """Connect to an address, through a proxy if there is one, and ask for its first page, without credentials.

    The steps are `proxy`, `dns`, `tcp`, `tls` and `http`; the last one is a failure where one failed.
    """
    steps: dict[str, str | Exception] = {"proxy": _shown(proxy) if proxy else "none"}
    try:
        asked = _split(url)
        through = _through(proxy) if proxy else asked
        steps["dns"] = _resolved(through, url)
        if proxy and through.scheme == "https":  # TLS within TLS is beyond what is tried here
            return Probe({**steps, "proxy": f"{_shown(proxy)}, which was not tried: it is spoken to over https"})
        started = time.monotonic()
        connection = _connected(asked, through, url, proxy, authorities)
    except _Failed as failed:
        return Probe({**steps, failed.step: failed.cause})
    with contextlib.closing(connection):
        steps["tcp"] = f"port {through.port} answered in {(time.monotonic() - started) * 1000:.0f} ms"
        if isinstance(connection.sock, ssl.SSLSocket):
            steps["tls"] = f"{connection.sock.version()}, certificate by {_issuer(connection.sock)}"
        try:
            return Probe(steps, _ahead(connection, url if proxy and asked.scheme == "http" else "/"))
        except (OSError, http.client.HTTPException) as cause:
            from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

            kind = ReadTimeoutError if isinstance(cause, TimeoutError) else ConnectionClosedError
            return Probe({**steps, "http": kind(endpoint_url=url)})


class _Address(NamedTuple):
    scheme: str
    host: str
    port: int
    user: str = ""


class _Failed(Exception):
    def __init__(self, step: str, cause: Exception) -> None:
        self.step = step
        self.cause = cause


def _split(url: str) -> _Address:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # whose text may hold what stood before an @
        raise _Failed("dns", ValueError("an address has no valid host and port")) from None
    user = f"{parts.username}:{parts.password or ''}" if parts.username else ""
    return _Address(parts.scheme, parts.hostname or "", port, urllib.parse.unquote(user))


def _through(proxy: str) -> _Address:
    from botocore.exceptions import ProxyConnectionError

    try:
        return _split(proxy if "//" in proxy else f"http://{proxy}")
    except _Failed as failed:
        raise _Failed("proxy", ProxyConnectionError(proxy_url=_shown(proxy), error=failed.cause)) from None


def _resolved(through: _Address, url: str) -> str:
    try:
        found = socket.getaddrinfo(through.host, through.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as cause:
        from botocore.exceptions import EndpointConnectionError

        raise _Failed("dns", EndpointConnectionError(endpoint_url=url, error=cause)) from None
    if found[0][4][0] == through.host:
        return f"{through.host} is an address"
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    return f"{through.host} is {addresses[0]}{more}"


def _connected(
    asked: _Address, through: _Address, url: str, proxy: str, authorities: str
) -> http.client.HTTPConnection:
    """Open the connection that a request would go through."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError

    try:
        connection = _opening(asked, through, proxy=bool(proxy), authorities=authorities)
    except OSError as cause:
        unread = OSError(cause.errno, f"the certificates in {authorities} cannot be read: {cause.strerror or cause}")
        raise _Failed("tls", unread) from None
    try:
        connection.connect()
    except ssl.SSLError as cause:
        raise _Failed("tls", SSLError(endpoint_url=url, error=cause)) from None
    except OSError as cause:
        if proxy:  # `Tunnel connection failed: 407 ...` too
            raise _Failed("proxy", ProxyConnectionError(proxy_url=_shown(proxy), error=cause)) from None
        kind = ConnectTimeoutError if isinstance(cause, TimeoutError) else EndpointConnectionError
        raise _Failed("tcp", kind(endpoint_url=url, error=cause)) from None
    return connection


def _opening(asked: _Address, through: _Address, *, proxy: bool, authorities: str) -> http.client.HTTPConnection:
    if asked.scheme != "https":
        return http.client.HTTPConnection(through.host, through.port, timeout=_PATIENCE)
    context = ssl.create_default_context(cafile=authorities)
    connection = http.client.HTTPSConnection(through.host, through.port, timeout=_PATIENCE, context=context)
    if proxy:
        headers = {}
        if through.user:
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(through.user.encode()).decode()}"
        connection.set_tunnel(asked.host, asked.port, headers)
    return connection


def _ahead(connection: http.client.HTTPConnection, page: str) -> float | None:
    """Return by how many seconds our clock is ahead of the one of who answers; any answer will do."""
    connection.request("GET", page, headers={"User-Agent": "bx", "Connection": "close"})
    response = connection.getresponse()
    now = time.time()
    try:
        there = email.utils.parsedate_to_datetime(response.headers["Date"])
    except (TypeError, ValueError):
        return None
    return now - there.timestamp()


def _issuer(connection: ssl.SSLSocket) -> str:
    """Return who vouches for the certificate: behind a company's proxy it is the company."""
    certificate: dict[str, Any] = dict(connection.getpeercert() or {})
    names = {str(key): str(value) for part in certificate.get("issuer", ()) for key, value in part}
    return names.get("organizationName") or names.get("commonName") or "an unnamed authority"


def _shown(proxy: str) -> str:
    """Leave out who asks: the password may have any form, and there need be no scheme before it."""
    return redacted(re.sub(r"^(\w+://)?.*@", r"\1***@", proxy))
