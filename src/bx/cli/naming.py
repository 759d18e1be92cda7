"""Names of models on the command line: what they mean here, and the inference profile where one is missing."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from bx import aws, config
from bx.catalogue import KEYS as ENTRY
from bx.catalogue import Catalogue
from bx.cli import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from bx.account import Account
    from bx.cli.terminal import Terminal
    from bx.converse import Engine

KEYS = {key: kind for key, kind in ENTRY.items() if key != "id"}  # what may be said of an id


def catalogue(options: argparse.Namespace) -> Catalogue:
    """Make the catalogue that holds for a command line: its settings, its region, the account where it was asked."""
    region = aws.region(vars(options))
    return Catalogue(options.models, options.geo, region=region, account=account(options))


def account(options: argparse.Namespace) -> Callable[[], Account | None]:
    """Return what reads the account's models, as `bx models --live` has kept them."""

    def kept() -> Account | None:
        if not (config.folder("cache") / "account.json").exists():  # the usual case, which shall cost no imports
            return None
        from bx.account import kept

        return kept(aws.scope(vars(options)))

    return kept


def profiled(engine: Engine, options: argparse.Namespace, terminal: Terminal) -> Engine:
    """Put the remedy for a missing inference profile around an engine; with --auto-profile it is applied."""
    from bx.profiles import Profiled

    return Profiled(
        engine,
        auto=bool(options.auto_profile),
        geo=options.geo,
        account=account(options),
        offer=functools.partial(_offer, options, terminal),
    )


def give(options: argparse.Namespace, terminal: Terminal) -> None:
    """Write an entry of the user's own file; an alias in place of an id stands for what it means.

    Raises:
        UsageError: the name or an option is unusable.
        UnknownModel: the id can be none.
        AmendError: the file cannot be amended.
    """
    from bx import amend

    _, name, what = options.words
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name in ("set", "unset"):
        raise UsageError(f"{name!r} is no name for a model", "Choose another, such as fast")
    known = Catalogue(options.models)
    meant = {key: value for key, value in known.models.get(what, {}).items() if key in ("id", "geos", "in_region")}
    Catalogue(options.models).resolve(what)  # which must be a model's
    entry = {**(meant or _of_id(what, aws.region(vars(options)))), **_entry(options.entry or [])}
    made = Catalogue({name: entry}, options.geo, region=aws.region(vars(options)), account=account(options))
    resolved = made.resolve(name)
    file = config.user_file()
    amend.set_model(file, name, entry)
    terminal.line(f"{name} = {resolved.id}")
    terminal.note(f"written to {file}")
    if resolved.note:
        terminal.note(resolved.note)


def _of_id(model_id: str, region: str) -> dict[str, Any]:
    """Make the entry of an id: one that cannot be called as it is has the geographies of its profiles."""
    from bx import foundation

    model = foundation.find(model_id)
    if model is None or model.id != model_id or not model.geos or foundation.on_demand(model, region):
        return {"id": model_id}
    return {"id": model_id, "geos": [*model.geos], "in_region": False}


def _entry(given: Iterable[str]) -> dict[str, Any]:
    """Read the other keys of an entry: KEY=VALUE, lists with commas."""
    entry: dict[str, Any] = {}
    for each in given:
        key, equals, text = each.partition("=")
        kind = KEYS.get(key)
        if not equals or kind is None:
            fix = f"Write KEY=VALUE; the keys are: {', '.join(KEYS)}"
            raise UsageError(f"--option {each!r} is no key of a model", fix)
        if kind is bool:
            entry[key] = config.parsed(text, "stream", f"--option {key}")
        else:
            entry[key] = [part.strip() for part in text.split(",")] if kind is list else text
    return entry


def take(options: argparse.Namespace, terminal: Terminal) -> None:
    """Remove an entry of the user's own file.

    Raises:
        UsageError: it is not there.
        AmendError: the file cannot be amended.
    """
    from bx import amend

    name, file = options.words[1], config.user_file()
    if not amend.unset_model(file, name):
        where = "" if name not in options.models else f"; {options.models[name].get('file', 'another file')} has it"
        raise UsageError(f"{file} has no models.{name}{where}", "See bx config show --origin")
    terminal.note(f"removed models.{name} from {file}")


def short(base: str) -> str:
    """Make a name of a base id: what its provider calls it, without a date and a version."""
    return re.sub(r"(-\d{8})?(-v\d+)?(:\d+)?$", "", base.partition(".")[2])


def _offer(
    options: argparse.Namespace, terminal: Terminal, model_id: str, profiles: list[str]
) -> Callable[[], object] | None:
    """Ask whether a profile is to be remembered; return what does so."""
    from bx import foundation

    named = foundation.name(model_id)
    base = named.base if named else model_id
    own = (name for name, entry in options.models.items() if entry.get("id") == base)
    name = next(own, short(base))
    if name in Catalogue().models or not terminal.interactive:
        terminal.note("to have that without being refused first", f"bx models set NAME {profiles[0]}")
        return None
    if not terminal.confirm(f"Remember that for {base}, under the name {name}, in {config.user_file()}?"):
        return None
    geos = [each.partition(".")[0] for each in profiles]
    return functools.partial(_remember, name, {"id": base, "geos": geos, "in_region": False}, terminal)


def _remember(name: str, entry: dict[str, Any], terminal: Terminal) -> None:
    from bx import amend

    try:
        amend.set_model(config.user_file(), name, entry)
    except amend.AmendError as failure:  # the answer matters more
        terminal.note(f"{failure}", failure.fix)
    else:
        terminal.note(f"remembered as {name}: bx --model {name} ...")
