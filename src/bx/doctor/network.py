"""Is the endpoint there: name, connection, certificate, proxy; and what time is it there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bx.doctor.findings import NOTE, OK, PROBLEM, SKIPPED, Examination, Finding, is_aws

if TYPE_CHECKING:
    from collections.abc import Iterator

_SKEW, _TOO_MUCH = 60, 300  # seconds; AWS takes signatures that are up to five minutes off
_SET_CLOCK = "Set the clock, on most systems with: sudo timedatectl set-ntp true"


def clock(exam: Examination) -> Iterator[Finding]:
    """Compare this machine's clock with the endpoint's."""
    if why := exam.cut_off:
        yield Finding("clock", SKIPPED, why)
        return
    try:
        ahead = exam.probe.ahead
    except Exception:  # noqa: BLE001 # the check of the endpoint says what is wrong with it
        ahead = None
    if ahead is None:
        yield Finding("clock", SKIPPED, "the endpoint told no time")
        return
    told = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the endpoint's"
    if abs(ahead) >= _TOO_MUCH:
        why = f"{told}; AWS refuses signatures that are five minutes off"
        yield Finding("clock", PROBLEM, why, _SET_CLOCK, exit_code=3)
    elif abs(ahead) >= _SKEW:
        yield Finding("clock", NOTE, told, _SET_CLOCK)
    else:
        yield Finding("clock", OK, "within a minute of the endpoint's")


def endpoint(exam: Examination) -> Iterator[Finding]:
    """Tell where Amazon Bedrock is asked, and what has chosen another address than AWS's own."""
    try:
        runtime, control = (exam.place.endpoint(service) for service in ("bedrock-runtime", "bedrock"))
        has_key = exam.place.api_key() is not None
    except Exception as failure:  # noqa: BLE001 # whatever is wrong with it is told
        yield exam.failed("endpoint", failure)
        return
    names = [name for name in exam.case.variables if "ENDPOINT" in name]
    usual = "://bedrock-runtime" in runtime  # what stands in a variable need not hold
    chosen = f" (chosen by {', '.join(names)})" if names and not usual else ""
    if has_key and not runtime.startswith("https:"):
        from botocore.exceptions import InvalidEndpointConfigurationError

        yield exam.failed("endpoint", InvalidEndpointConfigurationError(msg=runtime))
    elif is_aws(runtime):
        yield Finding("endpoint", OK, f"{runtime}{chosen}")
    elif is_aws(control):
        why = f"{runtime}{chosen}; the control plane is still {control}"
        yield Finding("endpoint", NOTE, why, f"If {runtime} serves both, set AWS_ENDPOINT_URL_BEDROCK too")
    else:
        yield Finding("endpoint", NOTE, f"{runtime}{chosen}: not AWS's own")


def reachability(exam: Examination) -> Iterator[Finding]:
    """Tell whether the endpoint can be reached, step by step."""
    if why := exam.cut_off:
        yield Finding("connection", SKIPPED, why)
        return
    for check, outcome in exam.probe.steps.items():
        if isinstance(outcome, Exception):
            yield exam.failed(check, outcome)
        else:
            yield Finding(check, OK, outcome)
