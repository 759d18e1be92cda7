"""`bx doctor`: why does it not work?"""

from __future__ import annotations

import itertools
import json
import textwrap
from typing import TYPE_CHECKING, Any

from bx.cli import heed_signals, place_arguments, telling_arguments
from bx.cli.ask import model_names
from bx.doctor.findings import NOTE, OK, PROBLEM, SKIPPED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from decimal import Decimal

    from bx.cli.terminal import Terminal
    from bx.converse import Engine
    from bx.doctor import Case, Cost, Finding, Subject
    from bx.engines.surroundings import Surroundings
    from bx.ledger.store import Store

_EPILOG = """\
examples:
  bx doctor                          everything, and two calls of one token to each model
  bx doctor --no-calls               the same without calling a model, which costs nothing
  bx doctor --offline                what can be told without a network
  bx doctor --model claude           one model, and all that it needs
  bx doctor --format json            the findings for programs

The exit code is that of the first problem, as docs/errors.md lists them; 0 if there is none.
"""
_STYLES = {OK: "green", NOTE: "yellow", PROBLEM: "red", SKIPPED: "dim"}
_VERDICT, _CHECK = 9, 15  # columns
_LEAST = 40  # columns for the evidence, however narrow the terminal is


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Say why it does not work: one check after the other, from cause to consequence."
    parser.epilog = _EPILOG
    add = parser.add_argument
    only = add("-m", "--model", dest="only", action="append", metavar="NAME", help="this model only (repeatable)")
    only.completer = model_names  # type: ignore[attr-defined] # argcomplete's protocol
    add("--offline", action="store_true", default=None, help="send nothing")
    add("--no-calls", action="store_true", help="call no model, which costs nothing")
    add(
        "--format", choices=("text", "json"), default="text", metavar="text|json", help="how the findings are printed"
    )
    place_arguments(parser)
    telling_arguments(parser, "print request ids, too")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Examine, and print the findings to stdout; return the exit code of the worst one.

    Raises:
        UnknownModel: a model that was named is none.
    """
    from bx import doctor
    from bx.cli import answer

    answer.listen(terminal, verbose=False)
    exam = doctor.Examination(_case(options))
    shown: dict[tuple[str, str], str] = {}
    for group in _grouped(doctor.examine(exam)):
        if options.format == "text":
            _show([_shortened(found, shown) for found in group], terminal, verbose=bool(options.verbose))
    code = doctor.worst(exam.found)
    if options.format == "json":
        cost = {"estimated": _told(exam.estimate), "spent": _told(doctor.spent(exam) if exam.estimate else None)}
        told = {"findings": [each._asdict() for each in exam.found], "cost": cost, "exit_code": code}
        terminal.line(json.dumps(told, indent=2, ensure_ascii=False))
    if problems := [each.model or each.check for each in exam.found if each.verdict == PROBLEM]:
        terminal.note(
            f"problems: {', '.join(dict.fromkeys(problems))}", "Begin with the first: others may follow from it"
        )
    return code


# ---- what is looked at ----------------------------------------------------------------------------------------


def _case(options: argparse.Namespace) -> Case:
    from bx import aws
    from bx.doctor import Case
    from bx.engines import Router

    store = _store(options)
    return Case(
        place=lambda: _place(options),
        models=tuple(_subjects(options)),
        named=bool(options.only),
        region_from=_origin("region", options),
        variables=aws.variables(),
        network=not options.offline,
        calls=not options.no_calls,
        scope=aws.scope(vars(options)),
        engine=Router(),
        metered=lambda client: _metered(client, options),
        ledger=(str(store.path), store.check) if store else None,
        cost=_cost(options),
    )


def _place(options: argparse.Namespace) -> Surroundings:
    from bx import aws
    from bx.doctor.findings import is_aws
    from bx.engines.surroundings import Surroundings

    # A stand-in speaks for the control plane too; an endpoint of AWS's own, in a private network, does not.
    named = options.endpoint_url and "AWS_ENDPOINT_URL_BEDROCK" not in aws.variables()
    control = options.endpoint_url if named and not is_aws(options.endpoint_url) else None
    return Surroundings(
        options.region, options.profile, options.endpoint_url, control_url=control, offline=bool(options.offline)
    )


def _subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """Give the models to look at: those that are named, or all aliases, the one in use first."""
    from bx.catalogue import DEFAULT, Catalogue, UnknownModel
    from bx.doctor import Subject

    catalogue, own = Catalogue(options.models, options.geo), options.models
    in_use = options.model or DEFAULT
    for name in options.only or dict.fromkeys([in_use, *catalogue.models]):
        chosen = bool(options.only) or name == in_use or name in own
        try:
            yield Subject(name, catalogue.resolve(name).id, chosen)
        except UnknownModel as failure:
            if options.only:
                raise
            yield Subject(name, catalogue.ids().get(name, name), chosen, failure)


def _origin(name: str, options: argparse.Namespace) -> str:
    """Return where a setting comes from; empty where nobody has chosen."""
    from bx import config

    if name in options.flags:
        return f"--{name.replace('_', '-')}"
    origin = ""
    for place, add in config.sources():
        settings = config.Settings({}, {}, [])
        add(settings)
        origin = place if name in settings.values else origin
    return origin


def _cost(options: argparse.Namespace) -> Callable[[Mapping[str, Any]], Decimal | None]:
    from bx import prices

    own = options.prices or {}
    prices.check(own)
    return lambda row: prices.cost(row, own)


def _store(options: argparse.Namespace) -> Store | None:
    from bx import config
    from bx.ledger.store import Store

    path = config.ledger(vars(options))
    return Store(path) if path else None


def _metered(client: Any, options: argparse.Namespace) -> Engine:
    """Have what is called stand in the ledger, and within the budgets, as every call of ours."""
    from bx.catalogue import Catalogue
    from bx.ledger.meter import around

    heed_signals()
    names = Catalogue(options.models, options.geo).ids()
    made = options.meter = around(client, vars(options), source="cli", names=lambda: names)
    return made


# ---- what is printed ------------------------------------------------------------------------------------------


def _grouped(findings: Iterable[Finding]) -> Iterator[list[Finding]]:
    """Put the findings about a model together; any other stands alone, and comes at once."""
    for model, group in itertools.groupby(findings, lambda found: found.model):
        if model:
            yield list(group)
        else:
            yield from ([found] for found in group)


def _shortened(found: Finding, shown: dict[tuple[str, str], str]) -> Finding:
    """Refer to an earlier model in a note about what failed there in the same way."""
    if not found.model or not found.cause or found.verdict == OK:
        return found
    first = shown.setdefault((found.check, found.cause), found.model)
    if first == found.model or found.verdict != NOTE:
        return found
    return found._replace(evidence=f"as with {first} above", fix="")


def _show(group: list[Finding], terminal: Terminal, *, verbose: bool) -> None:
    """Print findings: of a model, what is wrong first, and all that is right in one line."""
    model = group[0].model
    wrong = [found for found in group if found.verdict not in (OK, SKIPPED)] if model else group
    for found in wrong:
        _line(terminal, found.verdict, model or found.check, f"{found.check}: " * bool(model) + found.evidence)
        if found.fix:
            _lines(terminal, f"-> {found.fix}", "plain")
        if found.request_id and verbose:
            _lines(terminal, f"request id: {found.request_id}", "dim")
    right = "; ".join(found.evidence for found in group if found.verdict == OK)
    if model and right and not wrong:
        _line(terminal, OK, model, right)
    elif model and right and (verbose or any(found.verdict == PROBLEM for found in wrong)):
        _lines(terminal, f"besides: {right}", "dim")


def _line(terminal: Terminal, verdict: str, check: str, evidence: str) -> None:
    first, *rest = _wrapped(terminal, evidence)
    style = "dim" if verdict in (OK, SKIPPED) else "plain"
    start = (f"{verdict:<{_VERDICT}}", _STYLES[verdict]), (f"{check:<{_CHECK}}", "bold")
    terminal.styled(*start, (first, style))
    for line in rest:
        terminal.styled((" " * (_VERDICT + _CHECK) + line, style))


def _lines(terminal: Terminal, text: str, style: str) -> None:
    for line in _wrapped(terminal, text):
        terminal.styled((" " * (_VERDICT + _CHECK) + line, style))


def _wrapped(terminal: Terminal, text: str) -> list[str]:
    """Break a text into lines that fit the terminal; elsewhere it stays on one, for programs that read lines."""
    if not (width := terminal.width):
        return [text]
    room = max(width - _VERDICT - _CHECK, _LEAST)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def _told(cost: Cost | None) -> dict[str, Any] | None:
    """Spell a cost in JSON: an amount of money is a text, for a number would be rounded."""
    if cost is None:
        return None
    return {"calls": cost.calls, "usd": None if cost.usd is None else str(cost.usd), "unknown": cost.unknown}
