"""The tables of the ledger's file, as the steps that lead to them from an empty one.

A file remembers how many steps it has taken (`PRAGMA user_version`): steps are added at the end and never changed.
"""

from __future__ import annotations

# An id is given once only: who has added up the rows to some id finds all later ones behind it, whatever was deleted.
_CALLS = """\
CREATE TABLE calls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    source TEXT,
    alias TEXT,
    model_id TEXT,
    region TEXT,
    engine TEXT,
    operation TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cache_read_tokens INTEGER,
    cache_write_5m_tokens INTEGER,
    cache_write_1h_tokens INTEGER,
    latency_ms INTEGER,
    first_token_ms INTEGER,
    stop_reason TEXT,
    outcome TEXT,
    error_code TEXT,
    request_id TEXT,
    attempts INTEGER,
    service_tier TEXT,
    rung TEXT,
    tag TEXT
)"""
# Money that is held for calls under way, and stays held for those of which nobody knows what they cost; in millionths
# of a millionth of a dollar, for SQLite has no decimals. `until` is when a call's process is taken for dead.
_HELD = "CREATE TABLE held (id INTEGER PRIMARY KEY, at REAL NOT NULL, until REAL, amount INTEGER NOT NULL)"

# The history: a turn is what was asked and what was answered. `messages` is in Converse's spelling, and NULL where it
# would say no more than `prompt` and `answer`. A number is given once only: who continues a conversation that was
# deleted must not find another one. Bytes, such as those of images, are kept once, by their hash.
_HISTORY = (
    "CREATE TABLE conversations (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL)",
    """\
CREATE TABLE turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL,
    at REAL NOT NULL,
    model TEXT NOT NULL,
    model_id TEXT NOT NULL,
    system TEXT,
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL,
    messages TEXT,
    stop_reason TEXT,
    usage TEXT
)""",
    "CREATE INDEX turns_conversation ON turns (conversation, id, at)",
    "CREATE TABLE blobs (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE parts (turn INTEGER NOT NULL, place TEXT, sha256 TEXT NOT NULL, PRIMARY KEY (turn, place))",
    "CREATE INDEX parts_sha256 ON parts (sha256)",
)

STEPS: tuple[tuple[str, ...], ...] = (
    (_CALLS, "CREATE INDEX calls_at ON calls (at)", _HELD),
    _HISTORY,
)  # fmt: skip
