"""The head of a GGUF file: what controls a conversation is found, and damage is noticed before llama.cpp sees it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_model
from bx import gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_tokens_that_control_a_conversation_are_found(tmp_path):
    model = tiny_model.write(tmp_path / "m.gguf", more_tokens=["<tool>", "<0x0A>"])
    assert gguf.controls(model) == ["<|im_start|>", "<|im_end|>", "<tool>", "<0x0A>"]


def test_tokens_that_only_look_like_controls_count_too_and_other_added_ones_do_not(tmp_path):
    kinds = [1] * 258 + [3, 3, 4, 4]
    facts = {"more_tokens": ["<|eot|>", "<table>"], "tokenizer__ggml__token_type": kinds}
    assert gguf.controls(tiny_model.write(tmp_path / "m.gguf", **facts)) == ["<|im_start|>", "<|im_end|>", "<|eot|>"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"llama__block_count": 0}, "block_count is 0"),
        ({"llama__block_count": 2**32 - 1}, "block_count is 4294967295"),
        ({"llama__context_length": 0}, "context_length is 0"),
        ({"llama__context_length": 2**31}, "context_length is 2147483648"),
        ({"more_tokens": ["he"]}, "a token twice"),
        ({"tokenizer__ggml__tokens": "none"}, "no vocabulary"),
    ],
)
def test_what_would_end_the_process_is_refused(tmp_path, damage, says):
    with pytest.raises(ValueError, match=says):
        gguf.controls(tiny_model.write(tmp_path / "m.gguf", **damage))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.02, 0.03])
def test_a_file_that_ends_in_its_head_is_refused(model, tmp_path, share):
    content = model.read_bytes()
    (tmp_path / "m.gguf").write_bytes(content[: max(5, int(len(content) * share))])
    with pytest.raises(ValueError, match="its head cannot be read"):
        gguf.controls(tmp_path / "m.gguf")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_controls_or_a_value_error(model, tmp_path, data):
    content = bytearray(model.read_bytes()[:9000])
    for _ in range(data.draw(st.integers(1, 10))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.gguf").write_bytes(content)
    try:
        found = gguf.controls(tmp_path / "m.gguf")
    except ValueError:
        return
    assert all(isinstance(text, str) for text in found)
