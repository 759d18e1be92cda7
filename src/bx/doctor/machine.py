"""What is installed and kept on this machine: Python, the AWS SDK, the embedded model, the ledger."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from bx import weights
from bx.converse import request
from bx.doctor.findings import NOTE, OK, PROBLEM, SKIPPED, Examination, Finding, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SCHEME = "local"


def python(_: Examination) -> Iterator[Finding]:
    """Tell which Python this is."""
    from bx import __version__

    system = f"{platform.system()} {platform.machine()}"
    yield Finding("python", OK, f"Python {platform.python_version()} on {system}, bx {__version__}")


def sdk(exam: Examination) -> Iterator[Finding]:
    """Tell which AWS SDK this is, and whether it is new enough for structured outputs."""
    try:
        version, unknown = exam.place.sdk()
    except Exception as failure:  # noqa: BLE001 # it is explained: a profile that is not there ends up here
        yield exam.failed("configuration", failure)
        return
    if unknown:
        why = f"botocore {version} does not know {listed(unknown)}"
        yield Finding("sdk", PROBLEM, why, "Upgrade it: pip install -U botocore", exit_code=2)
    else:
        yield Finding("sdk", OK, f"botocore {version} knows outputConfig and strict")


def embedded(exam: Examination) -> Iterator[Finding]:
    """Tell whether the embedded engine is installed, and its model whole."""
    name = _wanted(exam)
    version = _version("xllamacpp")
    serious = exam.case.named
    if version is None:
        why = "the engine for embedded models is not installed"
        fix = 'To use them: pip install "bedrock-bx[local]"'
        yield Finding("embedded", PROBLEM if serious else NOTE, why, fix, 2 if serious else 0)
        return
    try:
        path = _whole(name)
    except weights.WeightsError as cause:
        missing = cause.name is not None and not serious
        verdict, code = (NOTE, 0) if missing else (PROBLEM, cause.exit_code)
        yield Finding("embedded", verdict, str(cause), cause.fix, code)
        return
    yield Finding("embedded", OK, f"xllamacpp {version}; {name}: {path}")
    if serious and exam.case.calls and exam.case.engine:
        yield from _answer(exam, name)


def ledger(exam: Examination) -> Iterator[Finding]:
    """Tell whether the ledger is sound."""
    if exam.case.ledger is None:
        yield Finding("ledger", SKIPPED, "none is kept")
        return
    path, check = exam.case.ledger
    try:
        wrong = check()
    except Exception as failure:  # noqa: BLE001 # it is explained
        yield exam.failed("ledger", failure)
        return
    if wrong:
        fix = f"Set that right, or move the file away to begin a new one: {path}. Answers do not wait for it"
        yield Finding("ledger", PROBLEM, wrong, fix, exit_code=2)
    else:
        yield Finding("ledger", OK, path)


def _wanted(exam: Examination) -> str:
    """Return the name or the path of the model file to look at: that of a named model, else the default one."""
    ids = [subject.id for subject in exam.case.models if subject.id.partition(":")[0] == _SCHEME]
    return ids[0].partition(":")[2] or weights.DEFAULT if ids else weights.DEFAULT


def _whole(name: str) -> str:
    """Find a model's file and prove its checksum, where one is known.

    Raises:
        WeightsError: it is not here, or damaged.
    """
    path: Path = weights.find(name)
    if path.parent.parent != weights.folder():
        return f"{path}, whose checksum is not known"
    weights.verify(name)
    return f"{path}, checksum as published"


def _answer(exam: Examination, name: str) -> Iterator[Finding]:
    subject = next(each for each in exam.case.models if each.embedded)
    assert exam.case.engine is not None  # noqa: S101 # the caller has looked
    try:
        exam.case.engine.converse(**request("Hi", model=subject.id, maxTokens=1))
    except Exception as failure:  # noqa: BLE001 # it is explained
        yield exam.failed("answer", failure, subject)
        return
    yield Finding("answer", OK, f"{name} answers", model=subject.name)


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
