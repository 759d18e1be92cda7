"""What the doctor's own calls cost: told before they are made, and after."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bx.doctor.findings import OK, Cost, Examination, Finding, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

OPERATIONS = {"answer": "Converse", "stream": "ConverseStream"}
_AT_MOST = {"inputTokens": 16, "outputTokens": 1}  # each model has its own frame around the prompt
_EXACT = Decimal("0.000001")


def row(exam: Examination, subject: Subject, check: str, usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make the row of a call, as the ledger has it; without its usage, with what it takes at most."""
    usage = usage or _AT_MOST
    return {
        "at": time.time(),
        "engine": "bedrock",
        "operation": OPERATIONS[check],
        "alias": subject.name,
        "model_id": subject.id,
        "region": exam.region,
        "input_tokens": usage.get("inputTokens"),
        "output_tokens": usage.get("outputTokens"),
    }


def estimate(exam: Examination, subjects: Iterable[Subject]) -> Cost:
    """Return what two calls to each model cost, at most."""
    return _cost(exam, [row(exam, each, check) for each in subjects for check in OPERATIONS])


def spent(exam: Examination) -> Cost:
    """Return what the calls that were answered have cost."""
    return _cost(exam, exam.spent)


def before(cost: Cost) -> Finding:
    """Tell what is about to be spent."""
    return Finding("cost", OK, f"{cost.calls} calls of one token: {_money(cost, 'at most ')}; --no-calls avoids them")


def after(cost: Cost) -> Finding:
    """Tell what was spent."""
    answered = "1 call was" if cost.calls == 1 else f"{cost.calls} calls were"
    return Finding("cost", OK, f"{answered} answered: {_money(cost)}")


def _money(cost: Cost, most: str = "") -> str:
    """Say what calls cost; what has no known price is never passed off as free."""
    if cost.usd is None:
        return "their price is unknown"
    exact = f"USD {cost.usd.quantize(_EXACT).normalize():f}"
    if 0 < cost.usd < _EXACT:
        exact = f"{'' if most else 'less than '}USD {_EXACT:f}"
    return f"at least {exact}, for the price of {cost.unknown} is unknown" if cost.unknown else f"{most}{exact}"


def _cost(exam: Examination, rows: list[dict[str, Any]]) -> Cost:
    costs = [exam.case.cost(each) for each in rows]
    known = [each for each in costs if each is not None]
    return Cost(len(rows), sum(known, Decimal(0)) if known or not rows else None, len(costs) - len(known))
