"""`bx models`: what can be called, what it takes and costs, and whether it answers here; and names for models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bx import account, aws, cards
from bx.cards import ABILITIES, Card
from bx.catalogue import Catalogue, sources
from bx.cli import UsageError, naming, place_arguments, telling_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

    from bx.account import Account
    from bx.cli.terminal import Terminal
    from bx.prices import Price

_FORMATS = ("table", "json", "csv")
_ACTIONS = {"set": 3, "unset": 2}  # words
_ANSWERS = {True: "yes", False: "no", None: "?"}
# A table's columns and, smaller first, which of them a narrow terminal has room for.
_COLUMNS = {
    "NAME": 0, "ID": 0, "USD IN/OUT": 1, "JSON": 3, "TOKENS": 4, "TOOLS": 5, "STREAM": 7, "TAKES": 6, "HERE": 2,
}  # fmt: skip
_RIGHT = ("USD IN/OUT", "TOKENS")
_RATES = {
    "input": "in",
    "output": "out",
    "cache_read": "cache read",
    "cache_write_5m": "cache write for 5 minutes",
    "cache_write_1h": "for 1 hour",
}
_LIVE = "bx models --live"
_USAGE = """bx models [OPTIONS] [NAME]
       bx models set NAME ID [--option KEY=VALUE]
       bx models unset NAME"""
_EPILOG = f"""\
examples:
  bx models                                     all that is known, without a network
  bx models --live                              also asks your account, and keeps that for a day
  bx models claude                              all about one
  bx models --can tools,images --max-price 5    those that fit
  bx models set work claude --option geos=eu    a name of your own, in your config.toml
  bx models unset work

--can takes: {", ".join(ABILITIES)}.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = _USAGE
    parser.description = "List the models, their limits and prices, and what your account can call; name models."
    parser.epilog = _EPILOG
    add = parser.add_argument
    words = add("words", nargs="*", metavar="NAME", help="a model: an alias, an id or an ARN; or set, or unset")
    words.completer = _names  # type: ignore[attr-defined] # argcomplete's protocol
    add("--live", action="store_true", help="ask the account, and keep the answer for a day; costs nothing")
    add("--provider", metavar="NAME", help="only models of this provider")
    can = add("--can", metavar="WHAT", help="only models that can do this: tools,json,images, ...")
    can.completer = lambda **_: list(ABILITIES)  # type: ignore[attr-defined]
    add("--max-price", metavar="USD", help="only models of which a million tokens, in or out, costs no more")
    add("--format", choices=_FORMATS, default="table", help="table (the default), json or csv")
    add("--option", dest="entry", action="append", metavar="KEY=VALUE", help=f"with set: {', '.join(naming.KEYS)}")
    place_arguments(parser)
    telling_arguments(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """List models, show one, or name one.

    Raises:
        UsageError: the options do not go together.
        UnknownModel: a name is no model's.
    """
    action = options.words[0] if options.words else ""
    if action in _ACTIONS:
        if len(options.words) != _ACTIONS[action]:
            raise UsageError(f"bx models {action} takes {_ACTIONS[action] - 1} words", "See bx models --help")
        (naming.give if action == "set" else naming.take)(options, terminal)
        return 0
    if len(options.words) > 1 or options.entry:
        raise UsageError("bx models shows one model, or all", "To give one a name: bx models set NAME ID")
    _check(options)
    found = _ask(options, terminal) if options.live else naming.account(options)()
    known = _known(options, found)
    if options.words:
        _one(cards.of(options.words[0], known), options, terminal, found)
    else:
        _all(_filtered(cards.cards(known), options, terminal), options, terminal, found)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse filters that cannot be understood, or do not go together, so that none is ignored."""
    filters = [options.provider, options.can, options.max_price]
    if options.words and any(each is not None for each in filters):
        raise UsageError("--provider, --can and --max-price choose among all models", "Leave out the name")
    options.abilities = [each.strip() for each in (options.can or "").split(",") if each.strip()]
    if unknown := [each for each in options.abilities if each not in ABILITIES]:
        raise UsageError(f"--can does not know {unknown[0]!r}", f"It takes: {', '.join(ABILITIES)}")
    options.most = _decimal(options.max_price)


def _decimal(text: str | None) -> Decimal | None:
    from decimal import Decimal, InvalidOperation

    if text is None:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal(-1)
    if not number.is_finite() or number < 0:
        raise UsageError(f"--max-price is {text!r}", "Give USD per million tokens, such as 5 or 0.50")
    return number


def _known(options: argparse.Namespace, found: Account | None) -> cards.Known:
    from bx import prices

    region = aws.region(vars(options)) or (found.region if found else "")
    catalogue = Catalogue(options.models, options.geo, region=region, account=lambda: found)

    def price(model_id: str) -> Price | None:
        return prices.price(model_id, region=region, overrides=options.prices)

    return cards.Known(catalogue, options.geo, region, found, price)


# ---- asking the account -----------------------------------------------------------------------------------------


def _ask(options: argparse.Namespace, terminal: Terminal) -> Account:
    """Ask the account, tell what failed, and keep the rest."""
    from bx.diagnosis import explain
    from bx.engines.bedrock import user_client

    # The address of the runtime alone says nothing about where the models are listed.
    url = options.endpoint_url if "bedrock-runtime" not in (options.endpoint_url or "") else None
    client = user_client("bedrock", region=options.region, profile=options.profile, endpoint_url=url)
    bases = cards.bases(Catalogue(options.models))
    found = account.ask(client, bases, lambda failure: explain(failure, region=client.meta.region_name).what)
    account.keep(aws.scope(vars(options)), found)
    together: dict[str, list[str]] = {}
    for operation, reason in found.failures.items():
        together.setdefault(operation.partition(" ")[0], []).append(reason)
    for operation, reasons in together.items():
        often = f" {len(reasons)} times, the first time because" if len(reasons) > 1 else ""
        terminal.note(f"{operation} failed{often}: {reasons[0]}")
    return found


# ---- all models ---------------------------------------------------------------------------------------------------


def _filtered(all_cards: list[Card], options: argparse.Namespace, terminal: Terminal) -> list[Card]:
    found = [card for card in all_cards if cards.can(card, options.abilities)]
    if options.provider is not None:
        wanted = options.provider.casefold()
        found = [card for card in found if wanted in card.provider.casefold()]
        if not found and not any(wanted in card.provider.casefold() for card in all_cards):
            providers = dict.fromkeys(card.provider for card in all_cards if card.provider)
            raise UsageError(f"No model is of {options.provider!r}", f"The providers are: {', '.join(providers)}")
    if options.most is not None:
        dearest = [(card, cards.dearest(card)) for card in found]
        found = [card for card, price in dearest if price is not None and price <= options.most]
        if unknown := sum(price is None for _, price in dearest):
            terminal.note(f"{unknown} more may fit: their prices are not known")
    return found


def _all(found: list[Card], options: argparse.Namespace, terminal: Terminal, known: Account | None) -> None:
    if options.format == "json":
        terminal.line(_json([cards.plain(card) for card in found]))
    elif options.format == "csv":
        _csv(found, terminal)
    else:
        _table([_row(card) for card in found], terminal)
        if not found:
            terminal.note("no model fits")
        elif known is None and any(card.here is None for card in found):
            terminal.note("?: your account was not asked", _LIVE)
        if any(card.price is None for card in found) and not aws.region(vars(options)):
            terminal.note("some prices depend on the region, and none is set", "bx models --region us-east-1")


def _row(card: Card) -> dict[str, str]:
    return {
        "NAME": card.name,
        "ID": card.id,
        "USD IN/OUT": f"{_usd(card.price.input)}/{_usd(card.price.output)}" if card.price else "unknown",
        "JSON": card.structured or "-",
        "TOKENS": f"{_short(card.context)}/{_short(card.max_output)}",
        "TOOLS": _tools(card),
        "STREAM": _ANSWERS[card.streaming],
        "TAKES": " ".join(kind.lower() for kind in card.input),
        "HERE": _answers(card),
    }


def _table(rows: list[dict[str, str]], terminal: Terminal) -> None:
    shown = [*_COLUMNS]
    lines = _lined(shown, rows)
    while terminal.width and max(map(len, lines)) > terminal.width and any(_COLUMNS[name] for name in shown):
        shown.remove(max(shown, key=_COLUMNS.__getitem__))
        lines = _lined(shown, rows)
    for line in lines:
        terminal.line(line)
    if left := [name for name in _COLUMNS if name not in shown]:
        terminal.note(f"left out for want of room: {', '.join(left)}", "bx models NAME, or a wider window")


def _lined(shown: Sequence[str], rows: list[dict[str, str]]) -> list[str]:
    from bx.cli.table import table

    numbers = [shown.index(name) for name in _RIGHT if name in shown]
    return table([shown, *([row[name] for name in shown] for row in rows)], numbers)


def _csv(found: Sequence[Card], terminal: Terminal) -> None:
    import csv
    import io

    rows = [_flat(cards.plain(card)) for card in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, _flat(cards.plain(Card("", "", "", "", ""))).keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    terminal.answer(text.getvalue())


def _flat(card: dict[str, Any]) -> dict[str, Any]:
    """Make a row of a card: lists in one cell, prices in one each, truth in JSON's words."""
    price = {f"price_{name}": value for name, value in card.pop("price").items()}
    return {
        name: " ".join(value) if isinstance(value, tuple) else json.dumps(value) if isinstance(value, bool) else value
        for name, value in {**card, **price}.items()
    }


# ---- one model ----------------------------------------------------------------------------------------------------


def _one(card: Card, options: argparse.Namespace, terminal: Terminal, known: Account | None) -> None:
    if options.format == "json":
        terminal.line(_json({**cards.plain(card), "sources": _sources(card, known)}))
        return
    if options.format == "csv":
        _csv([card], terminal)
        return
    title = " - ".join(part for part in (card.name or card.base, card.title, card.provider) if part)
    terminal.line(title)
    lines = [*_lines(card), *((f"source: {name}", told) for name, told in _sources(card, known).items())]
    width = max(len(name) for name, _ in lines)
    for name, told in lines:
        terminal.line(f"  {name:<{width}}  {told}")
    if card.remark:
        terminal.note(card.remark)


def _lines(card: Card) -> Iterable[tuple[str, str]]:
    yield "sent as", card.id
    if card.profiles:
        yield "profiles", ", ".join(card.profiles)
    yield "tokens", f"{_long(card.context)}, of which an answer may have {_long(card.max_output)}"
    taken = [kind.lower() for kind in card.input] + ["documents"] * bool(card.documents)
    yield "takes", ", ".join(taken) or "unknown"
    yield "gives", ", ".join(kind.lower() for kind in card.output) or "unknown"
    if not card.converse:
        yield "Converse", "no: bx cannot ask it"
    elif card.structured:
        held = "a grammar holds the answer to a schema" if card.enforced else "the answer is checked against a schema"
        yield "JSON", f"{card.structured}: {held}"
    yield "tools", _tools(card)
    yield "stream", _ANSWERS[card.streaming]
    yield "prompt cache", _ANSWERS[card.cache]
    yield "price", _priced(card.price)
    life = [card.lifecycle or "unknown", card.released and f"released {card.released}"]
    yield "life", ", ".join(filter(None, [*life, card.end_of_life and f"ends {card.end_of_life}"]))
    yield "answers here", f"{_ANSWERS[card.here]}{f' ({card.why})' if card.why else ''}"


def _priced(price: Price | None) -> str:
    """Write a price in words; what is not known is said to be so."""
    if price is None:
        return "unknown"
    if not any(price[: len(_RATES)]):
        return "none: it costs what your machine does"
    rates = [f"{_usd(getattr(price, name))} {words}" for name, words in _RATES.items()]
    return f"{', '.join(rates)}; USD per million tokens"


def _sources(card: Card, known: Account | None) -> dict[str, str]:
    """Say where what is told of a model comes from, and of when it is."""
    if card.provider in ("local", "echo"):
        return {"models": "this machine"}
    from bx import prices

    told = sources()
    if card.price:
        since = f", in force since {card.price.since}" if card.price.since else ""
        dated = f", compared on {prices.updated()}" if card.price.source == "prices.toml" else ""
        told["price"] = f"{card.price.source}{dated}{since}"
    if known:
        from datetime import datetime

        asked = datetime.fromtimestamp(known.at).astimezone().isoformat(sep=" ", timespec="minutes")
        told["account"] = f"Amazon Bedrock in {known.region}, {asked}"
    return told


def _answers(card: Card) -> str:
    """Say in a word whether a model answers here, or what makes that doubtful."""
    if card.here is None and card.end_of_life and card.end_of_life <= account.today():
        return "ended"
    if card.here is None and card.lifecycle == "LEGACY":
        return "legacy"
    return cards.LISTED if card.here is None and card.why == cards.LISTED else _ANSWERS[card.here]


def _tools(card: Card) -> str:
    return "unary" if card.tools and not card.tools_stream else _ANSWERS[card.tools]


def _usd(rate: Decimal | None) -> str:
    if rate is None:
        return "unknown"
    return f"{rate:.2f}" if rate == round(rate, 2) else f"{rate.normalize():f}"


def _long(tokens: int | None) -> str:
    return f"{tokens:,}" if tokens else "unknown"


def _short(tokens: int | None) -> str:
    """Write a number of tokens as the field does: 1M, 200K."""
    if not tokens:
        return "?"
    million, thousand = 1_000_000, 1000
    return f"{tokens / million:.3g}M" if tokens >= million else f"{round(tokens / thousand)}K"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _names(**_: object) -> list[str]:
    """Name the models for the shell's completion."""
    from bx.cli.ask import model_names

    return [*_ACTIONS, *model_names()]
