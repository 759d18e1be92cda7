"""JSON that is still being written: whatever the pieces, what comes out is what a whole text gives."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bx import partial

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)
LISTS = st.lists(VALUES, max_size=6)


@st.composite
def texts(draw, values):
    """A value, its JSON in some spelling, and that text in pieces."""
    value = draw(values)
    text = json.dumps(value, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    return value, text, draw(pieces(text))


def pieces(text):
    cuts = st.lists(st.integers(0, len(text)), max_size=8).map(sorted)
    return cuts.map(lambda at: [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])


@given(texts(VALUES))
def test_the_tokens_are_the_text(made):
    _, text, cut = made
    assert "".join(token.text for token in partial.tokens(cut)) == text


@given(texts(VALUES))
def test_the_last_snapshot_is_the_value_and_earlier_ones_only_grow(made):
    value, _, cut = made
    seen = list(partial.snapshots(cut))
    copies = json.dumps(seen)
    assert seen[-1] == value
    assert json.dumps(list(partial.snapshots(cut))) == copies
    for before, after in itertools.pairwise(seen):
        assert grows(before, after)


def grows(before, after):
    """Whether one value is the other, or a beginning of it."""
    if isinstance(before, dict) and isinstance(after, dict):
        return list(before) == list(after)[: len(before)] and all(grows(before[key], after[key]) for key in before)
    if isinstance(before, list) and isinstance(after, list):
        return all(grows(*pair) for pair in zip(before, after, strict=False)) and len(before) <= len(after)
    return before == after


def test_a_snapshot_that_was_yielded_does_not_change_any_more():
    text = '{"a": [{"b": 1}, {"b": 22, "c": "xyz"}], "d": {}}'
    seen = [(snapshot, json.dumps(snapshot)) for snapshot in partial.snapshots(text)]
    assert all(json.dumps(snapshot) == text for snapshot, text in seen)
    assert len(seen) > 5


def test_a_field_appears_once_it_is_complete():
    assert list(partial.snapshots(['{"a": "on', 'e", "n": 4', '7, "ok": tru', "e}"])) == [
        {},
        {"a": "one"},
        {"a": "one", "n": 47},
        {"a": "one", "n": 47, "ok": True},
    ]


@given(texts(LISTS))
def test_elements_are_the_elements(made):
    value, _, cut = made
    assert [json.loads(text) for text in partial.elements(cut)] == value


def test_an_element_comes_as_soon_as_it_is_complete():
    taken = []

    def arriving():
        for piece in ('[{"a": 1}', ', {"a"', ": 2}, 3]"):
            taken.append(piece)
            yield piece

    elements = partial.elements(arriving())
    assert next(elements) == '{"a": 1}'
    assert len(taken) == 2  # the comma is in the second
    assert list(elements) == ['{"a": 2}', "3"]


@given(OBJECTS, VALUES, st.data())
def test_a_member_is_taken_out_of_an_object(others, value, data):
    whole = {**others, "answer": value}
    text = json.dumps(whole, indent=data.draw(st.sampled_from([None, 2])))
    taken = "".join(partial.member(data.draw(pieces(text)), "answer"))
    assert json.loads(taken) == value


@pytest.mark.parametrize("cut", [partial.document, lambda pieces: partial.member(pieces, "answer")])
def test_a_cut_never_waits_for_a_second_piece_before_it_passes_something_on(cut):
    taken = []

    def arriving():
        for piece in ("Well: ", "{", '"answer"', ": ", '"a', 'b"'):
            taken.append(piece)
            yield piece

    going = cut(arriving())
    for _ in range(6):
        before = len(taken)
        next(going)
        assert len(taken) <= before + 1


PROSE = st.text(st.characters(exclude_characters='{"'), max_size=30)


@given(PROSE, texts(OBJECTS), PROSE, st.data())
def test_a_document_is_cut_out_of_prose_and_fences(before, made, after, data):
    value, text, _ = made
    cut = data.draw(pieces(f"{before}```json\n{text}\n```{after}"))
    assert json.loads("".join(partial.document(cut))) == value


@given(st.lists(st.text(st.sampled_from('{}[],:"\\ n1tea\n'), max_size=12)))
def test_no_text_makes_a_reader_fail(cut):
    for read in (partial.snapshots, partial.elements, partial.document, partial.tokens):
        list(read(cut))
    list(partial.member(cut, "a"))


@pytest.mark.parametrize("read", [partial.snapshots, partial.elements, partial.document, partial.tokens])
@pytest.mark.parametrize(
    "piece",
    ["[", '{"a":', '"', "\\", "a", "{ ", '{"a": "', " ", '[{"a": 1},'],
    ids=lambda piece: piece.strip() or "_",
)
def test_work_is_linear_in_the_text(read, piece):
    def seconds(count):
        taken = []
        for _ in range(3):
            started = time.process_time()
            deque(read(piece for _ in range(count)), maxlen=0)
            taken.append(time.process_time() - started)
        return min(taken)

    # Quadratic work would be sixteen times as much; the snapshots of a wide list are copied, at memory's speed.
    assert seconds(8_000) < 12 * max(seconds(2_000), 0.01)


def test_nesting_without_end_is_read_no_further():
    assert len(json.dumps(list(partial.snapshots(["[" * 1000]))[-1:])) < 1000
