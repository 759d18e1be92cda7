"""The usage as one page of HTML for those who pay the bill. It needs nothing else: no script, no font, no network."""

from __future__ import annotations

import math
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from bx.ledger import report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from bx.ledger.report import Key, Sum

GROUPINGS: tuple[tuple[str, ...], ...] = (("day",), ("model",), ("tag",), ("region",), ("source",))
_WIDTH = 900  # of the charts, in pixels of their own
_MOST_DAYS = 92  # bars; a longer time is shown by month
_MOST_BARS = 12
_NAMES = {
    "day": "Day",
    "month": "Month",
    "model": "Model",
    "tag": "Project",
    "region": "Region",
    "source": "Asked from",
}
_SOURCES = {"cli": "terminal", "python": "Python program", "serve": "bx serve"}
_HEAD = ("Calls", "Tokens in", "Tokens out", "Cache read", "Cache written", "Cost")
_NOTICE = """\
<p class="notice"><strong>At least {cost}:</strong> the cost of {calls} is not known, because the price of a model is
not, or because an answer broke off. It is not in the sums, which therefore say "at least".</p>"""
_DOT = '<svg class="dot" viewBox="0 0 8 8" aria-hidden="true"><circle class="part" cx="4" cy="4" r="3"/></svg>'


class About(NamedTuple):
    """What a page says of itself: the days it covers, when it was made, and by which version with which prices."""

    first: date
    last: date
    made: date
    version: str
    priced: date


def page(gathered: Sequence[Mapping[Key, Sum]], about: About) -> str:
    """Return the page.

    Args:
        gathered: the sums for each of `GROUPINGS`.
        about: what the page says of itself.
    """
    from pathlib import Path
    from string import Template

    sums = {names[0]: each for names, each in zip(GROUPINGS, gathered, strict=True)}
    total = report.total(sums["day"].values())
    notice = _NOTICE.format(
        cost=report.money(total.cost, _digits(sums["day"])), calls=_counted(total.unpriced, "call")
    )
    method = (
        "An estimate from the tokens that Amazon Bedrock has told for each call and its public prices as of "
        f"{about.priced}: cache reads and writes, service tiers and the surcharge of regional profiles are in it."
    )
    template = Template(Path(__file__).with_name("usage_page.html").read_text("utf-8"))
    return template.substitute(
        title="Use of language models",
        period=f"{_written(about.first)} to {_written(about.last)}",
        figures=_figures(total),
        notice=notice if total.unpriced else "",
        sections="\n".join(_sections(sums)),
        method=method,
        version=escape(about.version),
        made=_written(about.made),
    )


# ---- sections ---------------------------------------------------------------------------------------------------


def _sections(sums: Mapping[str, Mapping[Key, Sum]]) -> list[str]:
    days = report.days(sums["day"])
    if not days:
        return ["<p>There were no calls in this time.</p>"]
    name = "day"
    if len(days) > _MOST_DAYS:
        name, days = "month", report.months(days)
    found = [_section(f"Cost by {name}", _columns(days)), _section("Cost by model", _rows(sums["model"]))]
    found.append(_section("Models", _table("model", sums["model"])))
    found += [
        _section(title, _table(other, sums[other]))
        for other, title in (("tag", "Projects"), ("region", "Regions"), ("source", "Where it was asked from"))
        if any(key != (None,) for key in sums[other])
    ]
    known = {key: each for key, each in days.items() if each.calls}
    found.append(_section(f"Every {name}", _table(name, known), long=True))
    return found


def _section(title: str, body: str, *, long: bool = False) -> str:
    kind = ' class="long"' if long else ""
    return f"<section{kind}>\n<h2>{title}</h2>\n{body}\n</section>"


def _figures(total: Sum) -> str:
    figures = {
        "Cost": report.spent(total, 2 if total.cost >= 1 else 4),
        "Calls": f"{total.calls:,}",
        "Tokens in": f"{total.input_tokens:,}",
        "Tokens out": f"{total.output_tokens:,}",
    }
    if cached := total.cache_read_tokens + total.cache_write_tokens:
        figures["Tokens read from or written to a cache"] = f"{cached:,}"
    if total.failed:
        figures["Calls without a whole answer"] = f"{total.failed:,}"
    return "\n".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())


def _table(name: str, sums: Mapping[Key, Sum]) -> str:
    digits = _digits(sums)
    head = "".join(f'<th scope="col">{title}</th>' for title in (_NAMES[name], *_HEAD))
    body = "\n".join(_line(_label(name, key), each, digits) for key, each in sums.items())
    foot = _line("Total", report.total(sums.values()), digits)
    return (
        f'<div class="scroll"><table id="by-{name}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        f"<tfoot>{foot}</tfoot>\n</table></div>"
    )


def _line(label: str, found: Sum, digits: int) -> str:
    counts = (found.calls, *found[2:6])  # all but `failed`
    cells = [escape(label), *(f"{count:,}" for count in counts), escape(report.spent(found, digits))]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _label(name: str, key: Key) -> str:
    value = key[0]
    if name == "source":
        return _SOURCES.get(value or "", value or "not known")
    return value or ("none" if name == "tag" else "not known")


# ---- charts -----------------------------------------------------------------------------------------------------


def _columns(sums: Mapping[Key, Sum]) -> str:
    """Draw upright bars, one for each day or month."""
    left, top, height, bottom = 64, 12, 200, 40
    top_value = _ceiling(max(each.cost for each in sums.values()))
    digits = 2 if top_value >= 1 else 4
    step = (_WIDTH - left) / len(sums)
    wide = min(max(step * 0.72, 1.0), 48.0)
    parts = []
    for share in (0, 1, 2):
        y = top + height - height * share / 2
        parts.append(f'<line x1="{left}" x2="{_WIDTH}" y1="{y:g}" y2="{y:g}"/>')
        amount = f"${top_value * share / 2:,.{digits}f}"
        parts.append(f'<text x="{left - 8}" y="{y + 4:g}" text-anchor="end">{amount}</text>')
    every = max(math.ceil(len(sums) / 10), 1)
    for number, (key, each) in enumerate(sums.items()):
        middle = left + step * (number + 0.5)
        tall = float(each.cost / top_value) * height
        about = f"<title>{key[0]}: {escape(report.spent(each))}, {_counted(each.calls, 'call')}</title>"
        shape = f'x="{middle - wide / 2:.2f}" y="{top + height - tall:.2f}" width="{wide:.2f}" height="{tall:.2f}"'
        parts.append(f'<rect class="bar" {shape}>{about}</rect>')
        if each.unpriced:
            parts.append(f'<circle class="part" cx="{middle:.2f}" cy="{top + height + 7}" r="3">{about}</circle>')
        if number % every == 0:
            y = top + height + 26
            parts.append(f'<text x="{middle:.2f}" y="{y}" text-anchor="middle">{key[0]}</text>')
    return _svg("Cost over time", top + height + bottom, parts) + _legend(sums)


def _rows(sums: Mapping[Key, Sum]) -> str:
    """Draw lying bars, one for each model, the dearest first."""
    shown = dict(list(sums.items())[:_MOST_BARS])
    others = list(sums.values())[_MOST_BARS:]
    if others:
        shown[f"{len(others)} others",] = report.total(others)
    line, left, right = 30, 340, 150
    most = max(each.cost for each in shown.values())
    digits = _digits(shown)
    parts = []
    for number, (key, each) in enumerate(shown.items()):
        y = number * line
        wide = float(each.cost / most) * (_WIDTH - left - right) if most else 0.0
        wide = max(wide, 1.0) if each.cost else 0.0
        label, name = _label("model", key), _shortened(_label("model", key))
        parts.append(f'<text class="name" x="0" y="{y + 20}">{escape(name)}<title>{escape(label)}</title></text>')
        parts.append(f'<rect class="bar" x="{left}" y="{y + 6}" width="{wide:.2f}" height="18"/>')
        spent = escape(report.spent(each, digits))
        parts.append(f'<text class="value" x="{left + wide + 8:.2f}" y="{y + 20}">{spent}</text>')
    return _svg("Cost by model", len(shown) * line, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    chart = f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{title}">\n{inside}\n</svg>'
    return f'<div class="scroll">{chart}</div>'


def _legend(sums: Mapping[Key, Sum]) -> str:
    if not any(each.unpriced for each in sums.values()):
        return ""
    return f'\n<p class="soft">{_DOT} The cost of some calls is not known: it was at least this.</p>'


def _digits(sums: Mapping[Key, Sum]) -> int:
    """Return how many decimals there are: an invoice has two, where that is not next to nothing."""
    return 2 if report.total(sums.values()).cost >= 1 else 4


def _ceiling(amount: Decimal) -> Decimal:
    """Return a round amount that is not smaller, for the top of a scale."""
    if not amount:
        return Decimal(1)
    unit = Decimal(1).scaleb(amount.adjusted())
    return next(unit * step for step in (1, 2, 4, 6, 8, 10) if unit * step >= amount)


def _shortened(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _written(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
