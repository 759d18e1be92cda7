"""Each model: its profile here, whether it answers, streams, and how it is held to a JSON Schema."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bx import capabilities, foundation
from bx.converse import Request, complete, request
from bx.doctor import cost
from bx.doctor.findings import NOTE, OK, SKIPPED, Examination, Finding, Subject
from bx.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_AT_ONCE = 8  # models that are asked side by side
_PROMPT = "Hi"
_WEEK = 7 * 24 * 3600  # seconds: as bx.structured keeps what it has learned
_RUNGS = {
    "native": "by outputConfig",
    "tool": "by a forced tool",
    "prompt": "asked for in words",
}
# Refusals that may be about one of the two IAM actions only; after any other, the stream would be refused too.
_SPLIT = ("iam-permission", "organization-policy", "access-denied")
_DONE = {"answer": "answers", "stream": "streams"}
_NOT_TRIED = "the answer in one piece failed already"


def models(exam: Examination) -> Iterator[Finding]:
    """Look at each model of Amazon Bedrock, several at once; the findings come in the order of the models."""
    subjects = bedrock(exam.case.models)
    client = None
    if exam.case.calls and not exam.blocked:
        try:
            client = exam.case.metered(exam.place.client("bedrock-runtime"))
        except Exception as failure:  # noqa: BLE001 # it is explained
            yield exam.failed("answer", failure)
    if client is not None:
        exam.estimate = cost.estimate(exam, (subject for subject in subjects if subject.failure is None))
        yield cost.before(exam.estimate)
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bx-doctor")
    try:
        for findings in pool.map(lambda subject: list(_examined(exam, subject, client)), subjects):
            yield from findings
    finally:  # whoever gives up waits for no answer
        pool.shutdown(wait=False, cancel_futures=True)
    if client is not None:
        yield cost.after(cost.spent(exam))


def bedrock(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the models that are Amazon Bedrock's."""
    return [subject for subject in subjects if not subject.embedded]


def _examined(exam: Examination, subject: Subject, client: Any) -> Iterator[Finding]:
    if subject.failure is not None:
        yield exam.failed("profile", subject.failure, subject)
        return
    yield _profile(exam, subject)
    if client is None:
        why = exam.blocked or "no calls are made"
        yield Finding("answer", SKIPPED, why, model=subject.name)
        yield Finding("stream", SKIPPED, why, model=subject.name)
    else:
        yield from _answers(exam, subject, client)
    yield _json(exam, subject)
    if (times := foundation.burndown(subject.id)) > 1:
        yield Finding("quota", OK, f"output counts {times}x against the quota", model=subject.name)


# ---- the profile ----------------------------------------------------------------------------------------------


def _profile(exam: Examination, subject: Subject) -> Finding:
    """Tell whether an id can be called here, by the account's own lists where it lets them be seen."""
    named, model = foundation.name(subject.id), foundation.find(subject.id)
    found = Finding("profile", OK, subject.id, model=subject.name)
    if named is None or model is None:
        return found._replace(evidence=f"{subject.id}, of which bx knows nothing")
    if end := _end(exam, model):
        return found._replace(
            verdict=NOTE, evidence=f"{subject.id}: {end}", fix="Choose a current model: docs/models.md"
        )
    if not model.converse:
        why = f"{subject.id} is no model for Converse, as far as bx knows"
        return found._replace(verdict=NOTE, evidence=why, fix="Choose another model: docs/models.md")
    wrong = _not_here(exam, named, model)
    if not wrong:
        return found
    others = _profiles(exam, model)
    fix = f"Ask it as {' or '.join(others)}" if others else "Choose another model, or another --region"
    return found._replace(verdict=NOTE, evidence=f"{subject.id} {wrong}", fix=fix)


def _not_here(exam: Examination, named: foundation.Name, model: foundation.Model) -> str:
    """Say why an id cannot be called from the region; empty where it can, or nobody knows."""
    if named.kind == foundation.INFERENCE_PROFILE:
        if exam.profiles is not None:
            known = f"{named.geo}.{named.base}" in exam.profiles
            return "" if known else f"is none of the account's inference profiles in {exam.region}"
        known = foundation.reaches(named.geo, exam.region) and (not model.listed or named.geo in model.geos)
        return "" if known else f"is no inference profile of {exam.region}, as far as bx knows"
    if named.kind != foundation.FOUNDATION_MODEL:
        return ""
    if exam.foundation is not None:
        summary = exam.foundation.get(model.id)
        if summary is None:
            return f"is none of the account's models in {exam.region}"
        usable = "ON_DEMAND" in summary.get("inferenceTypesSupported", ["ON_DEMAND"])
    else:
        usable = foundation.on_demand(model, exam.region)
    return "" if usable else "can only be called through an inference profile"


def _profiles(exam: Examination, model: foundation.Model) -> list[str]:
    if exam.profiles is not None:
        return [each for each in exam.profiles if each.partition(".")[2] == model.id]
    return [f"{geo}.{model.id}" for geo in model.geos if foundation.reaches(geo, exam.region)]


def _end(exam: Examination, model: foundation.Model) -> str:
    """Say so where a model is on its way out."""
    lived = (exam.foundation or {}).get(model.id, {}).get("modelLifecycle", {})
    if lived.get("status", model.lifecycle) == "ACTIVE":
        return ""
    end = lived.get("endOfLifeTime") or model.end_of_life
    return f"its provider calls it Legacy{f', and ends it on {end:%Y-%m-%d}' if end else ''}"


# ---- calls ----------------------------------------------------------------------------------------------------


def _answers(exam: Examination, subject: Subject, client: Any) -> Iterator[Finding]:
    """Call once in one piece and once in a stream: they need two permissions."""
    asked = request(_PROMPT, model=subject.id, maxTokens=1)
    yield (first := _called(exam, subject, "answer", lambda: _whole(client, asked)))
    if first.verdict != OK and first.cause not in _SPLIT:
        yield Finding("stream", SKIPPED, _NOT_TRIED, model=subject.name)
        return
    yield _called(exam, subject, "stream", lambda: _streamed(client, asked))


def _called(exam: Examination, subject: Subject, check: str, call: Any) -> Finding:
    started = time.monotonic()
    try:
        usage = call()
    except Exception as failure:  # noqa: BLE001 # it is explained
        return exam.failed(check, failure, subject)
    took = (time.monotonic() - started) * 1000
    exam.spent.append(cost.row(exam, subject, check, usage))
    return Finding(check, OK, f"{_DONE[check]} in {took:.0f} ms", model=subject.name)


def _whole(client: Any, asked: Request) -> Any:
    response = client.converse(**asked)
    response["output"]["message"]  # botocore reads a reply that was cut off as an empty one
    return response.get("usage")


def _streamed(client: Any, asked: Request) -> Any:
    usage = None
    for event in complete(client.converse_stream(**asked)["stream"]):
        usage = event.get("metadata", {}).get("usage", usage)
    return usage


def _json(exam: Examination, subject: Subject) -> Finding:
    """Tell how the model is held to a JSON Schema, as far as is known or has been learned here."""
    known = capabilities.plan(subject.id)
    plan = capabilities.lowered(known, Memory("structured", _WEEK).get(f"{exam.case.scope} {subject.id}"))
    strength = "enforced" if plan.enforced else "checked"
    learned = " (learned from a refusal)" if plan != known else ""
    return Finding("json", OK, f"JSON {_RUNGS[plan.rung]}, {strength}{learned}", model=subject.name)
