"""Who asks: the credentials that win, the sign-in, the region, the identity, what the account lets it see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bx.doctor.findings import NOTE, OK, PROBLEM, SKIPPED, Examination, Finding, is_aws, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

_CREDENTIALS = 3  # the exit code
_SOON = timedelta(minutes=15)
_WORDS = {
    "env": "keys in the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "keys in ~/.aws/credentials",
    "config-file": "keys in ~/.aws/config",
    "assume-role": "a role that the profile assumes",
    "assume-role-with-web-identity": "a role that is assumed with a web identity",
    "custom-process": "the credential_process of the profile",
    "sso": "the sign-in of the profile (SSO)",
    "login": "the sign-in of aws login",
    "iam-role": "the role of this machine (EC2)",
    "container-role": "the role of this container",
}
_ELSEWHERE = "AWS_REGION"  # which every tool of AWS reads but boto3
_ORIGINS = {
    "profile": "the profile of the AWS configuration",
    "environment": "AWS_DEFAULT_REGION",
    "default": "chosen by bx: none is configured",
}


def credentials(exam: Examination) -> Iterator[Finding]:
    """Tell which credentials win, and when they expire."""
    from botocore.exceptions import NoCredentialsError

    try:
        key = exam.place.api_key()
        if key is not None:
            yield _api_key(exam, key)
            return
        keys = exam.place.keys()
        if keys is None:
            raise NoCredentialsError  # noqa: TRY301 # explained as any other call would meet it
    except Exception as failure:  # noqa: BLE001 # a broken configuration is explained, whatever is wrong with it
        found = exam.failed("credentials", failure)
        if not exam.case.network and isinstance(failure, NoCredentialsError):
            found = found._replace(evidence=f"{found.evidence}. Offline, no role was asked for")
        yield found
        return
    what = _WORDS.get(keys.method, keys.method)
    if profile := exam.place.profile():
        what += f", profile {profile}"
    if keys.failure is not None and not _is_over(keys.expires):
        found = exam.failed("credentials", keys.failure)
        yield found._replace(evidence=f"{what}: {found.evidence}")
        return
    yield _with_expiry(exam, Finding("credentials", OK, what), keys.expires)


def sign_in(exam: Examination) -> Iterator[Finding]:
    """Tell whether the profile's sign-in (SSO) still holds."""
    try:
        state, key = exam.place.sign_in(), exam.place.api_key()
        uses = key is None and getattr(exam.place.keys(), "method", "") == "sso" if state else False
    except Exception:  # noqa: BLE001 # the check of the credentials says what is wrong
        return
    if state is None:
        yield Finding("sso", SKIPPED, "the profile signs in by other means")
        return
    fix = f"Sign in with: aws sso login{_flag(exam)}"
    verdict, code = (PROBLEM, _CREDENTIALS) if uses else (NOTE, 0)
    if state.expires is None:
        yield Finding("sso", verdict, f"nobody has signed in to {state.name}", fix, code)
    elif not _is_over(state.expires):
        yield Finding("sso", OK, f"signed in to {state.name} until {_time(state.expires)}")
    elif state.renews:
        yield Finding("sso", OK, f"signed in to {state.name}; the token ended {_time(state.expires)} and is renewed")
    else:
        yield Finding("sso", verdict, f"the sign-in to {state.name} ended {_time(state.expires)}", fix, code)


def region(exam: Examination) -> Iterator[Finding]:
    """Tell the region and who chose it."""
    try:
        name, origin = exam.place.region()
        key = exam.place.api_key()
    except Exception as failure:  # noqa: BLE001 # it is explained
        yield exam.failed("region", failure)
        return
    where = exam.case.region_from or _ORIGINS.get(origin, origin)
    other = exam.case.variables.get("AWS_DEFAULT_REGION", name) if where == _ELSEWHERE else name
    found = Finding("region", OK, f"{name} ({where})")
    if key is not None and key.region not in ("", name):
        why = f"{found.evidence}, but the Bedrock API key is of {key.region} and works there only"
        found = Finding(
            "region", PROBLEM, why, f"Choose its region: --region {key.region}, or make a key for {name}", 3
        )
    elif origin == "default" and not exam.case.region_from:
        found = found._replace(verdict=NOTE, fix="Choose one with --region, or set AWS_REGION")
    elif other != name:
        why = f"{found.evidence}; AWS_DEFAULT_REGION is {other}, which programs with boto3 use"
        found = found._replace(
            verdict=NOTE, evidence=why, fix="Set AWS_REGION and AWS_DEFAULT_REGION to the same region"
        )
    yield found


def identity(exam: Examination) -> Iterator[Finding]:
    """Ask AWS who asks."""
    if why := exam.blocked:
        yield Finding("identity", SKIPPED, why)
        return
    try:
        if exam.place.api_key() is not None:
            yield Finding("identity", SKIPPED, "AWS tells none for a Bedrock API key")
            return
        if not is_aws(exam.place.endpoint("bedrock-runtime")) and is_aws(exam.place.endpoint("sts")):
            yield Finding("identity", SKIPPED, "the endpoint is not AWS's own, and these keys are not shown to AWS")
            return
        who = exam.place.client("sts").get_caller_identity()
    except Exception as failure:  # noqa: BLE001 # it is explained
        found = exam.failed("identity", failure)
        # A private network may have a way to Bedrock and none to STS.
        yield found if found.exit_code == _CREDENTIALS else found._replace(verdict=NOTE, exit_code=0)
        return
    yield Finding("identity", OK, str(who.get("Arn", "AWS told no ARN")))


def control_plane(exam: Examination) -> Iterator[Finding]:
    """Ask which models and profiles there are; answers do not need that permission."""
    if why := exam.blocked:
        yield Finding("control plane", SKIPPED, why)
        return
    told, missing = [], []
    try:
        client = exam.place.client("bedrock")
    except Exception as failure:  # noqa: BLE001 # it is explained
        yield exam.failed("control plane", failure)
        return
    for list_them in (_list_models, _list_profiles):
        try:
            told.append(list_them(exam, client))
        except Exception as failure:  # noqa: BLE001 # it is explained
            missing.append(exam.failed("control plane", failure, brief=True))
    for found in missing:
        # Without permission, or without a way to it, all but the lists works.
        serious = found.exit_code == _CREDENTIALS
        needless = found._replace(verdict=NOTE, exit_code=0, evidence=f"{found.evidence}; answers do not need it")
        yield found if serious else needless
    if told:
        yield Finding("control plane", OK, f"lists {listed(told)}")


def _list_models(exam: Examination, client: Any) -> str:
    found = client.list_foundation_models()["modelSummaries"]
    exam.foundation = {each["modelId"]: each for each in found}
    return f"{len(found)} models"


def _list_profiles(exam: Examination, client: Any) -> str:
    pages = client.get_paginator("list_inference_profiles").paginate()
    found = [each for page in pages for each in page["inferenceProfileSummaries"]]
    exam.profiles = {each["inferenceProfileId"]: each for each in found}
    return f"{len(found)} inference profiles"


def _api_key(exam: Examination, key: Any) -> Finding:
    what = "a Bedrock API key (AWS_BEARER_TOKEN_BEDROCK), which wins over all other credentials"
    found = _with_expiry(
        exam, Finding("credentials", NOTE, what, "To use the others: unset AWS_BEARER_TOKEN_BEDROCK"), key.expires
    )
    if found.verdict == PROBLEM:
        fix = "Make a new key in the Amazon Bedrock console, or: unset AWS_BEARER_TOKEN_BEDROCK"
        return found._replace(fix=fix)
    return found


def _with_expiry(exam: Examination, found: Finding, expires: datetime | None) -> Finding:
    """Add when credentials expire, and what to do where they have expired or soon will."""
    if expires is None:
        return found
    fix = f"Sign in again with: aws sso login{_flag(exam)} (or replace the keys)"
    if _is_over(expires):
        why = f"{found.evidence}: expired {_time(expires)}"
        return found._replace(verdict=PROBLEM, evidence=why, fix=fix, exit_code=_CREDENTIALS)
    why = f"{found.evidence}; until {_time(expires)}"
    if _is_over(expires - _SOON) and found.verdict == OK:
        return found._replace(verdict=NOTE, evidence=why, fix=fix)
    return found._replace(evidence=why)


def _is_over(moment: datetime | None) -> bool:
    return moment is not None and moment <= datetime.now(UTC)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}"


def _flag(exam: Examination) -> str:
    profile = exam.place.profile()
    return f" --profile {profile}" if profile else ""
