"""What is kept between processes: privately, for a while, and never in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from bx.memory import Memory

pytestmark = pytest.mark.usefixtures("private_home")
DAY = 86400


def kept(name="facts"):
    return Path(platformdirs.user_cache_path("bx", appauthor=False), f"{name}.json")


def test_a_fact_outlives_the_process_that_kept_it():
    script = "from bx.memory import Memory; Memory('facts', 86400).put('a', {'rung': 'tool'})"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert Memory("facts", DAY).get("a") == {"rung": "tool"}
    assert Memory("facts", DAY).get("b") is None
    assert Memory("others", DAY).get("a") is None


def test_a_fact_is_forgotten_in_time_or_on_demand():
    Memory("facts", -1).put("old", 1)
    memory = Memory("facts", DAY)
    assert memory.get("old") is None
    memory.put("new", 2)
    memory.put("new", None)
    assert memory.get("new") is None
    Memory("facts", 10 * DAY).put("long", 3)
    assert memory.get("long") is None  # a time further away than this memory keeps anything: a clock was set back


def test_the_file_is_private_and_bounded():
    memory = Memory("facts", DAY)
    for number in range(520):
        memory.put(str(number), number)
    assert kept().stat().st_mode & 0o777 == 0o600
    assert memory.get("0") is None
    assert memory.get("519") == 519
    assert [path.name for path in kept().parent.iterdir()] == ["facts.json"]


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[1]", b'{"a": 1}', b'{"a": ["x", 1]}', b"[" * 100_000])
def test_a_damaged_file_is_as_good_as_none(damage):
    kept().parent.mkdir(parents=True, exist_ok=True)
    kept().write_bytes(damage)
    memory = Memory("facts", DAY)
    assert memory.get("a") is None
    memory.put("a", 1)
    assert memory.get("a") == 1


def test_a_place_that_cannot_be_written_is_no_failure():
    kept().parent.parent.mkdir(parents=True, exist_ok=True)
    kept().parent.write_text("a file where the folder should be")
    memory = Memory("facts", DAY)
    memory.put("a", 1)
    assert memory.get("a") is None
