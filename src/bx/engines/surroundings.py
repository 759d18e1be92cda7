"""What the AWS SDK finds on this machine: credentials, sign-in, region, endpoints, the proxy; as plain facts.

Nothing here is a secret: of a key it is told where it comes from and when it expires. Clients of other services of
AWS are made here too. The doctor reads these facts; no engine needs them.
"""

from __future__ import annotations

import base64
import contextlib
import re
import urllib.parse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from bx.engines.bedrock import session

if TYPE_CHECKING:
    from pathlib import Path

_SIGNING_NAME = "bedrock"  # of bedrock-runtime and bedrock alike
_FROM_NETWORK = ("iam-role", "container-role")  # providers of credentials that ask a server
_DEFAULT_REGION = "us-east-1"
_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}  # seconds: whoever waits is at a terminal
_SHORT_TERM = "bedrock-api-key-"  # a signed address in base64 follows
_YEARS = 1970, 9000
# What the tools that write temporary keys into the credentials file call their end.
_EXPIRIES = ("x_security_token_expires", "aws_expiration", "aws_session_expiration", "expiration")


class Keys(NamedTuple):
    """Credentials: where they come from (`method` is botocore's name for it), and when they expire, if that is known.

    `region` is the only one where they work, if there is one; `failure` is why none can be had after all.
    """

    method: str
    expires: datetime | None = None
    region: str = ""
    failure: Exception | None = None


class SignIn(NamedTuple):
    """The state of a sign-in through IAM Identity Center (SSO): `expires` is None where nobody has signed in."""

    name: str
    expires: datetime | None = None
    renews: bool = False


class Surroundings:
    """What a session of botocore's finds; looked up when it is asked for.

    Args:
        region, profile, endpoint_url: as `bx.engines.bedrock.Bedrock` takes them.
        control_url: another endpoint for the service `bedrock`.
        offline: whether no server may be asked for credentials.

    Raises:
        botocore.exceptions.ProfileNotFound: there is no such profile; nearly every method may raise that.
    """

    def __init__(
        self,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        *,
        control_url: str | None = None,
        offline: bool = False,
    ) -> None:
        self._session = session(profile)
        self._region = region
        self._urls = {"bedrock-runtime": endpoint_url, "bedrock": control_url}
        self._offline = offline
        self._clients: dict[str, Any] = {}
        if offline:
            provider = self._session.get_component("credential_provider")
            for each in _FROM_NETWORK:
                provider.remove(each)

    def sdk(self) -> tuple[str, list[str]]:
        """Return botocore's version, and which of the fields `outputConfig` and `strict` it does not know."""
        import botocore

        model = self._session.get_service_model("bedrock-runtime")
        members = {
            "outputConfig": model.operation_model("Converse").input_shape.members,
            "strict": model.shape_for("ToolSpecification").members,
        }
        return botocore.__version__, [name for name, known in members.items() if name not in known]

    def profile(self) -> str:
        """Return the name of the profile in use; empty for the default one."""
        return str(self._session.profile or "")

    def region(self) -> tuple[str, str]:
        """Return the region, and whence botocore has it: `profile`, `environment`, or `default`; else `given`."""
        if self._region:
            return self._region, "given"
        if not (found := self._session.get_config_variable("region")):
            return _DEFAULT_REGION, "default"
        in_profile = self._session.get_scoped_config().get("region")
        variables = self._session.get_component("config_store").get_config_provider("region")
        return str(found), "environment" if _in_environment(variables, found, in_profile) else "profile"

    def api_key(self) -> Keys | None:
        """Return the API key of Amazon Bedrock, if there is one: it wins over all other credentials."""
        token = self._session.get_component("token_provider").load_token(signing_name=_SIGNING_NAME)
        # One of a sign-in (SSO) has to be asked for first; requests to Amazon Bedrock are signed then.
        key = getattr(token, "token", None)
        return _of_api_key(str(key)) if key else None

    def keys(self) -> Keys | None:
        """Return the credentials that requests are signed with; None where there are none.

        Temporary ones are fetched, unless `offline`; what goes wrong there is their `failure`.
        """
        found = self._session.get_credentials()
        if found is None:
            return None
        expires = getattr(found, "_expiry_time", None) or self._written_expiry(found.method)
        failure = None
        if not self._offline and (expires is None or expires > datetime.now(UTC)):
            try:
                found.get_frozen_credentials()
            except Exception as cause:  # noqa: BLE001 # a source of credentials fails in its own way; it is told
                failure = cause
            expires = getattr(found, "_expiry_time", None) or expires
        return Keys(str(found.method), expires, failure=failure)

    def sign_in(self) -> SignIn | None:
        """Return the state of the profile's sign-in (SSO); None where it has none."""
        from botocore.credentials import JSONFileCache
        from botocore.utils import SSOTokenLoader

        profile = self._session.get_scoped_config()
        name, url = profile.get("sso_session"), profile.get("sso_start_url", "")
        if not (name or url):
            return None
        folder = _tokens()
        token: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # not there, or not readable: nobody has signed in
            token = SSOTokenLoader(JSONFileCache(str(folder)))(url, session_name=name)
        expires = _moment(token.get("expiresAt"))
        renewable = _moment(token.get("registrationExpiresAt"))
        renews = bool(token.get("refreshToken")) and renewable is not None and renewable > datetime.now(UTC)
        return SignIn(name or url, expires, renews)

    def client(self, service: str) -> Any:
        """Return the plain client of a service, such as `sts`; it sends a request once, and waits a minute at most.

        Raises:
            botocore.exceptions.BotoCoreError: the configuration cannot be used.
        """
        from botocore.config import Config

        if service not in self._clients:
            self._clients[service] = self._session.create_client(
                service,
                region_name=self.region()[0],
                endpoint_url=self._urls.get(service),
                config=Config(
                    **_TIMEOUTS, retries={"mode": "standard", "total_max_attempts": 1}, user_agent_extra="bx"
                ),
            )
        return self._clients[service]

    def endpoint(self, service: str) -> str:
        """Return the address where a service is asked."""
        return str(self.client(service).meta.endpoint_url)

    def proxy(self, url: str) -> str:
        """Return the address of the proxy that requests to an address go through; empty for none."""
        from botocore.utils import get_environ_proxies

        return str(get_environ_proxies(url).get(urllib.parse.urlsplit(url).scheme, ""))

    def authorities(self) -> str:
        """Return the file with the certificates that are trusted."""
        from botocore.httpsession import get_cert_path

        return str(self._session.get_config_variable("ca_bundle") or get_cert_path(verify=True))

    def close(self) -> None:
        """Close the connections of the clients."""
        for client in self._clients.values():
            client.close()

    def _written_expiry(self, method: str) -> datetime | None:
        """Return when keys in a file expire, as the tool that wrote them has noted it."""
        if method not in ("shared-credentials-file", "config-file"):
            return None
        profiles = self._session.full_config.get("profiles", {})
        written = profiles.get(self._session.profile or "default", {})
        return next(filter(None, (_moment(written.get(name)) for name in _EXPIRIES)), None)


def _in_environment(provider: Any, found: str, in_profile: str | None) -> bool:
    """Whether botocore has a setting from a variable rather than from the profile."""
    if found != in_profile:
        return True
    chain = getattr(provider, "_providers", [])
    return any(type(each).__name__ == "EnvironmentProvider" and each.provide() is not None for each in chain)


def _tokens() -> Path:
    """Return the folder where AWS's tools keep what they got when somebody signed in."""
    from pathlib import Path

    return Path("~/.aws/sso/cache").expanduser()


def _of_api_key(token: str) -> Keys:
    """Read from a short-term key when and where it ends; a long-term one does not tell."""
    with contextlib.suppress(ValueError, OverflowError):
        encoded = token.removeprefix(_SHORT_TERM)
        if encoded != token:
            url = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            asked = dict(urllib.parse.parse_qsl(url.partition("?")[2]))
            made = datetime.strptime(asked.get("X-Amz-Date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            expires = made + timedelta(seconds=int(asked.get("X-Amz-Expires", "")))
            return Keys("api-key", _sensible(expires), _place(asked.get("X-Amz-Credential", "")))
    return Keys("api-key")


def _place(credential: str) -> str:
    """Return the region in the scope of a signature: KEY/DATE/REGION/SERVICE/aws4_request."""
    found = re.fullmatch(r"[^/]+/\d{8}/([a-z0-9-]+)/[^/]+/aws4_request", credential)
    return found[1] if found else ""


def _moment(written: Any) -> datetime | None:
    """Read a moment in ISO 8601; None where it is none."""
    try:
        moment = datetime.fromisoformat(re.sub("UTC$", "Z", str(written)))
    except ValueError:
        return None
    return _sensible(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _sensible(moment: datetime) -> datetime | None:
    """Take a moment at the ends of the calendar for none: no time zone could be applied to it."""
    return moment if _YEARS[0] < moment.year < _YEARS[1] else None
