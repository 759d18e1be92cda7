"""`bx completion`: completion of commands, options and model names in bash, zsh and fish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from bx.cli.terminal import Terminal

_PATHS = ("json", "path", "files", "tool")  # the arguments that are files
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


def complete(line: str) -> None:
    """Answer the shell that asks, through argcomplete's variables, how a line may go on; then leave."""
    import argcomplete

    from bx.cli import COMMANDS, parser

    top = parser("ask")
    first = [*line.split(), "", ""][1]
    if any(name.startswith(first) for name in COMMANDS):  # a command is the first word, or none
        commands = top.add_subparsers()
        for name, about in COMMANDS.items():
            commands.add_parser(name, help=about, parents=[parser(name)], add_help=False)
    argcomplete.autocomplete(top, always_complete_options="long", default_completer=_files)  # type: ignore[arg-type] # a function is one too


def _files(prefix: str, action: argparse.Action, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter()(prefix)) if action.dest in _PATHS else []
