"""`bx completion`: completion of commands, options and model names in bash, zsh and fish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import MutableMapping

    from bx.cli.terminal import Terminal

# The arguments that are files or folders.
_PATHS = ("json", "path", "files", "tool", "auth", "cert", "key", "self_signed", "record", "replay")
_SHELLS = ("bash", "zsh", "fish")
_EPILOG = """\
bash: bx completion bash > ~/.local/share/bash-completion/completions/bx
zsh:  bx completion zsh > a folder of your $fpath, as _bx
fish: bx completion fish > ~/.config/fish/completions/bx.fish
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Print the completion script of a shell. Its place, taken up by the next shell you start:"
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=_SHELLS, metavar="bash|zsh|fish", help="the shell to complete in")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Print the script."""
    from argcomplete.shell_integration import shellcode

    terminal.line(shellcode(["bx"], shell=options.shell))
    return 0


def complete(environ: MutableMapping[str, str]) -> None:
    """Answer the shell that asks, through argcomplete's variables, how a line may go on; then leave."""
    import argcomplete

    from bx.cli import COMMANDS, parser

    line = environ.get("COMP_LINE", "")
    _, first, rest = [*line.split(" ", 2), "", ""][:3] if line.count(" ") > 1 else ("", line.partition(" ")[2], None)
    if first in COMMANDS and rest is not None:
        environ["_ARGCOMPLETE"] = "2"  # the line's words count from the second one on
        made = parser(first)
    else:
        made = parser("ask")
        if any(name.startswith(first) for name in COMMANDS):  # a command is the first word, or none
            commands = made.add_subparsers()
            for name, about in COMMANDS.items():
                commands.add_parser(name, help=about)
    argcomplete.autocomplete(made, always_complete_options="long", default_completer=_files)  # type: ignore[arg-type] # a function is one too


def _files(prefix: str, action: argparse.Action, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter()(prefix)) if action.dest in _PATHS else []
