"""The variables of AWS's own tools: what they say of where and as whom Amazon Bedrock is asked.

Beside `bx.config` this is the only reader of the environment. No function returns or repeats a secret.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_POINTING = ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL_BEDROCK")


def scope(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str:
    """Name the part of AWS that is asked: what is learned about a model holds there."""
    environ = os.environ if environ is None else environ
    profile = options.get("profile") or environ.get("AWS_PROFILE", "")
    return f"{region(options, environ)} {profile} {endpoint(options, environ)}"


def region(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str:
    """Return the region that the settings or AWS's variable name; a profile may name one where they do not."""
    environ = os.environ if environ is None else environ
    return options.get("region") or environ.get("AWS_DEFAULT_REGION", "")


def endpoint(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str:
    """Return the address where Amazon Bedrock is asked, where another than its own was chosen; else nothing."""
    environ = os.environ if environ is None else environ
    chosen = environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME") or environ.get("AWS_ENDPOINT_URL", "")
    return options.get("endpoint_url") or chosen


def has_api_key(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the AWS SDKs will use an API key of Amazon Bedrock, which they send over https only."""
    return bool((os.environ if environ is None else environ).get("AWS_BEARER_TOKEN_BEDROCK"))


def variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that are set and tell AWS's SDKs where to go."""
    environ = os.environ if environ is None else environ
    return {name: environ[name] for name in environ if name.startswith(("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"))}


def pointed(url: str, environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Return the variables that point AWS's SDKs at a stand-in for Amazon Bedrock; None where one is to be unset.

    Keys that no service accepts, and a region, are among them where there are none.
    """
    from urllib.parse import urlsplit

    environ = os.environ if environ is None else environ
    variables: dict[str, str | None] = dict.fromkeys(_POINTING, url)
    variables |= dict.fromkeys(("AWS_BEARER_TOKEN_BEDROCK", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"))
    if not environ.get("AWS_ACCESS_KEY_ID"):
        variables |= {"AWS_ACCESS_KEY_ID": "bx", "AWS_SECRET_ACCESS_KEY": "bx", "AWS_SESSION_TOKEN": None}
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    variables |= {name: environ.get(name) or region for name in ("AWS_REGION", "AWS_DEFAULT_REGION")}
    direct = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if direct != "*":
        variables |= dict.fromkeys(("no_proxy", "NO_PROXY"), f"{direct},{urlsplit(url).hostname}".lstrip(","))
    return variables
