"""Model cards: all that is known of a model, put together from the catalogue, the facts, the prices and the account.

Nothing is sent here, and nothing is guessed: what is not known is None. This module knows no engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bx import capabilities, foundation
from bx.account import APPLICATION, profiles, remark
from bx.catalogue import DEFAULT_GEO, Catalogue, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from decimal import Decimal

    from bx.account import Account, Profile
    from bx.prices import Price

LISTED = "listed"  # in the region; whether the account has access was not asked
_NOT_ASKED = "not asked"
# What --can asks for, and what that is.
ABILITIES: dict[str, Callable[[Card], bool]] = {
    "tools": lambda card: bool(card.tools),
    "json": lambda card: card.enforced,
    "stream": lambda card: bool(card.streaming),
    "images": lambda card: "IMAGE" in card.input,
    "video": lambda card: "VIDEO" in card.input,
    "audio": lambda card: "AUDIO" in card.input,
    "documents": lambda card: bool(card.documents),
    "cache": lambda card: bool(card.cache),
    "converse": lambda card: card.converse,
}


class Card(NamedTuple):
    """What is known of a model; None is not known.

    `name` is the alias, where it has one, and `id` what is sent. `context` and `max_output` are in tokens, `price` in
    USD per million tokens. `structured` is where the ladder of structured output begins, `enforced` whether a grammar
    holds the model to a schema. `here` is whether it answers, `why` says more, `remark` what speaks against it.
    """

    name: str
    id: str
    base: str
    title: str
    provider: str
    profiles: tuple[str, ...] = ()
    context: int | None = None
    max_output: int | None = None
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    documents: bool | None = None
    structured: str = ""
    enforced: bool = False
    tools: bool | None = None
    tools_stream: bool | None = None
    streaming: bool | None = None
    cache: bool | None = None
    converse: bool = True
    lifecycle: str | None = None
    end_of_life: str | None = None
    released: str | None = None
    price: Price | None = None
    here: bool | None = None
    why: str = ""
    remark: str = ""


class Known(NamedTuple):
    """Where cards come from: the names, the region that is called, the account where it was asked, the prices."""

    catalogue: Catalogue
    geo: str | None = None
    region: str = ""
    account: Account | None = None
    price: Callable[[str], Price | None] = lambda _: None


def cards(known: Known) -> list[Card]:
    """Make the cards of all models: those with a name first, then those without, then the account's own profiles."""
    named = [of(name, known) for name in known.catalogue.models]
    bases = {card.base for card in named}
    listed = known.account.models if known.account else {}
    others = dict.fromkeys([*(model.id for model in foundation.models()), *listed])
    own = [each for each in (known.account.profiles if known.account else {}).values() if each.type == APPLICATION]
    return [
        *named,
        *(_of_base(base, known) for base in others if base not in bases),
        *(_of_profile(profile, known) for profile in own),
    ]


def of(name: str, known: Known) -> Card:
    """Make the card of a model, by any name that can be sent.

    Raises:
        UnknownModel: the name can be no model's.
    """
    entry = known.catalogue.models.get(name)
    if entry is None:
        return _of_base(name, known) if _is_base(name) else _of_id(known.catalogue.resolve(name).id, known)
    try:
        sent = known.catalogue.resolve(name).id
    except UnknownModel as failure:
        card = _of_id(entry["id"], known)
        return card._replace(name=name, here=False, why=str(failure))
    card = _of_id(sent, known)
    return card._replace(name=name, title=card.title or entry.get("note", ""))


def can(card: Card, abilities: Iterable[str]) -> bool:
    """Whether a model has all of some abilities, by the names in `ABILITIES`."""
    return all(ABILITIES[each](card) for each in abilities)


def dearest(card: Card) -> Decimal | None:
    """Return the higher of a model's prices for tokens in and out; None where it is not known."""
    if card.price is None:
        return None
    rates = [card.price.input, *([card.price.output] if "TEXT" in card.output else [])]
    known = [rate for rate in rates if rate is not None]
    return max(known) if len(known) == len(rates) else None


def plain(card: Card) -> dict[str, Any]:
    """Return a card as JSON can have it; prices are numbers."""
    price = card.price._asdict() if card.price else {}
    rates = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    return {
        **card._asdict(),
        "price": {name: None if price.get(name) is None else float(price[name]) for name in rates},
        "price_since": str(price["since"]) if price.get("since") else None,
        "price_source": price.get("source"),
    }


def _is_base(name: str) -> bool:
    named = foundation.name(name)
    return named is not None and named.kind == foundation.FOUNDATION_MODEL and not name.startswith("arn:")


def _of_base(base: str, known: Known) -> Card:
    """Make the card of a base id, with the profile that it needs, if it needs one."""
    sent = known.catalogue.resolve(base).id if known.geo is None else base
    if sent == base and not _on_demand(base, known):
        sent = _preferred(profiles(base, known.region, known.account), known.geo) or base
    return _of_id(sent, known)


def _on_demand(base: str, known: Known) -> bool:
    listed = known.account.models.get(base) if known.account else None
    if listed:
        return "ON_DEMAND" in listed.types
    model = foundation.find(base)
    return model is None or not model.listed or foundation.on_demand(model, known.region)


def _preferred(found: list[str], geo: str | None) -> str:
    wanted = geo or DEFAULT_GEO
    return next((each for each in found if each.startswith(f"{wanted}.")), "" if geo or not found else found[0])


def _of_id(sent: str, known: Known) -> Card:
    scheme = sent.partition(":")[0]
    if scheme in ("local", "echo"):
        return _of_this_machine(sent, scheme, known)
    card = _of_facts(sent, known)
    here, why = _here(sent, card.base, known.account)
    told = remark(sent, known.region, known.account)
    return card._replace(here=here, why=why, remark=told, price=known.price(sent))


def _of_facts(sent: str, known: Known) -> Card:
    """Make a card of the facts about a model of Amazon Bedrock; what the account says of it holds."""
    named, model, plan = foundation.name(sent), foundation.find(sent), capabilities.plan(sent)
    base = named.base if named else sent
    listed = known.account.models.get(base) if known.account else None
    card = Card("", sent, base or sent, "", "", structured=plan.rung, enforced=plan.enforced)
    card = card._replace(profiles=tuple(profiles(base, known.region, known.account)) if base else ())
    if model:
        card = card._replace(
            title=model.name,
            provider=model.provider,
            context=model.context or None,
            max_output=model.max_output or None,
            input=model.input,
            output=model.output,
            documents=model.documents and model.converse,
            tools=model.tools and model.converse,
            tools_stream=model.tools and model.tools_stream and model.converse,
            streaming=model.streaming,
            cache=model.cache_minimum > 0 and model.converse,
            converse=model.converse,
            lifecycle=model.lifecycle,
            end_of_life=str(model.end_of_life) if model.end_of_life else None,
            released=str(model.released) if model.released else None,
        )
        if not model.converse:
            card = card._replace(structured="", enforced=False)
    if listed:
        card = card._replace(
            title=listed.name or card.title,
            provider=listed.provider or card.provider,
            input=listed.input or card.input,
            output=listed.output or card.output,
            streaming=listed.streaming,
            lifecycle=listed.lifecycle or card.lifecycle,
            end_of_life=listed.end_of_life or card.end_of_life,
        )
    return card


def _of_profile(profile: Profile, known: Known) -> Card:
    """Make the card of an application's own inference profile: the model's, called through the profile."""
    base = next(iter(profile.models), "")
    card = _of_facts(base, known) if base else Card("", profile.sent, "", "", "")
    return card._replace(
        id=profile.sent, title=profile.name, here=None, why=LISTED, price=known.price(profile.sent), profiles=()
    )


def _of_this_machine(sent: str, scheme: str, known: Known) -> Card:
    plan = capabilities.plan(sent)
    card = Card(
        "", sent, sent, "", scheme, input=("TEXT",), output=("TEXT",), documents=False,
        structured=plan.rung, enforced=plan.enforced, tools=scheme == "local", tools_stream=scheme == "local",
        streaming=True, cache=False, lifecycle="ACTIVE", price=known.price(sent),
    )  # fmt: skip
    if scheme == "echo":
        return card._replace(title="Echo", here=True)
    here, why = _weights(sent.partition(":")[2])
    return card._replace(here=here, why=why)


def _weights(name: str) -> tuple[bool, str]:
    """Tell whether the file of an embedded model is on this machine, and what runs it."""
    from importlib.util import find_spec
    from pathlib import Path

    from bx import weights

    if find_spec("xllamacpp") is None:
        return False, "the extra bedrock-bx[local] is not installed"
    try:
        return True, str(weights.find(str(Path(name).expanduser()) if name else weights.DEFAULT))
    except weights.WeightsError as failure:
        return False, f"not fetched: {failure.fix}" if failure.name else str(failure)


def _here(sent: str, base: str, account: Account | None) -> tuple[bool | None, str]:
    """Tell whether the account can call a model, as far as it was asked."""
    if account is None:
        return None, _NOT_ASKED
    found = {each.sent for each in account.profiles.values()} | {*account.profiles}
    if sent not in found and sent.rpartition("/")[2] not in found:
        if base not in account.models:
            return (None, _NOT_ASKED) if not account.models else (False, f"not listed in {account.region}")
        if sent == base and "ON_DEMAND" not in account.models[base].types:
            return False, "through an inference profile only"
        if sent != base and found and not sent.startswith("arn:"):
            return False, f"no such profile in {account.region}"
    obstacle = account.availability.get(base)
    return (None, LISTED) if obstacle is None else (not obstacle, obstacle)


def bases(catalogue: Catalogue) -> Iterator[str]:
    """Give the base ids of the models that have a name, which the account is asked about one by one."""
    for model_id in catalogue.ids().values():
        named = foundation.name(model_id)
        if named and named.base:
            yield named.base
