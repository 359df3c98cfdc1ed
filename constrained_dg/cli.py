"""Hydra at the door: scripts get plain values, users get one line that says what is wrong and what would work."""

from __future__ import annotations

import difflib
import errno
import functools
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from constrained_dg.errors import InputError
from constrained_dg.places import CONF, ROOT, choices, module_name
from constrained_dg.runs import build

#: The working folder stays, nothing is written beside what the script itself writes, and logging is ours.
_HYDRA = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.sweep.dir=outputs/sweeps/${now:%Y-%m-%d_%H-%M-%S}",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
#: Errors of the disk, not of the program.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def entry(
    config_name: str, text: Sequence[str] = (), implied: Callable[[list[str]], list[str]] = lambda given: []
) -> Callable[[Callable[[dict[str, Any]], Any]], Callable[..., Any]]:
    """Turn `body(cfg)` into the main function of a script, configured by conf/<config_name>.yaml and `key=value`.

    `cfg` holds plain values, and `overridden`: the top-level keys that were given on the command line. Exit code 2 and
    one line on stderr for bad input, bad configuration and a full or read-only disk; 130 for Ctrl-C.

    Args:
        config_name: a yaml in conf/ beside the script.
        text: keys whose value is taken as it stands, such as paths, where Hydra would read a syntax into it.
        implied: the overrides that follow from those on the command line; they do not count as given. It may raise
            InputError.
    """

    def decorate(body: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        def main(arguments: Sequence[str] | None = None) -> Any:
            given = list(sys.argv)
            words = given[1:] if arguments is None else list(arguments)

            def job(config: Any) -> Any:
                # Lightning starts further processes with sys.argv: give it what the user wrote.
                sys.argv[:] = given
                return _reporting(lambda: body(_values(config, added)))

            _use_our_logging()
            # Hydra would print an error its own way and exit; with this it lets it pass.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            added = _reporting(lambda: implied(words))
            sys.argv[1:] = _arguments([*words, *added], text)
            try:
                # Errors of the body are told inside the job, before Hydra adds a line of its own.
                _reporting(check_tasks)
                return _reporting(hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job))
            finally:
                sys.argv[:] = given

        return main

    return decorate


def load_config(group: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of conf/<group>/<name>.yaml.

    Raises:
        InputError: an unknown name (the known ones are listed) or override.
    """
    known = choices(group)
    if name not in known:
        raise InputError(f"no {group} {name!r}", f"known: {', '.join(known)}")
    try:
        config = OmegaConf.load(CONF / group / f"{name}.yaml")
        OmegaConf.set_struct(config, True)
        config.merge_with_dotlist(list(overrides))
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(_one_line(error)) from None


def load_sampler(name: str, overrides: Sequence[str] = ()) -> Any:
    """The sampler that conf/sampler/<name>.yaml describes; `overrides` such as "max_passes=64".

    Raises:
        InputError: an unknown name (the known ones are listed), an unknown key, or a value out of range.
    """
    return build(load_config("sampler", name, overrides))


def check_tasks() -> None:
    """Raise InputError unless `tasks` is our folder: another installed package may have the same name."""
    spec = importlib.util.find_spec(module_name("tasks"))
    found = Path(spec.origin).parent if spec and spec.origin else None
    if found is None or found.resolve() != ROOT / "tasks":
        raise InputError(f"the package 'tasks' comes from {found}", f"it should be {ROOT / 'tasks'}: check PYTHONPATH")


def _values(config: Any, added: Sequence[str]) -> dict[str, Any]:
    """The configuration as plain values, and the top-level keys of the command line but for what was added to it."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    given = [override for override in HydraConfig.get().overrides.task if override not in added]
    values["overridden"] = sorted({re.split("[.@=]", override.lstrip("+~"), maxsplit=1)[0] for override in given})
    return values


def _use_our_logging() -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def _arguments(given: Sequence[str], text: Sequence[str]) -> list[str]:
    """The command line for Hydra: our defaults, the user's overrides, which win, then flags; text values quoted."""
    flags, overrides = [], list(_HYDRA)
    for argument in given:
        key, equals, value = argument.partition("=")
        if equals and key in text and value not in ("", "null") and value[0] not in "'\"":
            argument = f"{key}='{_escaped(value)}'"
        # argparse takes overrides in one run only, so that flags between them would not be understood.
        (overrides if argument[0:1] != "-" and (equals or argument[0:1] == "~") else flags).append(argument)
    return [*overrides, *flags]


def _escaped(value: str) -> str:
    """For Hydra's single quotes: a backslash counts only before a quote."""
    return re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", value))


def _reporting(call: Callable[[], Any]) -> Any:
    """The call's value; expected errors become one line on stderr and an exit code."""
    try:
        return call()
    except InputError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except yaml.YAMLError as error:
        _fail(f"a configuration file is not YAML: {error}")
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}; free some space or choose another folder")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception) -> str:
    """One line for an error of Hydra or OmegaConf: what is wrong and what is known."""
    text = str(error)
    if found := re.search(r"Could not find '(.+?)/([^/']+)'", text):
        return f"no {found[1]} {found[2]!r}; known: {_choices(found[1])}"
    if found := re.search(r"You must specify '([\w/]+)'", text):
        return f"{found[1]} is missing; give {found[1]}=NAME, known: {_choices(found[1])}"
    if found := re.search(r"Could not override '([\w./@-]+)'", text):
        return f"no configuration key {found[1]!r}{_similar(found[1])}"
    if found := re.search(r"Missing mandatory value: ([\w.]+)", text):
        key = getattr(error, "full_key", None) or found[1]
        return f"{key} is missing; give {key}=VALUE"
    return _one_line(error)


def _choices(group: str) -> str:
    names = choices(group)
    return ", ".join(names) or f"none, conf/{group} has no yaml"


def _similar(key: str) -> str:
    """What the key may have been meant to be, among all keys of all yaml files."""
    group = key.rpartition(".")[0]
    known: set[str] = set()
    for path in CONF.rglob("*.yaml"):
        values = OmegaConf.to_container(OmegaConf.load(path))
        prefix = list(path.relative_to(CONF).parts[:1]) if path.parent != CONF else []
        known |= set(_keys(values, prefix))
    close = difflib.get_close_matches(key, known, n=3)
    beside = sorted(k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == group)
    if group and beside:
        return f"; known in {group}: {', '.join(beside)}"
    return f"; did you mean {', '.join(close)}?" if close else "; --cfg job shows all keys"


def _keys(values: Any, prefix: list[str]) -> list[str]:
    if not isinstance(values, dict):
        return []
    here = [".".join([*prefix, str(key)]) for key in values if key not in ("defaults", "_target_")]
    inner = [k for key, value in values.items() if key != "defaults" for k in _keys(value, [*prefix, str(key)])]
    return here + inner


def _one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
