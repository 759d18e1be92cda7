"""Why does it not work? Checks from cause to consequence, each with its evidence and the one thing to do.

It is given what it looks at (`Case`) and knows no engine, no setting and no terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bx.doctor import account, machine, models, network
from bx.doctor.cost import spent
from bx.doctor.findings import PROBLEM, SKIPPED, Case, Cost, Examination, Finding, Subject, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Check = Callable[[Examination], Iterator[Finding]]

__all__ = ["Case", "Cost", "Examination", "Finding", "Subject", "examine", "spent", "worst"]


def examine(exam: Examination) -> Iterator[Finding]:
    """Run the checks, one after the other, and give the findings as they come; `exam.found` keeps them.

    Whatever happens is a finding; only an interruption ends it early.
    """
    yield from _run(exam, machine.python)
    yield from _run(exam, machine.sdk)
    for check in _of_aws(exam):
        yield from _run(exam, check)
    if not exam.case.named or any(each.embedded for each in exam.case.models):
        yield from _run(exam, machine.embedded)
    yield from _run(exam, machine.ledger)


def worst(findings: Iterable[Finding]) -> int:
    """Return the exit code of the worst finding: the first problem, for the others may follow from it; else 0."""
    return next((each.exit_code for each in findings if each.verdict == PROBLEM), 0)


def _of_aws(exam: Examination) -> tuple[Check, ...]:
    """Return the checks about AWS; where no model needs it, or nothing of it can be read, the one that says so."""
    if exam.case.named and all(each.embedded for each in exam.case.models):
        return (lambda _: iter([Finding("aws", SKIPPED, "embedded models need no account and no network")]),)
    if any(each.check == "configuration" for each in exam.found):
        return (lambda _: iter([Finding("aws", SKIPPED, exam.blocked)]),)
    return (
        account.credentials,
        account.sign_in,
        network.clock,
        account.region,
        network.endpoint,
        network.reachability,
        account.identity,
        account.control_plane,
        models.models,
    )


def _run(exam: Examination, check: Check) -> Iterator[Finding]:
    for finding in _guarded(exam, check):
        found = clean(finding)
        exam.found.append(found)
        yield found


def _guarded(exam: Examination, check: Check) -> Iterator[Finding]:
    try:
        yield from check(exam)
    except Exception as surprise:  # noqa: BLE001 # the checks that follow may tell more
        yield exam.failed(getattr(check, "__name__", "check"), surprise)
