"""`bx schema`: check a JSON Schema against what a model takes, fix it, infer one, exemplify one, warm one up."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from bx import capabilities
from bx.cli import UsageError, place_arguments, telling_arguments
from bx.cli.ask import model_names
from bx.converse import request
from bx.instances import json_path, loads
from bx.schema import check, source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from bx.cli.terminal import Terminal
    from bx.schema.check import Finding

_EPILOG = """\
examples:
  bx schema check incident.schema.json                 what Claude on Amazon Bedrock would refuse, and the remedy
  bx schema check app.models:Incident --for nova       a Pydantic model or dataclass, for another model
  bx schema fix incident.schema.json > strict.json     the nearest schema that is taken; the changes on stderr
  bx schema infer example1.json example2.json          a strict schema that the examples satisfy
  bx schema example 'service, minutes int'             a minimal instance
  bx schema warm incident.schema.json --model claude   have the grammar prepared, before the first user waits

A schema is a file, a JSON object, fields in words ('service, minutes int'), module:Name, or - for standard input.
Exit code 8: the model would refuse the schema; 2: it is no valid JSON Schema.
"""
_ACTIONS = ("check", "fix", "infer", "example", "warm")
_FAMILIES = {
    "claude": "Claude on Amazon Bedrock",
    "open-weight": "open-weight models on Amazon Bedrock",
    "tool": "models that are asked through a tool",
    "local": "embedded models",
}
_STRICTEST = "claude"
_REFUSED = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Work with JSON Schemas as the models of Amazon Bedrock and the embedded ones take them."
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("action", choices=_ACTIONS, metavar="check|fix|infer|example|warm", help="what to do")
    add("files", nargs="+", metavar="SCHEMA", help="the schema; for infer, example instances (.json, .jsonl or -)")
    target = add("--for", "-m", "--model", dest="target", metavar="MODEL", help="the model (default: Claude's rules)")
    target.completer = model_names  # type: ignore[attr-defined] # argcomplete's protocol
    add("--format", choices=("text", "json"), metavar="text|json", help="how check reports (default: text)")
    place_arguments(parser)
    telling_arguments(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Do it; what was asked for goes to stdout.

    Raises:
        UsageError: the options do not go together.
        ValueError: a schema cannot be read, fixed or exemplified; the exception says why and what to do.
    """
    _check_options(options)
    if options.action == "infer":
        return _infer(options, terminal)
    if len(options.files) > 1:
        given = f"bx schema {options.action} takes one schema, and was given {len(options.files)}"
        raise UsageError(given, "Put a schema in words into quotes")
    schema = source.read(options.files[0], terminal.read_input)
    check.well_formed(schema)
    actions = {"check": _check, "fix": _fix, "example": _example, "warm": _warm}
    return actions[options.action](schema, options, terminal)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    if options.target is not None and options.action in ("infer", "example"):
        raise UsageError(f"bx schema {options.action} is for no model", "Leave --for out")
    if options.format is not None and options.action != "check":
        raise UsageError("--format is for bx schema check", "Leave it out")


def _check(schema: dict[str, Any], options: argparse.Namespace, terminal: Terminal) -> int:
    family = _family(options)
    findings = check.check(schema, family)
    refused = [finding for finding in findings if finding.level == "refused"]
    if options.format == "json":
        report = {"family": family, "counts": check.counts(schema), "findings": [_plain(each) for each in findings]}
        terminal.line(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            terminal.line(_told(finding))
        terminal.line(_verdict(family, len(refused), len(findings) - len(refused)))
    return _REFUSED if refused else 0


def _told(finding: Finding) -> str:
    by = f"{finding.level}, in the service's words" if finding.recorded else finding.level
    named = finding.path[-1:] == (finding.keyword,)
    where = json_path(finding.path) if named else f"{json_path(finding.path)}: {finding.keyword}"
    return f"{where}\n    {by}: {finding.says}\n    -> {finding.fix}"


def _verdict(family: str, refused: int, others: int) -> str:
    notes = f"; {others} not enforced, only checked in the answer" if others else ""
    if not refused:
        return f"Taken by {_FAMILIES[family]}{notes}"
    return f"Refused by {_FAMILIES[family]}, for {refused} reason{'s'[: refused - 1]}{notes}"


def _plain(finding: Finding) -> dict[str, Any]:
    return {**finding._asdict(), "path": json_path(finding.path)}


def _fix(schema: dict[str, Any], options: argparse.Namespace, terminal: Terminal) -> int:
    from bx.schema import fix

    fixed, changes = fix.fix(schema, _family(options))
    for change in changes:
        terminal.note(f"{json_path(change.path)}: {change.what}")
    if not changes:
        terminal.note("nothing had to be changed")
    terminal.line(json.dumps(fixed, indent=2, ensure_ascii=False))
    return 0


def _infer(options: argparse.Namespace, terminal: Terminal) -> int:
    from bx.schema import infer

    examples = [example for file in options.files for example in _examples(file, terminal)]
    terminal.line(json.dumps(infer.infer(examples), indent=2, ensure_ascii=False))
    return 0


def _examples(file: str, terminal: Terminal) -> Iterator[Any]:
    """Read the example of a file, or one from each line of a .jsonl file."""
    from pathlib import Path

    if file.lstrip()[:1] in ("{", "["):
        yield _loaded("on the command line", file)
        return
    try:
        text = terminal.read_input() if file == "-" else Path(file).expanduser().read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise UsageError(f"The example {file} cannot be read: {cause.strerror}", "Give JSON files, or -") from None
    except UnicodeDecodeError:
        raise UsageError(f"The example {file} is not UTF-8 text", "Save it as UTF-8") from None
    if not file.endswith(".jsonl"):
        yield _loaded("on standard input" if file == "-" else file, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):  # and at no other character that ends lines
        if line.strip():
            yield _loaded(f"{file}, line {number},", line)


def _loaded(where: str, text: str) -> Any:
    try:
        return loads(text)
    except ValueError as cause:
        fix = "Correct it at that place; several examples go into several files, or one .jsonl file"
        raise UsageError(f"The example {where} is not JSON: {cause}", fix) from None


def _example(schema: dict[str, Any], options: argparse.Namespace, terminal: Terminal) -> int:  # noqa: ARG001 # as others
    from bx.schema import example

    terminal.line(json.dumps(example.example(schema), indent=2, ensure_ascii=False))
    return 0


def _warm(schema: dict[str, Any], options: argparse.Namespace, terminal: Terminal) -> int:
    """Send the shortest request that has the grammar prepared."""
    from bx.catalogue import DEFAULT, Catalogue
    from bx.cli import answer

    if options.dry_run:
        message = "bx schema warm sends a request, and the setting dry_run forbids that"
        raise UsageError(message, "Unset it (BX_DRY_RUN)")
    name = options.target or options.model or DEFAULT
    catalogue = Catalogue(options.models, options.geo)
    options.model_id = catalogue.resolve(name).id
    if not capabilities.plan(options.model_id).enforced:
        names = ", ".join(sorted(capabilities.enforcing(catalogue.ids())))
        raise UsageError(
            f"{name} takes no grammar: there is nothing to prepare", f"Choose --model with one of {names}"
        )
    options.guarantee, options.relearn = "validated", False
    engine = answer.engine(schema, [], options, terminal)
    started = time.monotonic()
    response = engine.converse(**request("Go", model=options.model_id, schema=schema, maxTokens=1))
    tokens = response.get("usage", {}).get("totalTokens", "unknown")
    terminal.line(f"{name} is ready for the schema after {time.monotonic() - started:.1f} s (tokens: {tokens})")
    return 0


def _family(options: argparse.Namespace) -> str:
    """Return whose rules hold: those of the way in which a model is asked first."""
    if options.target is None:
        return _STRICTEST
    from bx.catalogue import Catalogue

    plan = capabilities.plan(Catalogue(options.models, options.geo).resolve(options.target).id)
    return plan.family if plan.enforced else "tool"
