"""What production does, scripted: throttling, broken streams, slow answers, denied access, quotas.

A fault is written in one of two ways that mean the same: `ThrottlingException,nth=3` on the command line,
`{"fault": "ThrottlingException", "nth": 3}` in JSON. What there is stands in `faults.toml`; what each does to an
answer, in `bx.server.effects`.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import random
import re
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from bx.converse import status_of
from bx.server import effects, wire
from bx.server.quotas import Measures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bx.server.exchange import Call, Perform, Reply

    Spec = str | Mapping[str, Any]

HEADER = "x-bx-fault"  # of a reply: the names of the faults that made a difference, with commas
_LONGEST = 86_400  # seconds
_MOST = 1000  # faults in force: each request meets all of them


class FaultError(ValueError):
    """A fault cannot be understood; the message names the culprit, `fix` says what there is."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Faults:
    """The faults in force, in their order: the first one is met first. Threads may share them.

    Whether a fault hits a request is decided when the request comes, by the fault's own count of the requests that
    match it: another fault that ends a request early does not change the count.

    Args:
        specs: faults, each as text or as a dict.
        seed: what `share` is drawn from; the same seed draws the same.
        measures: how the quotas measure: the fields of `bx.server.quotas.Measures`.

    Raises:
        FaultError: one of them cannot be understood.
    """

    def __init__(self, specs: Iterable[Spec] = (), *, seed: int = 0, **measures: Callable[..., Any]) -> None:
        self._seed = seed
        self._measures = Measures(**measures)
        self._scripted: list[_Scripted] = []
        self._lock = threading.Lock()
        self.add(*specs)

    def perform(self, call: Call, perform: Perform) -> Reply:
        """Answer by `perform`, with each fault that hits. The reply's header `x-bx-fault` names them.

        Raises:
            ClientError: `perform`'s own, where no fault made a difference.
        """
        with self._lock:
            scripted = list(self._scripted)
        struck: list[str] = []
        answer = perform
        for each in reversed([each for each in scripted if each.meets(call)]):
            answer = each.around(answer, struck.append)
        try:
            reply = answer(call)
        except ClientError as failed:
            if not struck:
                raise
            call.received.notes["code"] = failed.response["Error"]["Code"]
            reply = wire.failure(failed)
            own = failed.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            reply = reply._replace(headers={**reply.headers, **own})
        if not struck:
            return reply
        call.received.notes["faults"] = struck
        call.received.notes.setdefault("model", call.request.get("modelId", ""))
        return reply._replace(headers={**reply.headers, HEADER: ", ".join(struck)})

    def add(self, *specs: Spec) -> None:
        """Add faults behind those in force: all of them, or none.

        Raises:
            FaultError: one of them cannot be understood.
        """
        faults = [parse(spec) for spec in specs[: _MOST + 1]]
        with self._lock:
            if len(self._scripted) + len(faults) > _MOST:
                raise FaultError(
                    f"There can be at most {_MOST} faults", "Remove those in force first: DELETE /_bx/faults"
                )
            for fault in faults:
                draw = random.Random(f"{self._seed}:{len(self._scripted)}")  # noqa: S311 # chance, and no secret
                self._scripted.append(_Scripted(fault, self._measures, draw))

    def clear(self) -> None:
        """Remove all faults. Requests that are being answered keep theirs."""
        with self._lock:
            self._scripted.clear()

    def listed(self) -> list[dict[str, Any]]:
        """Return the faults, each with how many requests it has `met` that match, and how many it has `hit`."""
        with self._lock:
            return [each.told() for each in self._scripted]


class _Scripted:
    """A fault in force, with its counters."""

    def __init__(self, fault: dict[str, Any], measures: Measures, draw: random.Random) -> None:
        self._fault = fault
        self._effect = effects.made(fault, _facts(fault["fault"]), measures)
        self._operations = _operations(fault)
        self._draw = draw
        self._met = self._hit = 0
        self._lock = threading.Lock()

    def meets(self, call: Call) -> bool:
        """Count a request that matches; returns whether the fault is to hit it."""
        fault = self._fault
        if (
            call.operation not in self._operations
            or not fnmatch.fnmatchcase(str(call.request.get("modelId", "")), fault.get("model", "*"))
            or not effects.concerns(fault, call)
        ):
            return False
        with self._lock:
            self._met += 1
            drawn: bool = self._draw.random() < fault.get("share", 1)
            first, nth = fault.get("first", self._met), fault.get("nth", self._met)
            return drawn and self._met <= first and self._met == nth

    def around(self, perform: Perform, struck: Callable[[str], None]) -> Perform:
        """Wrap a `Perform` in the fault."""

        def strike() -> None:
            with self._lock:
                self._hit += 1
            struck(self._fault["fault"])

        return lambda call: self._effect(call, perform, strike)

    def told(self) -> dict[str, Any]:
        with self._lock:
            return {**self._fault, "met": self._met, "hit": self._hit}


# ---- reading --------------------------------------------------------------------------------------------------


def described() -> list[dict[str, Any]]:
    """Return what there is, for help and docs: `name`, `says`, `status` (HTTP's, of an exception), `options`, `text`.

    `options` maps each name to its default, or to None where it has none.
    """
    return [
        {
            "name": name,
            "says": entry["says"],
            "status": status_of(name) if name.endswith("Exception") else None,
            "options": {option: entry.get("defaults", {}).get(option) for option in entry.get("options", [])},
            "text": entry.get("text", ""),
        }
        for name, entry in _data()["fault"].items()
    ]


def options() -> dict[str, str]:
    """Return what every option says, for help and docs; those that each fault takes come first."""
    return {name: option["says"] for name, option in {**_data()["selectors"], **_data()["options"]}.items()}


def parse(spec: Spec) -> dict[str, Any]:
    """Read a fault: `NAME[,KEY=VALUE...]`, or a dict with its name as `fault` and its options.

    Returns:
        The dict, with the defaults filled in; parsing it again changes nothing. An option's name may be written with
        hyphens or underscores; it comes back with underscores.

    Raises:
        FaultError: there is no such fault or option, a value does not fit, or no request could ever be hit.
    """
    name, given = _split(spec) if isinstance(spec, str) else _taken(spec)
    known = _data()["fault"]
    if name not in known:
        raise _unknown(f"There is no fault {name!r}", name, known)
    entry = known[name]
    takes = {**_data()["selectors"], **{option: _data()["options"][option] for option in entry.get("options", [])}}
    fault: dict[str, Any] = {"fault": name, **entry.get("defaults", {})}
    for option, value in given:
        if option not in takes:
            raise _unknown(f"The fault {name} has no {option!r}", option, takes)
        fault[option] = _value(takes[option]["kind"], option, value)
    if "one_of" in entry and not any(option in fault for option in entry["one_of"]):
        raise FaultError(f"The fault {name} lacks its limits", f"Give one of: {', '.join(entry['one_of'])}")
    if not _operations(fault):
        told = ", ".join(
            f"{option}={fault[option]}" for option in ("operation", "action", "after") if option in fault
        )
        raise FaultError(f"The fault {name} with {told} could not hit any request", "Remove one of these options")
    return fault


def _split(spec: str) -> tuple[str, list[tuple[str, str]]]:
    """Read the form of the command line; a comma is part of a message unless KEY= follows it at once."""
    name, *parts = spec.split(",")
    found: list[tuple[str, str]] = []
    for part in parts:
        within = bool(found) and found[-1][0] == "message"
        if option := re.match(r"([a-zA-Z][\w-]*)\s*=", part if within else part.lstrip()):
            found.append((_spelled(option[1]), part.partition("=")[2]))
        elif within:
            found[-1] = ("message", f"{found[-1][1]},{part}")
        else:
            raise FaultError(f"{part.strip()!r} in the fault {spec!r} is no KEY=VALUE", f"Write it as {_EXAMPLE}")
    if repeated := next((option for option, _ in found if [each for each, _ in found].count(option) > 1), None):
        raise FaultError(f"The fault {spec!r} has {repeated} more than once", "Give it once")
    return name.strip(), found


def _taken(spec: Any) -> tuple[str, list[tuple[str, Any]]]:
    if not isinstance(spec, dict) or not isinstance(spec.get("fault"), str):
        raise FaultError(f"{spec!r:.80} is no fault", 'Write it as {"fault": "ThrottlingException", "nth": 3}')
    return spec["fault"], [(_spelled(str(name)), value) for name, value in spec.items() if name != "fault"]


def _spelled(option: str) -> str:
    return option.replace("-", "_")


def _value(kind: str, option: str, given: Any) -> Any:
    """Read a value, written as text or as JSON has it."""
    value = given.strip() if isinstance(given, str) else given
    try:
        read = _READ[kind](value)
    except FaultError:
        raise
    except (ValueError, TypeError, OverflowError):
        read = None
    if read is None:
        raise FaultError(f"{option}={given!r:.80} cannot be used", f"{option} is {_MEANT[kind]}")
    return read


def _number(value: Any, low: float, high: float) -> float | None:
    number = float(value) if not isinstance(value, bool) else -1
    return number if low <= number <= high else None


def _whole(value: Any, low: int) -> int | None:
    number = int(value) if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)) else -1
    return number if number >= low else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _operation(value: Any) -> str | None:
    known: list[str] = list(_data()["operations"])
    if not isinstance(value, str) or fnmatch.filter(known, value):
        return _text(value)
    raise _unknown(f"There is no operation {value!r}", value, known)


def _action(value: Any) -> str | None:
    known = dict.fromkeys(_data()["operations"].values())
    if not isinstance(value, str) or value in known:
        return _text(value)
    raise _unknown(f"There is no action {value!r}", value, known)


_EXAMPLE = "ThrottlingException,nth=3"
_READ: dict[str, Callable[[Any], Any]] = {
    "count": functools.partial(_whole, low=1),
    "whole": functools.partial(_whole, low=0),
    "share": functools.partial(_number, low=0, high=1),
    "seconds": functools.partial(_number, low=0, high=_LONGEST),
    "flag": _flag,
    "text": _text,
    "operation": _operation,
    "action": _action,
}
_MEANT = {
    "count": "a whole number of at least 1",
    "whole": "a whole number of at least 0",
    "share": "a number from 0 to 1",
    "seconds": f"a number of seconds, from 0 to {_LONGEST}",
    "flag": "true or false",
    "text": "a text",
    "operation": "the name of an operation, such as ConverseStream",
    "action": "an IAM action, such as bedrock:InvokeModel",
}


def _unknown(message: str, name: str, known: Iterable[str]) -> FaultError:
    names = list(known)
    close = difflib.get_close_matches(name.lower()[:80], [each.lower() for each in names], 1)
    near = next((f"Did you mean {each}? " for each in names if close == [each.lower()]), "")
    return FaultError(message, f"{near}There are: {', '.join(names)}")


# ---- the facts ------------------------------------------------------------------------------------------------


def _facts(name: str) -> dict[str, Any]:
    return {**_data()["fault"][name], "actions": _data()["operations"]}


def _operations(fault: Mapping[str, Any]) -> frozenset[str]:
    """Return the operations that a fault can hit."""
    actions, name = _data()["operations"], fault["fault"]
    names: Iterable[str] = _data()["groups"][_data()["fault"][name].get("on", "all")]
    if "operation" in fault:
        names = fnmatch.filter(names, fault["operation"])
    if "action" in fault:
        names = [each for each in names if actions[each] == fault["action"]]
    if "after" in fault and name.endswith("Exception"):
        names = [each for each in names if effects.in_stream(each, name)]
    return frozenset(names)


@cache
def _data() -> dict[str, Any]:
    import tomllib
    from pathlib import Path

    data = tomllib.loads(Path(__file__).with_name("faults.toml").read_text("utf-8"))
    data["groups"]["all"] = list(data["operations"])
    return data
