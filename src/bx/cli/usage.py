"""`bx usage`: what was used and what it cost, from the ledger."""

from __future__ import annotations

import json
import os
import time
from datetime import date
from typing import TYPE_CHECKING, Any

from bx import prices
from bx.cli import UsageError, telling_arguments
from bx.cli.table import bars, fits, table
from bx.ledger import report, sheet

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    from bx.cli.terminal import Terminal
    from bx.ledger.report import Key, Sum
    from bx.ledger.store import Store

_EPILOG = """\
examples:
  bx usage                                  today, this week and this month
  bx usage --by model                       this month, the dearest model first
  bx usage --by day --since 30d --plot      a bar for each of the last 30 days
  bx usage --by tag,model --format csv      for a spreadsheet
  bx usage --since 2026-10-01 --until 2026-10-31 --html october.html
  bx usage export calls.csv                 every call with its cost
  bx usage prune --keep 90d                 forget older calls

Costs are estimates in USD, from the tokens of each call and public prices. What is not known is said, never counted
as 0. Days and months are those of the local time zone.
"""
_ACTIONS = ("export", "prune")
_TITLES = {"today": "Today", "week": "This week", "month": "This month"}
_HEAD = {"model": "MODEL", "day": "DAY", "month": "MONTH", "tag": "TAG", "region": "REGION", "source": "SOURCE"}
_COLUMNS: dict[str, Callable[[Sum], int]] = {
    "CALLS": lambda found: found.calls,
    "FAILED": lambda found: found.failed,
    "INPUT": lambda found: found.input_tokens,
    "OUTPUT": lambda found: found.output_tokens,
    "CACHED": lambda found: found.cache_read_tokens + found.cache_write_tokens,
}
_ALWAYS = ("CALLS", "INPUT", "OUTPUT")  # columns that are shown even where all is 0
_DISPENSABLE = ("FAILED", "CACHED")  # columns that are left out where there is no room
_READABLE = 20  # columns of a text
_PERIODS = ("period",)
_FORMATS = ("table", "json", "csv")
_MOST_NAMED = 3  # models in one note


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Show what was used and what it cost."
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("action", nargs="?", metavar="export|prune", help="write every call as CSV; or forget old calls")
    add("file", nargs="?", metavar="FILE", help="where export writes (default: stdout)")
    add("--by", metavar="NAMES", help=f"what to tell apart, with commas: {', '.join(report.GROUPS)}")
    add("--since", metavar="DAY", help="from when: 2026-11-01, 7d, today, week, month or all (default: this month)")
    add("--until", metavar="DAY", help="the last day")
    add("--format", choices=_FORMATS, metavar="table|json|csv", help="how to print it (default: table)")
    add("--plot", action="store_true", help="draw the cost as bars")
    add("--html", metavar="FILE", help="write a page with charts, for people who do not use a terminal")
    add("--before", metavar="DAY", help="prune: forget the calls before this day")
    add("--keep", metavar="DAYS", help="prune: forget the calls before these days: 90d")
    add("-y", "--yes", action="store_true", default=None, help="prune without a question")
    add("--ledger", metavar="FILE", help="the file of another ledger")
    telling_arguments(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Show, export or forget calls.

    Raises:
        UsageError: the options do not go together.
        ValueError: the ledger, a period or a price of the user's cannot be used; the exception says what to do.
    """
    from bx import config
    from bx.ledger.store import Store

    _check_options(options)
    prices.check(options.prices or {})
    path = config.ledger(vars(options))
    if path is None:
        raise UsageError("No ledger is kept", 'Remove ledger = "off" from config.toml, or unset BX_LEDGER')
    if not path.exists():
        terminal.note(f"no call has been counted yet in {path}")
    store = Store(path)
    if options.action == "prune":
        return _prune(store, options, terminal)
    if options.action == "export":
        return _export(store, options, terminal)
    return _show(store, options, terminal)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    if options.action not in (None, *_ACTIONS):
        raise UsageError(f"bx usage {options.action}: there is no such action", "bx usage export, or bx usage prune")
    if options.file is not None and options.action != "export":
        raise UsageError(f"{options.file} has no meaning here", "A file goes with bx usage export FILE")
    given = {name for name in ("by", "format", "html", "since", "until", "before", "keep") if getattr(options, name)}
    given |= {"plot"} if options.plot else set()
    fitting = {"export": {"since", "until"}, "prune": {"before", "keep"}}.get(
        options.action, {"by", "format", "html", "since", "until", "plot"}
    )
    if extra := sorted(given - fitting):
        command = f"bx usage {options.action or ''}".strip()
        raise UsageError(f"--{extra[0]} has no effect with {command}", "Leave it out")
    shown = sorted(given & {"format", "html", "plot"})
    if len(shown) > 1:
        raise UsageError(f"--{shown[0]} and --{shown[1]} exclude each other", "Choose one")
    if options.html and options.by:
        raise UsageError("--by has no effect with --html", "Leave it out: the page tells everything apart")


# ---- showing ----------------------------------------------------------------------------------------------------


def _show(store: Store, options: argparse.Namespace, terminal: Terminal) -> int:
    now, pricing = time.time(), _Pricing(options.prices or {})
    if options.html:
        _page(store, options, terminal, pricing)
    elif options.by or options.since or options.until or options.plot:
        names = _names(options.by or ("day" if options.plot else "model"))
        rows = store.rows(*_time(options, now))
        (sums,) = report.gather(rows, [names], pricing.cost)
        _print(names, sums, options, terminal)
    else:
        starts = report.periods(now)
        sums = report.since(store.rows(min(starts.values())), starts, pricing.cost)
        _print(_PERIODS, sums, options, terminal)
    pricing.tell(terminal)
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in report.GROUPS:
            raise UsageError(f"--by {name}: there is nothing of that name", f"Use: {', '.join(report.GROUPS)}")
    return list(dict.fromkeys(names))


def _time(options: argparse.Namespace, now: float) -> tuple[float, float | None]:
    """Return from when and until when is asked, in Unix seconds; None is no end."""
    since = report.begin(options.since or "month", now)
    until = report.end(options.until, now) if options.until else None
    if until is not None and until <= since:
        raise UsageError(f"--until {options.until} is before the beginning", "Add --since with an earlier day")
    return since, until


def _print(names: Sequence[str], sums: Mapping[Key, Sum], options: argparse.Namespace, terminal: Terminal) -> None:
    if options.format == "json":
        terminal.line(json.dumps(_as_json(names, sums, options), indent=2, ensure_ascii=False))
    elif options.format == "csv":
        for line in sheet.sums(names, sums):
            terminal.answer(line)
    else:
        lines = _bars(names, sums, terminal.width) if options.plot else _table(names, sums, options, terminal.width)
        for line in lines:
            terminal.line(line)


def _as_json(names: Sequence[str], sums: Mapping[Key, Sum], options: argparse.Namespace) -> dict[str, Any]:
    groups = [{**dict(zip(names, key, strict=True)), **sheet.record(each)} for key, each in sums.items()]
    for group in groups:
        group["cost"] = None if group["cost"] is None else float(group["cost"])
    told: dict[str, Any] = {"currency": "USD", "by": list(names)}
    now = time.time()
    if tuple(names) == _PERIODS:
        for group, start in zip(groups, report.periods(now).values(), strict=True):
            group["since"] = sheet.stamp(start)
    else:
        since, until = _time(options, now)
        told |= {"since": sheet.stamp(since), "until": None if until is None else sheet.stamp(until)}
    return {**told, "groups": groups}


def _table(names: Sequence[str], sums: Mapping[Key, Sum], options: argparse.Namespace, width: int) -> list[str]:
    """Lay sums out; on a narrow terminal with rounder numbers, and then without the columns of less weight."""
    shown, total, digits = dict(sums), report.total(sums.values()), report.digits(sums.values())
    if tuple(names) != _PERIODS:
        shown["TOTAL", *[""] * (len(names) - 1)] = total
    columns = [name for name in _COLUMNS if name in _ALWAYS or _COLUMNS[name](total)]
    lines: list[str] = []
    for count, fewer in ((_exact, 0), (_short, 0), (_short, 1), (_short, 2)):
        rest = [name for name in columns if name not in _DISPENSABLE[:fewer]]
        rows = [[*(_HEAD.get(name, "") for name in names), *rest, "COST"]]
        rows += [
            [*map(_label, key), *(count(_COLUMNS[name](each)) for name in rest), report.spent(each, digits)]
            for key, each in shown.items()
        ]
        numbers = range(len(names), len(rows[0]))
        lines = table(rows, numbers, width, _READABLE)
        if fits(lines, width):
            break
    else:
        lines = table(rows, numbers, width)
    return lines if tuple(names) == _PERIODS else [_title(options), *lines]


def _title(options: argparse.Namespace) -> str:
    since, until = _time(options, time.time())
    begun = "All calls" if options.since == "all" else f"Since {report.day_of(since)}"
    return begun if until is None else f"{begun}, until {report.day_of(until - 1)}"


def _bars(names: Sequence[str], sums: Mapping[Key, Sum], width: int) -> list[str]:
    shown = report.days(sums) if list(names) == ["day"] else sums
    digits = report.digits(shown.values())
    rows = [
        ("  ".join(map(_label, key)), float(each.cost), report.spent(each, digits) if each.calls else "")
        for key, each in shown.items()
    ]
    return [*bars(rows, width), f"TOTAL: {report.spent(report.total(sums.values()), digits)}"]


def _label(value: str | None) -> str:
    return "-" if value is None else _TITLES.get(value, value)


def _exact(count: int) -> str:
    return f"{count:,}"


def _short(count: int) -> str:
    """Write a number that need not be exact: 12.3M."""
    for unit, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{sign}"
    return str(count)


def _page(store: Store, options: argparse.Namespace, terminal: Terminal, pricing: _Pricing) -> None:
    from bx import __version__, usage_page

    now = time.time()
    since, until = _time(options, now)
    gathered = report.gather(store.rows(since, until), usage_page.GROUPINGS, pricing.cost)
    days = [date.fromisoformat(str(day)) for (day,) in gathered[0]]
    first = min(days, default=report.day_of(now)) if options.since == "all" else report.day_of(since)
    last = report.day_of(now if until is None else min(until - 1, now))
    about = usage_page.About(first, last, report.day_of(now), __version__, prices.updated())
    _write([usage_page.page(gathered, about)], options.html, terminal)


# ---- export and prune -------------------------------------------------------------------------------------------


def _export(store: Store, options: argparse.Namespace, terminal: Terminal) -> int:
    pricing = _Pricing(options.prices or {})
    since, until = _time(options, time.time()) if options.since or options.until else (0.0, None)
    _write(sheet.calls(store.rows(since, until), pricing.cost), options.file or "-", terminal)
    pricing.tell(terminal)
    return 0


def _prune(store: Store, options: argparse.Namespace, terminal: Terminal) -> int:
    if (options.before is None) == (options.keep is None):
        raise UsageError("Say which calls to forget", "bx usage prune --keep 90d, or --before 2026-01-01")
    before = report.begin(options.before or options.keep, time.time())
    count = sum(1 for _ in store.rows(0, before))
    what = f"{count:,} call{'' if count == 1 else 's'} from before {report.day_of(before)}"
    if not count:
        terminal.note(f"there are no calls from before {report.day_of(before)}")
        return 0
    if not options.yes:
        if not terminal.interactive:
            raise UsageError(f"{what} would be forgotten", "Add --yes to agree")
        if not terminal.confirm(f"Forget {what}? This cannot be undone.", default=False):
            terminal.note("nothing was forgotten")
            return 0
    gone = store.prune(before)
    terminal.note("1 call was forgotten" if gone == 1 else f"{gone:,} calls were forgotten")
    return 0


def _write(pieces: Iterable[str], file: str, terminal: Terminal) -> None:
    """Write to stdout, or to a file that only the user can read."""
    if file == "-":
        for piece in pieces:
            terminal.answer(piece)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as written:  # noqa: PTH123 # a descriptor has no path
            written.writelines(pieces)
    except OSError as cause:
        raise UsageError(f"{file} cannot be written: {cause.strerror}", "Choose another file") from None
    terminal.note(f"{file} was written")


class _Pricing:
    """Prices calls, and remembers why some have no price.

    Args:
        overrides: the setting `prices`.
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, Any]]) -> None:
        self._overrides = overrides
        self._broken = 0
        self._models: dict[str, int] = {}

    def cost(self, row: Mapping[str, Any]) -> Decimal | None:
        """Price a call."""
        cost = prices.cost(row, self._overrides)
        if cost is None and report.incomplete(row):
            self._broken += 1
        elif cost is None:
            model = row.get("model_id") or "no model"
            self._models[model] = self._models.get(model, 0) + 1
        return cost

    def tell(self, terminal: Terminal) -> None:
        """Say what is missing in the sums, and what would help."""
        if self._models:
            names = sorted(self._models, key=lambda name: -self._models[name])
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            fix = (
                f'To name one, write in config.toml: [prices."{names[0]}"] and below it input = ... and output = ...'
            )
            terminal.note(f"there is no price for all calls of {', '.join(names[:_MOST_NAMED])}{more}", fix)
        if self._broken:
            calls = "1 call" if self._broken == 1 else f"{self._broken:,} calls"
            terminal.note(f"what {calls} cost is not known: no tokens were told before the end")
