"""`bx PROMPT`: ask a model, and print the answer, stream it, or hold it to a JSON Schema."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from bx import converse
from bx.cli import COMMANDS, UsageError, answer, conversation, place_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bx.cli.terminal import Terminal
    from bx.tools import Tool

_ARRAY = "Write the fields of an element in brackets: --json '[name, age int]'"
_EPILOG = """\
examples:
  bx "Three uses of a brick" --model local          a model on this machine: no account, no network
  bx "Three uses of a brick" --model claude         the same request, sent to Amazon Bedrock
  git diff | bx "Write a commit message"            standard input joins the prompt
  bx "Extract: ..." --json incident.schema.json     JSON that satisfies a schema, or exit code 8
  bx "Extract: ..." --json 'service, minutes int'   the same, with the schema in words
  bx -c "And in French?"                            go on with the last conversation: see bx log
  bx "..." -o reasoningConfig.type enabled          the model's own parameters
  bx ask pull                                       a prompt that is a command's name

Most options have a variable: BX_MODEL, BX_MAX_TOKENS, ... The pages in docs/ say more.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = "\n".join(f"  {name:<11} {about}" for name, about in COMMANDS.items())
    parser.usage = "bx [OPTIONS] PROMPT\n       bx COMMAND [OPTIONS]"
    parser.description = f"Ask a model of Amazon Bedrock, or one on this machine.\n\ncommands:\n{commands}"
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("words", nargs="*", metavar="PROMPT", help="the prompt; - reads it from standard input")
    model = add("-m", "--model", metavar="NAME", help="an alias, a model id, a profile id or an ARN (default: nova)")
    model.completer = model_names  # type: ignore[attr-defined] # argcomplete's protocol
    add("-s", "--system", metavar="TEXT", help="the system prompt")
    add(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="print the answer as it arrives (default: on a terminal)",
    )
    add(
        "--json",
        metavar="SCHEMA",
        help="a JSON Schema for the answer: a file, 'service, minutes int', module:Name, JSON, or - for stdin",
    )
    add("--jsonl", action="store_true", help="print each element of an array as a line, as soon as it is complete")
    guarantee = add("--guarantee", metavar="HOW", help="of --json: enforced, validated (the default) or any")
    guarantee.completer = lambda **_: ["enforced", "validated", "any"]  # type: ignore[attr-defined]
    add("--relearn", action="store_true", help="forget what the model was seen to refuse, and try again")
    add("-T", "--tool", action="append", metavar="FILE", help="a tool that the model may call (repeatable)")
    add("--max-turns", metavar="N", help="how often the model is asked while it calls tools (default: 10)")
    add("--max-tokens", metavar="N", help="the longest answer, in tokens")
    add("--temperature", metavar="X", help="0 for the likeliest words, up to 1 for more variety")
    add("--top-p", metavar="X", help="choose among the likeliest words that make up this share, 0 to 1")
    add("--stop", action="append", metavar="TEXT", help="end the answer before this text (repeatable)")
    add("-o", "--option", nargs=2, action=_Field, metavar=("KEY", "VALUE"), help="a parameter of the model's own")
    add("--auto-profile", action="store_true", help="where a model needs an inference profile, find it and ask again")
    place_arguments(parser)
    conversation.add_arguments(parser)
    add("--max-cost", metavar="USD", help="send nothing that could bring the cost of the answer above this")
    add("-u", "--usage", action="store_true", help="print tokens, cost and latency to stderr")
    add("--dry-run", action="store_true", help="print the Converse request as JSON and send nothing")
    add("--raw", action="store_true", help="print the whole response, or each event of a stream, as JSON")
    add("--raw-output", action="store_true", help="let the answer's control characters through to the terminal")
    add("-y", "--yes", action="store_true", help="fetch what is missing and run what tools name, without asking")
    add("-q", "--quiet", action="store_true", help="print nothing to stderr but failures")
    add("-v", "--verbose", action="store_true", help="print reasoning, attempts and AWS's own words to stderr")
    add("-V", "--version", action="store_true", help="print the version")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Ask, and print the answer."""
    if not options.words and terminal.typed:
        from bx.cli import parser

        terminal.line(parser("ask").format_help().rstrip())
        return 0
    talk = conversation.Conversation(options, terminal)
    options.model_id = chosen_model(options, terminal)
    schema, tools = _schema(options, terminal), _tools(options)
    options.tools = tools
    request = converse.request(
        talk.asking(_prompt(options, terminal)),
        model=options.model_id,
        system=options.system,
        schema=schema,
        fields=options.option,
        maxTokens=options.max_tokens,
        temperature=options.temperature,
        topP=options.top_p,
        stopSequences=options.stop,
    )
    if tools:
        from bx.tools import config

        request["toolConfig"] = config(tools)
    text = _checked(request)
    engine = answer.engine(schema, tools, options, terminal)
    if options.dry_run:
        first = getattr(engine, "first", None)
        terminal.line(_checked(first(request)) if first else text)
    else:
        talk.show(answer.equipped(engine, tools, options, terminal), request, schema)
    return 0


def chosen_model(options: argparse.Namespace, terminal: Terminal) -> str:
    """Return the id to send for the model that is chosen, and tell what there is to tell about it."""
    from bx.catalogue import DEFAULT
    from bx.cli import naming

    name = DEFAULT if options.model is None else options.model
    resolved = naming.catalogue(options).resolve(name)
    if resolved.note:
        terminal.note(f"{resolved.note}")
    return resolved.id


def _checked(request: converse.Request) -> str:
    """Write a request as JSON, and so make sure that it can be sent."""
    try:
        text = json.dumps(request, indent=2, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("The request holds bytes that are not UTF-8 text", "Give the texts in UTF-8") from None
    except (TypeError, ValueError) as cause:
        raise UsageError(f"The request cannot be sent as JSON: {cause}", "Correct that --option or setting") from None
    return text


def _prompt(options: argparse.Namespace, terminal: Terminal) -> str:
    """Join the argument and standard input; the schema may have taken standard input already."""
    words, from_stdin = [word for word in options.words if word != "-"], options.json == "-"
    read = "-" in options.words or (terminal.piped and not from_stdin)
    if "-" in options.words and from_stdin:
        raise UsageError("Standard input cannot be both the prompt and the schema", "Put the schema in a file")
    if len(words) > 1:
        raise UsageError(f"The prompt is {len(words)} arguments", f'Put it in quotes: bx "{" ".join(words)}"')
    if read:
        words.append(terminal.read_input().rstrip("\n"))
    prompt = "\n\n".join(part for part in words if part.strip())
    if not prompt:
        raise UsageError("The prompt is empty", 'Type it in quotes: bx "Three uses of a brick"')
    return prompt


def _schema(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any] | None:
    """Read the JSON Schema of --json, and of --jsonl one of an array."""
    if options.json is None:
        if options.jsonl:
            raise UsageError("--jsonl needs a schema", "Add one: --json '[name, age int]'")
        return None
    from bx.schema import check, source

    schema = source.read(options.json, terminal.read_input)
    check.well_formed(schema)
    if options.jsonl and schema.get("type") != "array":
        raise UsageError("--jsonl prints the elements of an array, and the schema is of none", _ARRAY)
    return schema


def _tools(options: argparse.Namespace) -> list[Tool]:
    if not options.tool:
        return []
    from bx import tools

    return [tools.read(path) for path in options.tool]


def model_names(**_: object) -> list[str]:
    """Name the models for the shell's completion."""
    return list(known_models())


def known_models() -> dict[str, dict[str, Any]]:
    """Return the entries of all names, the user's own among them: see `bx.catalogue.Catalogue`."""
    from bx import config
    from bx.catalogue import Catalogue

    try:
        return Catalogue(config.load().models).models
    except ValueError:  # a file is broken, which the command will tell, and the TAB key not
        return Catalogue().models


class _Field(argparse.Action):
    """Collect `-o KEY VALUE`: dotted keys nest, values are JSON or else text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 # argparse's signature
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002 # argparse's signature
    ) -> None:
        key, text = list(values or ("", ""))
        try:
            value = json.loads(text, parse_constant=int)  # which NaN and Infinity are not: they are no JSON
        except ValueError:
            value = text
        *outer, last = key.split(".")
        if not all((*outer, last)):
            raise UsageError(
                f"The key {key!r} of --option has an empty part", "Write it as in -o thinking.type enabled"
            )
        fields = getattr(namespace, self.dest) or {}
        inner = fields
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise UsageError(
                    f"The key {key!r} of --option goes below a value", "Give either the value or its parts"
                )
        if isinstance(inner.get(last), dict):
            raise UsageError(f"The key {key!r} of --option stands above others", "Give either the value or its parts")
        inner[last] = value
        setattr(namespace, self.dest, fields)
