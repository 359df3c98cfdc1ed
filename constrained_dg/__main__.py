"""The command `constrained-dg train ...` (or evaluate, serve, quantise), also as `python -m constrained_dg`."""

from __future__ import annotations

import difflib
import importlib
import sys

import constrained_dg
from constrained_dg import places

_USAGE = """usage: constrained-dg COMMAND [key=value ...]

commands:
  train      train a model on a task:       constrained-dg train task=sudoku
  evaluate   solve problems with a model:   constrained-dg evaluate run=sudoku show=3
  serve      answer requests over HTTP:     constrained-dg serve run=sudoku
  quantise   make a checkpoint smaller:     constrained-dg quantise checkpoint=FOLDER out=FOLDER format=nvfp4

constrained-dg COMMAND --help explains every key. constrained-dg --version prints the version."""
_COMMANDS = ("train", "evaluate", "serve", "quantise")


def main() -> None:
    """Run the command that the command line names; exit code 2 and one line for a command that does not exist."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(_USAGE)
    elif name == "--version":
        print(constrained_dg.__version__)
    elif name == "serve":
        _serve(sys.argv[2:])
    elif name == "quantise":
        importlib.import_module("constrained_dg.quantise").main(sys.argv[2:])
    elif name in _COMMANDS:
        places.script(name).main(sys.argv[2:])
    else:
        close = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(_COMMANDS)}"
        print(f"error: no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)


def _serve(arguments: list[str]) -> None:
    from constrained_dg.cli import require

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "the server (extra serve)")
    from constrained_dg.serving import command

    command.main(arguments)


if __name__ == "__main__":
    main()
