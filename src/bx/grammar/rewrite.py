"""A JSON Schema, rewritten into what llguidance enforces, and the list of what is left to validation.

Whatever is rewritten admits what the original admits, but for three things. What `validated` lists is looser: the
finished answer must still be validated. With `narrow`, keywords that no grammar can count on are made trivially true
(`uniqueItems`: as many items as need not be compared). And a few keywords are met in one way out of several
(`contains`: by the first items). What cannot be rewritten is left as it is, for llguidance to refuse. This module
knows no model, and llguidance only by what it takes.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING

from bx.grammar.keys import parts_of
from bx.grammar.modern import DRAFT, Modern
from bx.grammar.opposite import Found, Opposites, Schema, both, either, values_of
from bx.instances import canonical
from bx.schema import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_NODES = 40_000  # schemas within what is written: choices that hold choices multiply
_MOST_CHOICES = 60  # that a count of keys or items is spelled out into
_LONGEST_STRING = 300  # characters of a format, where nothing else says so
_MOST_SUBSETS = 7  # values of which a list without repetition takes some in their order

# Within [^...], what may exclude a quote or a backslash, which llguidance admits all the same in the way JSON writes
# them, is all but single characters, plain ranges, and the few escapes that are listed.
_NEGATED = re.compile(r"(?<!\\)(?:\\\\)*\[\^((?:\\.|[^\\\]])*)\]", re.DOTALL)
_SURE = re.compile(r"""-?(?:[A-Z]-[A-Z]|[a-z]-[a-z]|[0-9]-[0-9]|\\[dwsnrtfv./+*?()\[\]{}|^$-]|[^"\\-])*-?""")

_PCT = "%[0-9A-Fa-f]{2}"
_BEYOND = "\\u00a0-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\uffef"


def _uri(more: str, *, relative: bool) -> str:
    """Spell RFC 3986 without IP literals; `more` are the characters of RFC 3987."""
    plain = f"A-Za-z0-9._~!$&'()*+,;={more}\\-"
    segment = f"(?:[{plain}:@]|{_PCT})"
    authority = f"//(?:(?:[{plain}:]|{_PCT})*@)?(?:[{plain}]|{_PCT})*(?::[0-9]{{1,4}})?(?:/{segment}*)*"
    path = f"/(?:{segment}+(?:/{segment}*)*)?|{segment}+(?:/{segment}*)*"
    whole = f"[A-Za-z][A-Za-z0-9+.-]*:(?:{authority}|{path})?"
    if relative:
        first = f"(?:[{plain}@]|{_PCT})+(?:/{segment}*)*"
        whole = f"(?:{whole}|{authority}|/(?:{segment}+(?:/{segment}*)*)?|{first})?"
    return f"^{whole}(?:\\?(?:{segment}|[/?])*)?(?:#(?:{segment}|[/?])*)?$"


_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_LABEL = "[a-z0-9]{1,15}(?:-[a-z0-9]{1,15}){0,2}"
_HOST_LABEL = "(?:[A-Za-z0-9]{1,63}|[A-Za-z0-9]{1,15}(?:-[A-Za-z0-9]{1,15}){1,3})"
_SHORT_LABEL = "[A-Za-z0-9]{1,12}(?:-[A-Za-z0-9]{1,12})?"
_HOST = f"(?:{_HOST_LABEL}(?:\\.{_HOST_LABEL}){{0,2}}|{_SHORT_LABEL}(?:\\.{_SHORT_LABEL}){{3,8}})"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_MAILBOX = f"(?:{_ATOM}{{1,64}}|{_ATOM}{{1,31}}\\.{_ATOM}{{1,31}}|{_ATOM}{{1,15}}(?:\\.{_ATOM}{{1,15}}){{2,3}})"
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_LONG_MONTHS, _SHORT_MONTHS = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_DAY = f"(?:{_LONG_MONTHS}|{_SHORT_MONTHS}|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"(?:[0-9]{{4}}-{_DAY}|{_LEAP})"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_CLOCK}:[0-5][0-9](?:\\.[0-9]{{1,9}})?(?:[Zz]|[+-]{_CLOCK})"
_VARIABLE = "(?:[A-Za-z0-9_]+(?:\\.[A-Za-z0-9_]+)*)(?::[1-9][0-9]{0,3}|\\*)?"
# Formats that llguidance does not know, or takes too widely: what each pattern admits is of the format, though not
# always the reverse.
_PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[Tt]{_TIME}$",
    "hostname": f"^{_HOST}$",
    "email": f"^{_MAILBOX}@{_HOST}$",
    "idn-email": f"^{_MAILBOX}@{_HOST}$",
    "uri": _uri("", relative=False),
    "uri-reference": _uri("", relative=True),
    "iri": _uri(_BEYOND, relative=False),
    "iri-reference": _uri(_BEYOND, relative=True),
    "uri-template": f"^(?:[A-Za-z0-9._~!$&()*+,;=:@/?#-]|{_PCT}|\\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\\}})*$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})$",
    "idn-hostname": f"^{_LABEL}(?:\\.{_LABEL}){{0,3}}$",
}
_ENFORCED = {"duration", "ipv4", "ipv6", "uuid"}  # by llguidance


class TooLargeError(ValueError):
    """What is rewritten grows beyond all measure: choices within choices."""


def rewritten(schema: Schema, *, narrow: bool = True) -> Schema:
    """Write a schema, not deeper than `walk.DEEPEST`, in what llguidance enforces.

    Args:
        schema: a valid JSON Schema of any draft from 4 on.
        narrow: make sure that answers keep what could only be validated, where a narrower schema does.

    Returns:
        A schema of Draft 2020-12.

    Raises:
        TooLargeError: it would be too large.
    """
    return Written(schema, narrow=narrow).schema


class Written:
    """A schema that is rewritten, and what of it is loosened by that.

    Args:
        root: a valid JSON Schema of any draft from 4 on, not deeper than `walk.DEEPEST`.
        narrow: as `rewritten` takes it.

    Raises:
        TooLargeError: it would be too large.
    """

    def __init__(self, root: Schema, *, narrow: bool) -> None:
        self._modern = Modern(root)
        self._opposites = Opposites(self._modern.schema)
        self._narrow = narrow
        self._written = 0
        self._path: walk.Path = ()
        self._least = _least_items(self._modern.schema)
        self.places: dict[int, walk.Path] = {}
        self.loosened: list[tuple[walk.Path, str]] = []
        made = self.write(self._modern.schema)
        self.schema: Schema = {**made, "$schema": DRAFT} if isinstance(made, dict) else {}
        self.places[id(self.schema)] = ()

    def write(self, schema: Found) -> Found:
        """Rewrite a schema inside the whole."""
        self._written += 1
        if self._written > _MOST_NODES:
            raise TooLargeError("$: the choices of the schema combine into too many")
        if isinstance(schema, bool):
            return schema
        above, self._path = self._path, self._modern.paths.get(id(schema), self._path)
        if id(schema) in self._modern.paths:
            self._doubt(schema)
        made = dict(schema)
        parts = [found for found in self._parts(made, self._least.get(id(schema), 0)) if found is not True]
        if parts:
            made["allOf"] = [*made.get("allOf", ()), *parts]
        made = walk.mapped(made, self.write)
        self.places[id(made)] = self._path
        self._path = above
        return made

    def _doubt(self, schema: Schema) -> None:
        """Note the expressions that llguidance takes for wider than they are."""
        if isinstance(schema.get("pattern"), str) and not _is_sure(schema["pattern"]):
            self._loosen("pattern")
        if not all(map(_is_sure, schema.get("patternProperties", ()))):
            self._loosen("patternProperties")
        names = schema.get("propertyNames")
        if isinstance(names, dict) and not _is_sure(str(names.get("pattern", ""))):
            self._loosen("propertyNames")

    def place(self, path: walk.Path, keyword: str) -> tuple[walk.Path, str]:
        """Name the keyword of the original that is at a path, or what stands for it there."""
        there = self._modern.keywords.get(path, [])
        instead = [keyword, "not", "oneOf", "if", "allOf", "anyOf", "$ref", "propertyNames", "properties", *there]
        found = next((name for name in instead if name in there), keyword)
        return (*path, found), found

    def _loosen(self, keyword: str) -> None:
        if (found := self.place(self._path, keyword)) not in self.loosened:
            self.loosened.append(found)

    def _parts(self, schema: Schema, least: int) -> Iterator[Found]:
        """Take out of a schema what llguidance does not know; yield what says the same."""
        _evaluated(schema)
        if isinstance(schema.get("oneOf"), list):
            choices = schema.pop("oneOf")
            found = self._one_of(choices)
            if found is None:
                self._loosen("oneOf")
            yield {"anyOf": choices} if found is None else found
        if "not" in schema and (found := self._opposites.opposite(schema["not"])) is not None:
            del schema["not"]
            yield found
        if "if" in schema and (found := self._condition(schema)) is not None:
            schema.pop("if")
            yield found
        if "if" not in schema:  # alone, they say nothing
            schema.pop("then", None)
            schema.pop("else", None)
        yield from _dependent(schema)
        yield from self._formats(schema)
        _names(schema)
        self._lists(schema, least)
        yield from _counted(schema)

    def _one_of(self, choices: list[Found]) -> Found | None:
        """Return the choices so that exactly one holds; None where that cannot be said, and they may overlap."""
        listed = [values_of(self._opposites.resolved(choice)) for choice in choices]
        spelled = [canonical(value) for values in listed for value in values or ()]
        if all(listed) and len(spelled) == len(set(spelled)):
            return {"anyOf": choices}
        exact: list[Found] = []
        for at, choice in enumerate(choices):
            others = [other for place, other in enumerate(choices) if place != at]
            overlapping = [other for other in others if not self._opposites.disjoint(choice, other)]
            found = both([choice, *map(self._opposites.opposite, overlapping)])
            if found is None:
                return None
            exact.append(found)
        return either([*exact])

    def _condition(self, schema: Schema) -> Found | None:
        opposite = self._opposites.opposite(schema["if"])
        then, otherwise = both([schema["if"], schema.get("then", True)]), both([opposite, schema.get("else", True)])
        return either([then, otherwise])

    def _formats(self, schema: Schema) -> Iterator[Found]:
        named = schema.get("format")
        if not isinstance(named, str) or named in _ENFORCED:
            return
        del schema["format"]  # what no standard defines says nothing
        if named == "regex":
            self._loosen("format")
        if named in _PATTERNS:
            bound = {"maxLength": max(_LONGEST_STRING, schema.get("minLength", 0))} if self._narrow else {}
            yield {"pattern": _PATTERNS[named]} | ({} if "maxLength" in schema else bound)

    def _lists(self, schema: Schema, least: int) -> None:
        if schema.pop("uniqueItems", None) is True:
            found = _unique({**schema, "minItems": max(least, schema.get("minItems", 0))}, narrow=self._narrow)
            if found is None:
                self._loosen("uniqueItems")
            schema |= found or {}
        if "contains" not in schema:  # alone, they say nothing
            schema.pop("minContains", None)
            schema.pop("maxContains", None)
        least = schema.get("minContains", 1)
        if "contains" in schema and "maxContains" not in schema and least <= _MOST_CHOICES:
            held = schema.pop("contains")
            schema.pop("minContains", None)
            first = list(schema.get("prefixItems", ()))
            first += [schema.get("items", True)] * (least - len(first))
            schema["prefixItems"] = [both([held, item]) for item in first[:least]] + first[least:]
            schema["minItems"] = max(least, schema.get("minItems", 0))
            if not schema["prefixItems"]:
                del schema["prefixItems"]


def _is_sure(pattern: str) -> bool:
    return all(_SURE.fullmatch(found[1]) for found in _NEGATED.finditer(pattern))


def _unique(schema: Schema, *, narrow: bool) -> Schema | None:
    """Return what keeps items from repeating, or None where nothing does."""
    least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if most <= 1 or {"const", "enum"} & schema.keys():
        return {} if most <= 1 or _all_unique(schema) else None
    values = None if "prefixItems" in schema else values_of(schema.get("items"))
    if values and len(values) <= _MOST_CHOICES and schema.get("type") == "array":
        sizes = range(least, min(len(values), most) + 1)
        if sum(math.perm(len(values), size) for size in sizes) <= _MOST_CHOICES + 5:
            return {"enum": [list(items) for size in sizes for items in itertools.permutations(values, size)]}
        if narrow and len(values) <= _MOST_SUBSETS:
            return {"enum": [list(items) for size in sizes for items in itertools.combinations(values, size)]}
    return {"maxItems": 1} if narrow and least <= 1 else None


def _all_unique(schema: Schema) -> bool:
    listed = [value for value in values_of(schema) or () if isinstance(value, list)]
    return all(len(value) == len({canonical(item) for item in value}) for value in listed)


def _dependent(schema: Schema) -> Iterator[Found]:
    """Yield for each key that others depend on: it is absent, or they are as they should be."""
    for name, needed in schema.pop("dependentRequired", {}).items():
        yield {"anyOf": [{"properties": {name: False}}, {"required": [name, *needed]}]}
    for name, child in schema.pop("dependentSchemas", {}).items():
        yield {"anyOf": [{"properties": {name: False}}, {"allOf": [{"required": [name]}, child]}]}


def _names(schema: Schema) -> None:
    """Say by `patternProperties` or `properties` what names keys may have; leave what cannot be said so."""
    rule = schema.get("propertyNames")
    if rule is True or rule == {}:
        del schema["propertyNames"]
    if not isinstance(rule, dict) or not rule:
        return
    listed, rest = values_of(rule), schema.get("additionalProperties", True)
    assertions = rule.keys() - {"type", "title", "description"}
    if rule.get("type", "string") != "string" or schema.get("patternProperties"):
        return
    named: dict[str, Found] = schema.get("properties", {})
    if listed is not None and assertions <= {"const", "enum"}:
        del schema["propertyNames"]
        schema["properties"] = {name: child for name, child in named.items() if name in listed}
        schema["properties"] |= {name: rest for name in listed if isinstance(name, str) and name not in named}
        schema["additionalProperties"] = False
    elif (not named and assertions == {"pattern"}) or (
        assertions <= {"minLength", "maxLength"} and (not named or rest in (True, {}))
    ):
        del schema["propertyNames"]
        least, most = rule.get("minLength", 0), rule.get("maxLength", "")
        fits = [name for name in named if least <= len(name) <= (most or math.inf)]
        schema["properties"] = {name: named[name] if name in fits else False for name in named}
        schema["patternProperties"] = {rule.get("pattern", f"^(?s:.){{{least},{most}}}$"): rest}
        schema["additionalProperties"] = False


def _evaluated(schema: Schema) -> None:
    """Say by `additionalProperties` and `items` what may not be left over, where nothing else evaluates anything."""
    elsewhere = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"} & schema.keys()
    for keyword, plain in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if keyword in schema and not elsewhere and "contains" not in schema:
            schema.setdefault(plain, schema.pop(keyword))
            schema.pop(keyword, None)


def _counted(schema: Schema) -> Iterator[Found]:
    """Spell out a count of keys where some of those that are named may be absent."""
    named, required = schema.get("properties", {}), list(dict.fromkeys(schema.get("required", ())))
    optional = [name for name, child in named.items() if name not in required and child is not False]
    least, most = schema.get("minProperties", 0) - len(required), schema.get("maxProperties", math.inf)
    if not optional:
        return
    if least <= 0:
        schema.pop("minProperties", None)
    elif least <= len(optional) and math.comb(len(optional), least) <= _MOST_CHOICES:
        del schema["minProperties"]
        yield either([{"required": list(names)} for names in itertools.combinations(optional, least)]) or True
    if "maxProperties" not in schema or "patternProperties" in schema or not set(required) <= named.keys():
        return
    left = int(most) - len(required)
    if left >= 0 and (left >= len(optional) or math.comb(len(optional), left) <= _MOST_CHOICES):
        del schema["maxProperties"]
        schema["additionalProperties"] = False
        absent = max(0, len(optional) - left)
        yield either([_without(names) for names in itertools.combinations(optional, absent)]) or True


def _without(names: tuple[str, ...]) -> Found:
    return {"properties": dict.fromkeys(names, False)} if names else True


def _least_items(root: Schema) -> dict[int, int]:
    """Map the schemas with `uniqueItems`, by `id`, to how many items those beside them ask for."""
    if not any(node.get("uniqueItems") is True for _, node in walk.nodes(root)):
        return {}
    found: dict[int, int] = {}
    for _, node in walk.nodes(root):
        parts = [node, *parts_of(node, root)] if {"allOf", "anyOf", "$ref"} & node.keys() else []
        least = max((part.get("minItems", 0) for part in parts), default=0)
        found |= {id(part): max(least, found.get(id(part), 0)) for part in parts if "uniqueItems" in part}
    return found
