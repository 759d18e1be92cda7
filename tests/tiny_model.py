"""A GGUF model of a few kilobytes, written by hand: it loads in milliseconds and answers with noise.

For tests of everything but the wisdom of an answer. One layer of random weights, and a vocabulary of bytes.
"""

from __future__ import annotations

import random
import struct

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
WIDTH = 32


def byte_letters():
    """The letters that stand for the 256 bytes in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(given):
    """A value and its type, as in the metadata of a GGUF file."""
    if isinstance(given, str):
        return 8, string(given)
    if isinstance(given, float):
        return 6, struct.pack("<f", given)
    if isinstance(given, list):
        kind = 8 if isinstance(given[0], str) else 5
        return 9, struct.pack("<IQ", kind, len(given)) + b"".join(value(item)[1] for item in given)
    return 4, struct.pack("<I", given)


def metadata(template=CHATML, *, more_tokens=(), context=2048, **overrides):
    tokens = [*byte_letters(), "he", "th", "<|im_start|>", "<|im_end|>", *more_tokens]
    facts = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": context,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 258 + [3] * (len(tokens) - 258),
        "tokenizer.ggml.merges": ["h e", "t h"],
        "tokenizer.ggml.bos_token_id": 258,
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.chat_template": template,
    }
    return facts | {name.replace("__", "."): given for name, given in overrides.items()}


def write(path, template=CHATML, **options):
    """Write a model to a path and return the path; `options` as those of `metadata`."""
    facts = metadata(template, **options)
    words = len(facts["tokenizer.ggml.tokens"])
    square = (WIDTH, WIDTH)
    layer = {f"attn_{name}": square for name in ("q", "k", "v", "output")}
    layer |= {f"ffn_{name}": square for name in ("gate", "up", "down")} | {
        "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
    }
    tensors = {"token_embd": (WIDTH, words), "output_norm": (WIDTH,), "output": (WIDTH, words)}
    tensors |= {f"blk.0.{name}": shape for name, shape in layer.items()}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    for name, given in facts.items():
        kind, packed = value(given)
        head += string(name) + struct.pack("<I", kind) + packed
    rolled, data = random.Random(1), b""
    for name, shape in tensors.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        numbers = [rolled.uniform(-0.5, 0.5) if len(shape) > 1 else 1.0 for _ in range(count)]
        sizes = struct.pack(f"<{len(shape)}Q", *shape)
        head += string(f"{name}.weight") + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", 0, len(data))
        data += struct.pack(f"<{count}f", *numbers)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path
