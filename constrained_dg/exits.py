"""How a script ends: with one line that says what is wrong and what would work, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from constrained_dg import usage
from constrained_dg.errors import InputError
from constrained_dg.places import choices

#: Errors of the disk and of names, not of the program.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_DISK |= {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EMFILE}
#: A longer message is cut in its middle.
_LONGEST = 2000


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program as Ctrl-C does, with another exit code."""


def use_our_logging() -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal's encoding lacks must not raise.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def configuring(config_name: str, folders: Sequence[Path]) -> Iterator[None]:
    """Every error of reading the command line and the yaml files becomes one line on stderr and exit code 2."""
    try:
        yield
    except InputError as error:
        fail(str(error))
    except RecursionError:
        fail("the configuration is nested too deeply")
    except Exception as error:
        # Hydra, OmegaConf and yaml raise many types for what a user wrote.
        fail(explain(error, config_name, folders))


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Expected errors become one line on stderr and an exit code; SIGTERM is raised as Terminated."""
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except InputError as error:
        fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would fail again when it ends
        sys.exit(141)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        fail(f"{error.filename or 'output'}: {error.strerror}; free some space or choose another path")
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError on a CPU, and a subclass of it on other devices.
        if isinstance(error, RuntimeError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        fail(f"not enough memory ({one_line(error)[:200] or 'MemoryError'}); use a smaller batch_size or problem")
    except ValueError as error:
        # Python's limit for numbers in text: no task reads such a number.
        if "integer string conversion" not in str(error):
            raise
        fail(explain(error))
    except KeyboardInterrupt as error:
        print("terminated" if isinstance(error, Terminated) else "interrupted", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def fail(message: str) -> NoReturn:
    """End with exit code 2 and one line on stderr."""
    message = " ".join(message.split())
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception, config_name: str = "", folders: Sequence[Path] = ()) -> str:
    """One line for an error of Hydra or OmegaConf: what is wrong and what is known."""
    text = str(error)
    if match := re.search(r"Could not find '([^/']+)/([^']+)'", text):
        return "; ".join(usage.unknown(match[1], match[2], choices(match[1], folders)))
    if match := re.search(r"You must specify '([\w/]+)'", text):
        known = ", ".join(choices(match[1], folders))
        return f"{match[1]} is missing; give {match[1]}=NAME, known: {known or f'none, conf/{match[1]} has no yaml'}"
    if match := re.search(r"Could not override '([\w./@-]+)'", text):
        return f"no configuration key {match[1]!r}{usage.similar(match[1], config_name, folders)}"
    if match := re.search(r"Missing mandatory value: ([\w.]+)", text):
        key = error.full_key if isinstance(error, OmegaConfBaseException) and error.full_key else match[1]
        return f"{key} is missing; give {key}=VALUE"
    if isinstance(error, OverrideParseException):
        reason = one_line(error).partition("; See ")[0]
        return f"cannot read {error.override!r} ({reason}); put quotes around a text: KEY=\"'VALUE'\""
    if "integer string conversion" in text:
        return "a number has more than 4300 digits; give a smaller one"
    if isinstance(error, UnicodeDecodeError):
        return f"a yaml file is not UTF-8 text ({error})"
    return one_line(error).partition("; Config search path")[0] or type(error).__name__


def one_line(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
