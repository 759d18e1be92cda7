"""Real schemas on the embedded engine: nearly all are enforced, no invalid instance passes, every answer is valid.

The sample is a file of JSON lines with `name`, `schema` and `tests`, a list of instances: `data`, and whether they
are `valid`. It is no part of the project.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

import sample
from bx import grammar
from bx.converse import request, text
from bx.grammar.rewrite import rewritten
from bx.instances import violation

EVERY = 1 if os.environ.get("BX_JSONSCHEMABENCH_ALL") else 5
SECONDS = 3600 if EVERY == 1 else 40  # that answering may take

pytestmark = sample.needed
llguidance = pytest.importorskip("llguidance", reason="the extra 'local' is not installed")


@pytest.fixture(scope="module")
def cases():
    return sample.cases()


@pytest.fixture(scope="module")
def enforced(cases):
    """The cases whose schema is taken."""
    return [case for case in cases if not why_not(case["schema"])]


def why_not(schema):
    """The reason why a schema is not taken, or None."""
    try:
        grammar.check(schema, json.dumps(schema))
        violation(None, schema)
    except ValueError as cause:
        return str(cause)
    return grammar.refusal(schema, lambda _: True) if grammar._reason(schema) else None


def admits(candidate, value):
    """Whether a grammar admits a text byte by byte, to its end."""
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), candidate)
    written = list(json.dumps(value, ensure_ascii=False).encode())
    return matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting()


def arranged(value, names):
    """A value with its keys in the order in which a schema's text names them."""
    if isinstance(value, list):
        return [arranged(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    known = sorted(value, key=lambda name: names.find(f"{json.dumps(name)}: ") % (len(names) + 1))
    return {name: arranged(value[name], names) for name in known}


def test_nine_of_ten_are_enforced_and_the_others_name_their_place(cases, enforced):
    refused = {case["name"]: why for case in cases if (why := why_not(case["schema"]))}
    validated = [case["name"] for case in enforced if grammar.validated(case["schema"])]
    print(f"\n{len(enforced)} of {len(cases)} compile, {len(validated)} of them with something left to validation")
    print("\n".join(f"{name}: {why}" for name, why in refused.items()))
    assert len(enforced) >= 0.95 * len(cases)
    assert len(enforced) - len(validated) >= 0.9 * len(cases)
    assert all(why.startswith("$") for why in refused.values())


def test_no_invalid_instance_is_admitted_and_nearly_every_valid_one_is(enforced):
    counts, departed = Counter(), []
    for case in enforced:
        schema = case["schema"]
        wide = grammar._grammar(rewritten(grammar._capped(schema), narrow=False))
        usable = [candidate for candidate in (*grammar.candidates(schema), wide) if compiles(candidate)]
        for test in case["tests"]:
            assert (violation(test["data"], schema) is None) == test["valid"], case["name"]
            if not test["valid"]:
                counts["invalid"] += 1
                assert not any(admits(candidate, test["data"]) for candidate in usable), case["name"]
                continue
            counts["valid"] += 1
            found, inside = admits(wide, test["data"]), admits(usable[0], test["data"])
            ordered = found or admits(wide, arranged(test["data"], wide))
            counts["admitted as they stand"] += found
            counts["admitted with their keys in order"] += ordered
            counts["admitted by the first choice"] += inside or admits(usable[0], arranged(test["data"], wide))
            departed += [] if ordered else [case["name"]]
    print("\n", dict(counts), departed)
    assert counts["admitted with their keys in order"] >= 0.98 * counts["valid"]


def compiles(candidate):
    return not llguidance.LLMatcher.validate_grammar_with_warnings(candidate)[0]


def test_every_finished_answer_satisfies_its_schema(cases, fetched_weights):
    from bx.engines.local import Local

    engine, started = Local(), time.monotonic()

    def ended(case):
        """How the answer to a schema ends, once it is known to be sound."""
        if time.monotonic() - started > SECONDS:
            return "not asked"
        asked = {"schema": case["schema"], "maxTokens": 200, "temperature": 1, "fields": {"seed": 1}}
        try:
            response = engine.converse(**request("Make up an example.", model=f"local:{fetched_weights}", **asked))
        except ClientError as refusal:
            return "refused" if "cannot be enforced by this model: $" in f"{refusal}" else f"{refusal}"
        if response["stopReason"] == "end_turn":
            assert violation(json.loads(text(response)), case["schema"]) is None, case["name"]
        return response["stopReason"]

    with ThreadPoolExecutor(4) as pool:
        smallest_first = sorted(cases[::EVERY], key=lambda case: len(json.dumps(case["schema"])))
        ends = Counter(pool.map(ended, smallest_first))
    engine.close()
    print("\n", dict(ends))
    assert ends.keys() <= {"end_turn", "max_tokens", "refused", "not asked"}
    assert ends["end_turn"] > 2
