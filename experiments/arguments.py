"""`key=value` arguments of the experiments' commands, and the end of a command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from constrained_dg.errors import InputError, check


def parse(arguments: Sequence[str], defaults: Mapping[str, str | int | bool | None]) -> dict:
    """The values of `defaults`, replaced by given ones of the same type.

    Args:
        defaults: None for a key that must be given, as text.

    Raises:
        InputError: an unknown key, a missing one, or a value of another type.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = sorted(set(given) - set(defaults))
    check(not unknown, f"unknown keys {unknown}", f"there are {', '.join(defaults)}")
    missing = [key for key, value in defaults.items() if value is None and not given.get(key)]
    check(not missing, f"{', '.join(missing)} missing", f"give {' '.join(f'{key}=...' for key in missing)}")
    values = dict(defaults)
    for key, text in given.items():
        default = defaults[key]
        if isinstance(default, bool):
            check(text in ("true", "false"), f"{key}={text!r}", "give true or false")
            values[key] = text == "true"
        elif isinstance(default, int):
            check(text.isdecimal() and len(text) < 10, f"{key}={text!r}", "give a whole number")
            values[key] = int(text)
        else:
            values[key] = text
    return values


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Call `main` with the arguments of the command line; bad input and Ctrl-C end it with one line."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues, if the experiment saves finished parts")
