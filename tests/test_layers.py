"""The import rules of the house: uses and engines never meet, and nothing imports the terminal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "bx"
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
# Module -> the modules of bx that it may import. A trailing dot admits everything below.
VOCABULARY = {"bx.converse", "bx.validation"}
ALLOWED = {
    "bx": {
        "bx.account",
        "bx.aws",
        "bx.ledger.meter",
        "bx.profiles",
        "bx.converse",
        "bx.catalogue",
        "bx.config",
        "bx.engines",
        "bx.partial",
        "bx.server",
        "bx.server.endpoint",
        "bx.schema.check",
        "bx.schema.concise",
        "bx.schema.source",
        "bx.structured",
        "bx.turns",
    },
    "bx.__main__": {"bx.cli"},
    "bx.instances": set(),
    "bx.converse": {"bx.instances"},
    "bx.validation": {"bx.converse"},
    "bx.grammar": {"bx.instances", "bx.grammar.keys", "bx.grammar.rewrite", "bx.schema.walk"},
    "bx.grammar.rewrite": {
        "bx.instances",
        "bx.grammar.keys",
        "bx.grammar.modern",
        "bx.grammar.opposite",
        "bx.schema.walk",
    },
    "bx.grammar.keys": {"bx.grammar.opposite", "bx.schema.walk"},
    "bx.grammar.modern": {"bx.grammar.opposite", "bx.schema.walk"},
    "bx.grammar.opposite": {"bx.instances", "bx.schema.walk"},
    "bx.schema": set(),
    "bx.schema.walk": set(),
    "bx.schema.concise": set(),
    "bx.schema.source": {"bx.converse", "bx.schema.concise", "bx.schema.walk"},
    "bx.schema.conditions": {"bx.instances", "bx.schema.walk"},
    "bx.schema.words": set(),
    "bx.schema.merge": {"bx.instances", "bx.schema.conditions", "bx.schema.words"},
    "bx.schema.restore": {"bx.instances", "bx.schema.conditions"},
    "bx.schema.check": {"bx.instances", "bx.schema.conditions", "bx.schema.walk"},
    "bx.schema.fix": {
        "bx.schema.check",
        "bx.schema.conditions",
        "bx.schema.merge",
        "bx.schema.restore",
        "bx.schema.walk",
        "bx.schema.words",
    },
    "bx.schema.infer": {"bx.instances", "bx.schema.walk"},
    "bx.schema.example": {"bx.instances", "bx.schema.values", "bx.schema.walk"},
    "bx.schema.values": set(),
    "bx.partial": set(),
    "bx.memory": set(),
    "bx.capabilities": set(),
    "bx.rungs": {"bx.instances", "bx.capabilities", "bx.converse", "bx.partial", "bx.schema.walk"},
    "bx.unfold": {"bx.converse", "bx.instances", "bx.partial", "bx.rungs"},
    "bx.structured": {
        "bx.instances",
        "bx.capabilities",
        "bx.converse",
        "bx.memory",
        "bx.rungs",
        "bx.schema.check",
        "bx.schema.fix",
        "bx.schema.walk",
        "bx.unfold",
    },
    "bx.command": set(),
    "bx.turns": {"bx.instances", "bx.command", "bx.converse", "bx.schema.source", "bx.schema.walk", "bx.tools"},
    "bx.tools": {"bx.instances", "bx.schema.source", "bx.schema.walk"},
    "bx.gguf": set(),
    "bx.disk": set(),
    "bx.download": set(),
    "bx.weights": {"bx.disk", "bx.download"},
    "bx.config": set(),
    "bx.aws": set(),
    "bx.catalogue": {"bx.account", "bx.converse"},
    "bx.diagnosis": set(),
    "bx.foundation": set(),
    "bx.account": {"bx.foundation", "bx.memory"},
    "bx.amend": set(),
    "bx.profiles": {"bx.account", "bx.catalogue", "bx.converse", "bx.diagnosis", "bx.foundation"},
    "bx.cards": {
        "bx.account",
        "bx.capabilities",
        "bx.catalogue",
        "bx.foundation",
        "bx.prices",
        "bx.weights",
    },
    "bx.prices": {"bx.foundation"},
    "bx.usage_page": {"bx.ledger.report"},
    "bx.ledger": set(),
    "bx.ledger.schema": set(),
    "bx.ledger.store": {"bx.ledger.schema"},
    "bx.ledger.meter": {"bx.aws", "bx.config", "bx.converse", "bx.ledger.budget", "bx.ledger.store"},
    "bx.ledger.budget": {"bx.converse", "bx.foundation", "bx.ledger.store", "bx.prices"},
    "bx.ledger.report": set(),
    "bx.ledger.sheet": {"bx.ledger.report"},
    "bx.ledger.history": {"bx.converse", "bx.ledger.redaction", "bx.ledger.store"},
    "bx.ledger.heard": {"bx.converse"},
    "bx.ledger.redaction": {"bx.diagnosis"},
    "bx.doctor": {
        "bx.doctor.account",
        "bx.doctor.cost",
        "bx.doctor.findings",
        "bx.doctor.machine",
        "bx.doctor.models",
        "bx.doctor.network",
    },
    "bx.doctor.findings": {"bx.converse", "bx.diagnosis", "bx.doctor.connection"},
    "bx.doctor.connection": {"bx.diagnosis"},
    "bx.doctor.account": {"bx.doctor.findings"},
    "bx.doctor.network": {"bx.doctor.findings"},
    "bx.doctor.cost": {"bx.doctor.findings"},
    "bx.doctor.machine": {"bx.converse", "bx.doctor.findings", "bx.weights"},
    "bx.doctor.models": {
        "bx.capabilities",
        "bx.converse",
        "bx.doctor.cost",
        "bx.doctor.findings",
        "bx.foundation",
        "bx.memory",
    },
    "bx.engines.surroundings": {"bx.engines.bedrock"},
    "bx.fixtures": {"bx.aws", "bx.server", "bx.server.endpoint"},
    "bx.server": set(),
    "bx.server.exchange": set(),
    "bx.server.frames": set(),
    "bx.server.shapes": {"bx.converse", "bx.instances"},
    "bx.server.content": {"bx.converse", "bx.validation"},
    "bx.server.wire": {"bx.converse", "bx.server.exchange", "bx.server.frames", "bx.server.shapes"},
    "bx.server.emulation": {
        "bx.capabilities",
        "bx.converse",
        "bx.foundation",
        "bx.instances",
        "bx.schema.check",
    },
    "bx.server.control": {"bx.converse", "bx.foundation"},
    "bx.server.native": {
        "bx.capabilities",
        "bx.converse",
        "bx.server.native.anthropic",
        "bx.server.native.nova",
        "bx.server.native.openai",
    },
    "bx.server.native.*": {
        "bx.capabilities",
        "bx.converse",
        "bx.instances",
        "bx.partial",
        "bx.server.native.answers",
        "bx.server.native.body",
        "bx.server.native.citations",
        "bx.server.wire",
    },
    "bx.server.service": {
        "bx.converse",
        "bx.instances",
        "bx.server.content",
        "bx.server.control",
        "bx.server.emulation",
        "bx.server.exchange",
        "bx.server.frames",
        "bx.server.native",
        "bx.server.shapes",
        "bx.server.wire",
    },
    "bx.server.bodies": {"bx.server.exchange", "bx.server.frames"},
    "bx.server.quotas": {"bx.converse", "bx.server.bodies", "bx.server.exchange"},
    "bx.server.effects": {
        "bx.converse",
        "bx.server.bodies",
        "bx.server.control",
        "bx.server.exchange",
        "bx.server.frames",
        "bx.server.quotas",
        "bx.server.wire",
    },
    "bx.server.faults": {
        "bx.converse",
        "bx.server.effects",
        "bx.server.exchange",
        "bx.server.quotas",
        "bx.server.wire",
    },
    "bx.server.cassette": {
        "bx.diagnosis",
        "bx.instances",
        "bx.server.exchange",
        "bx.server.frames",
        "bx.server.wire",
    },
    "bx.server.recording": {
        "bx.converse",
        "bx.instances",
        "bx.server.cassette",
        "bx.server.exchange",
        "bx.server.wire",
    },
    "bx.server.signatures": {"bx.converse", "bx.server.exchange"},
    "bx.server.tls": {"bx.disk"},
    "bx.server.guard": {"bx.converse", "bx.server.exchange", "bx.server.signatures", "bx.server.wire"},
    "bx.server.stats": set(),
    "bx.server.admin": {
        "bx.server.exchange",
        "bx.server.faults",
        "bx.server.frames",
        "bx.server.guard",
        "bx.server.stats",
    },
    "bx.server.feed": {"bx.converse", "bx.server.exchange", "bx.server.wire"},
    "bx.server.http": {
        "bx.converse",
        "bx.server.exchange",
        "bx.server.feed",
        "bx.server.frames",
        "bx.server.wire",
        "bx.server.workers",
    },
    "bx.server.workers": set(),
    "bx.server.http2": set(),
    "bx.server.running": {"bx.server.frames", "bx.server.http", "bx.server.http2"},
    "bx.server.check": {"bx.capabilities", "bx.converse", "bx.foundation"},
    "bx.server.endpoint": {
        "bx.converse",
        "bx.foundation",
        "bx.server",
        "bx.server.admin",
        "bx.server.exchange",
        "bx.server.faults",
        "bx.server.guard",
        "bx.server.http",
        "bx.server.recording",
        "bx.server.running",
        "bx.server.service",
        "bx.server.signatures",
        "bx.server.stats",
        "bx.server.tls",
        "bx.server.wire",
    },
    "bx.engines": {"bx.converse"},
    "bx.engines.chat": {"bx.instances", "bx.converse", "bx.engines.toolcalls"},
    "bx.engines.toolcalls": {"bx.converse", "bx.grammar"},
    "bx.engines.echo": VOCABULARY,
    "bx.engines.bedrock": VOCABULARY,
    "bx.engines.budget": set(),
    "bx.engines.calls": {"bx.converse"},
    "bx.engines.llama": VOCABULARY | {"bx.engines.budget", "bx.engines.calls", "bx.gguf"},
    "bx.engines.local": VOCABULARY
    | {
        "bx.engines.calls",
        "bx.engines.chat",
        "bx.engines.llama",
        "bx.memory",
        "bx.engines.toolcalls",
        "bx.grammar",
        "bx.instances",
        "bx.weights",
    },
    "bx.cli.*": {"bx", "bx.*"},
    "bx.cli": {"bx", "bx.*"},
}


def imports(path: Path, *, of: str = "bx") -> set[str]:
    """Every module of a package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{name.name}" for name in node.names}
            found |= inside & MODULES.keys() or {node.module}
    known = {name for name in found if name == of or name.startswith(f"{of}.")}
    return {name for name in known if name in MODULES} if of == "bx" else known


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_ring_may(module):
    allowed = ALLOWED.get(module, ALLOWED.get(f"{module.rpartition('.')[0]}.*"))
    assert allowed is not None, f"{module} needs its line in the table of this test"
    for name in imports(MODULES[module]) - {"bx"}:
        assert name in allowed or "bx.*" in allowed, f"{module} must not import {name}"


@pytest.mark.parametrize(
    ("outside", "home"),
    [
        ("boto3", None),
        ("botocore.session", "bx.engines.bedrock"),
        ("urllib3", "bx.engines.bedrock"),
        ("xllamacpp", "bx.engines.llama"),
        ("llguidance", "bx.grammar"),
        ("jsonschema_rs", "bx.instances"),
        ("argcomplete", "bx.cli.completion"),
        ("argparse", "bx.cli"),
        ("sqlite3", "bx.ledger"),
        ("tomlkit", "bx.amend"),
        ("prompt_toolkit", "bx.cli.chat"),
        ("genai_prices", "bx.prices"),
        ("asyncio", "bx.server"),
        ("uvicorn", "bx.server"),
        ("zttp", "bx.server.http2"),
        ("prometheus_client", "bx.server.stats"),
        ("trustme", "bx.server.tls"),
    ],
)
def test_each_outside_world_has_one_home(outside, home):
    users = {name for name, path in MODULES.items() if imports(path, of=outside)}
    assert all(home and (name == home or name.startswith(f"{home}.")) for name in users), users


def test_only_the_terminal_prints():
    for name, path in MODULES.items():
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not any(isinstance(call, ast.Name) and call.id in ("print", "input") for call in calls), name


def test_only_config_reads_the_environment():
    readers = {name for name, path in MODULES.items() if "os.environ" in path.read_text()}
    # Each of the others touches one variable that is not a setting of ours, and says which beside it.
    assert readers <= {"bx.config", "bx.aws", "bx.cli", "bx.cli.terminal", "bx.engines.llama", "bx.download"}


def test_there_are_no_cycles():
    graph = {name: imports(path) - {name} for name, path in MODULES.items()}
    seen: dict[str, int] = {}

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name not in seen:
            for below in graph[name]:
                # `bx/cli/__init__.py` names its commands by string, and `bx/__init__.py` imports when called.
                if below not in ("bx", "bx.cli"):
                    visit(below, [*trail, name])
            seen[name] = 1

    for name in graph:
        visit(name, [])
