"""Hydra for the scripts: plain values for them, and one line of error for users that says what would work."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from constrained_dg import usage
from constrained_dg.errors import InputError, check, needs
from constrained_dg.exits import configuring, one_line, running, use_our_logging
from constrained_dg.places import CONF, ROOT, choices, module_name
from constrained_dg.runs import build
from constrained_dg.sampling.sampler import Sampler

#: The folders of --config-dir of the command that runs.
_folders: list[Path] = []


@dataclass
class CommandLine:
    """What the user wrote: overrides `key=value` for Hydra and flags.

    Attributes:
        overrides: for Hydra; a value that is taken literally is replaced by a key of `texts`.
        texts: the value in `overrides` -> the text it replaces.
        keys: the top-level keys that were given.
        folders: those of --config-dir.
    """

    overrides: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    folders: list[Path] = field(default_factory=list)
    sweep: bool = False
    show: bool = False
    help: bool = False


def entry(
    config_name: str,
    text: Sequence[str] = (),
    implied: Callable[[list[str]], list[str]] = lambda given: [],
    opened: Sequence[str] = (),
) -> Callable[[Callable[[dict[str, Any]], Any]], Callable[..., Any]]:
    """Turn `body(cfg)` into the main function of a script, configured by conf/<config_name>.yaml and `key=value`.

    `cfg` holds plain values, and `overridden`: the top-level keys that were given on the command line. Exit code 2 and
    one line on stderr for bad input, bad configuration, too little memory and a full or read-only disk; 130 for Ctrl-C,
    143 for SIGTERM. The main function takes the arguments, by default those of the process.

    Args:
        config_name: a yaml in conf/.
        text: keys whose value is taken literally, such as paths: Hydra would read its own syntax into them.
        implied: the overrides that follow from those on the command line; they do not count as given. It may raise
            InputError.
        opened: blocks of the yaml in which any key may be given; the body checks them.
    """

    def decorate(body: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        def main(arguments: Sequence[str] | None = None) -> Any:
            given = list(sys.argv[1:] if arguments is None else arguments)
            use_our_logging()
            folders = [CONF]
            with configuring(config_name, folders):
                line = parse(given, text, opened)
                folders += line.folders
                _folders[:] = line.folders
                check_tasks()
                line.overrides += implied(given)
                jobs = _jobs(line.overrides) if line.sweep else [line.overrides]
            if line.help:
                with configuring(config_name, folders):
                    text_of_help = _help(config_name, line)
                with running():
                    return print(text_of_help)
            values: list[Any] = []
            for overrides in jobs:
                with configuring(config_name, folders):
                    config, _ = _compose(config_name, overrides, line.folders)
                    cfg = {} if line.show else _values(config_name, config, line)
                with running(), _command(given, line, overrides):
                    values.append(print(OmegaConf.to_yaml(config), end="") if line.show else body(cfg))
                    sys.stdout.flush()
            return values if line.sweep else values[0]

        return main

    return decorate


def require(package: str, purpose: str) -> None:
    """End the script with one line unless the package can be imported: for the imports at the top of a script.

    Args:
        package: its name, the same for pip and for Python.
        purpose: what needs it, such as "training".
    """
    with running(), needs(package, purpose):
        importlib.import_module(package)


def program(config_name: str) -> str:
    """How the script was called, for messages: `python train.py`, or the command that a wheel installs."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        return f"python -m {__package__} {config_name}"
    return f"python {config_name}.py" if name.endswith(".py") else f"{name} {config_name}"


def _plain(config: Any, **options: Any) -> Any:
    """A configuration as plain values."""
    return OmegaConf.to_container(config, **options)


def load_config(group: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of conf/<group>/<name>.yaml.

    Raises:
        InputError: an unknown name (the known ones are listed) or override.
    """
    known = choices(group)
    if name not in known:
        raise InputError(*usage.unknown(group, name, known))
    try:
        config = OmegaConf.load(CONF / group / f"{name}.yaml")
        OmegaConf.set_struct(config, True)
        config.merge_with_dotlist(list(overrides))
        return _plain(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(one_line(error)) from None


def load_sampler(name: str, overrides: Sequence[str] = (), folders: Sequence[Path] | None = None) -> Sampler:
    """The sampler that sampler/<name>.yaml describes, in conf/ or in a folder of --config-dir.

    Args:
        overrides: such as "max_passes=64", or "sampler.accept.bound=3" for what another sampler wraps.
        folders: those of --config-dir; None means those of the command that runs.

    Raises:
        InputError: an unknown name or key (the known ones are listed), or a value out of range.
    """
    folders = _folders if folders is None else folders
    known = usage.choices("sampler", [CONF, *folders])
    if name not in known:
        raise InputError(*usage.unknown("sampler", name, known))
    try:
        composed, _ = _compose(None, [f"+sampler={name}"], folders)
        config = composed.sampler
        for override in overrides:
            _check_key(name, override.partition("=")[0], _plain(config))
        config.merge_with_dotlist(list(overrides))
        return build(_plain(config, resolve=True, throw_on_missing=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(one_line(error)) from None


def adjusted(name: str, names: Sequence[str], changes: Any) -> list[str]:
    """The overrides for one of several samplers, from what `sampler.KEY=VALUE` and `sampler.NAME.KEY=VALUE` gave.

    Args:
        name: of the sampler.
        names: of all that are compared.
        changes: nested dicts; the key of a sampler that is compared holds the changes to this one, other keys change
            the only one.

    Raises:
        InputError: changes that name no sampler while several are compared.
    """
    check(
        isinstance(changes, dict), f"'sampler' is {changes!r}", "use samplers=[NAME], and sampler.KEY=VALUE to adjust"
    )
    of_one = {key: value for key, value in changes.items() if key in names and isinstance(value, dict)}
    of_all = {key: value for key, value in changes.items() if key not in of_one}
    hint = f"several are compared: use sampler.NAME.KEY=VALUE with NAME one of {', '.join(sorted(set(names)))}"
    check(not of_all or len(set(names)) == 1, f"sampler.{next(iter(of_all), '')} names no sampler", hint)
    flat = [*usage.leaves(of_all, ""), *usage.leaves(of_one.get(name, {}), "")]
    return [f"{key}={'null' if value is None else json.dumps(value)}" for key, value in flat]


def _check_key(name: str, key: str, values: Any) -> None:
    """Raise InputError unless a dotted key exists in nested values."""
    parts, level = key.split("."), values
    for depth, part in enumerate(parts):
        inside = isinstance(level, dict)
        known = [each for each in level if each != "_target_"] if inside else []
        if not inside or part not in level:
            path = ".".join([name, *parts[:depth]])
            close = difflib.get_close_matches(part, known, n=1)
            hint = (f"did you mean {close[0]}? " if close else "") + f"known in {path}: {', '.join(known) or 'none'}"
            raise InputError(f"sampler {name!r} has no key {key!r}", hint)
        level = level[part]


def keys_of(config_name: str) -> list[str]:
    """The top-level keys of conf/<config_name>.yaml."""
    return [str(key) for key in _plain(OmegaConf.load(CONF / f"{config_name}.yaml"))]


def check_tasks() -> None:
    """Raise InputError unless `tasks` is our folder: another installed package may have the same name."""
    spec = importlib.util.find_spec(module_name("tasks"))
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or folder.resolve() != ROOT / "tasks":
        raise InputError(f"the package 'tasks' comes from {folder}", f"it should be {ROOT / 'tasks'}: check PYTHONPATH")


def parse(given: Sequence[str], text: Sequence[str] = (), opened: Sequence[str] = ()) -> CommandLine:
    """The command line, read.

    Raises:
        InputError: an unknown flag, an argument that is neither a flag nor key=value, or a key that would be removed.
    """
    line, rest = CommandLine(), iter(given)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = Path(value if equals else next(rest, ""))
            check(folder.is_dir(), f"--config-dir: no folder {str(folder)!r}", "give a folder of yaml files")
            line.folders.append(folder.absolute())
        elif flag in ("--cfg", "-c"):
            what = value if equals else next(rest, "")
            check(what == "job", f"--cfg {what}", "only --cfg job is known")
            line.show = True
        elif argument in ("--multirun", "-m"):
            line.sweep = True
        elif argument in ("--help", "-h"):
            line.help = True
        else:
            check(not argument.startswith("-"), f"unknown flag {argument!r}", "--help lists all keys and flags")
            _take(line, argument, text, opened)
    return line


def _take(line: CommandLine, argument: str, text: Sequence[str], opened: Sequence[str]) -> None:
    """Read one override, key=value."""
    written, equals, value = argument.partition("=")
    key = written.lstrip("+")
    hint = "use key=value, such as seed=1; --help lists all keys"
    check(not argument.startswith("~"), f"{argument!r} would remove a key", hint)
    check(bool(equals and key), f"argument {argument!r} is not of the form key=value", hint)
    check(re.split("[./@]", key, maxsplit=1)[0] != "hydra", f"no configuration key {key!r}", hint)
    check(key not in opened, f"{key!r} is a block of keys", f"use {key}s=[NAME] to choose, {key}.KEY=VALUE to adjust")
    line.keys.add(re.split("[.@]", key, maxsplit=1)[0])
    if key in text:
        check(bool(value), f"{key} is empty", f"give {key}=VALUE, or leave it out")
        if value != "null":
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            placeholder = f"text-{len(line.texts)}-of-the-command-line"
            line.texts[placeholder] = value[1:-1] if quoted else value
            argument = f"{written}={placeholder}"
    if key.partition(".")[0] in opened and "." in key:
        argument = f"++{key}={value}"
    line.overrides.append(argument)


def _help(config_name: str, line: CommandLine) -> str:
    """What --help prints; groups that have no choice yet, such as the task, are left out of the configuration."""
    primary = usage.groups(_plain(OmegaConf.load(CONF / f"{config_name}.yaml")))
    without = [f"~{group}" for group, choice in primary.items() if choice == "???" and group not in line.keys]
    config, chosen = _compose(config_name, [*line.overrides, *without], line.folders)
    values = _plain(config, resolve=False)
    return usage.help_text(config_name, [CONF, *line.folders], values, chosen, program(config_name))


def _compose(config_name: str | None, overrides: Sequence[str], folders: Sequence[Path]) -> tuple[Any, dict[str, Any]]:
    """Hydra's configuration, and what is chosen of each group."""
    added = []
    if folders:
        paths = [f"'{_escaped(f'file://{folder}')}'" for folder in folders]
        added.append(f"hydra.searchpath=[{','.join(paths)}]")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(config_name, [*overrides, *added], return_hydra_config=True)
    chosen = _plain(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config, chosen


def _values(config_name: str, config: Any, line: CommandLine) -> dict[str, Any]:
    """The configuration as plain values.

    Raises:
        InputError: a key that the script does not know, or a group or a block of keys that became something else.
    """
    values = _with_texts(_plain(config, resolve=True, throw_on_missing=True), line.texts)
    primary = _plain(OmegaConf.load(CONF / f"{config_name}.yaml"))
    groups, folders = usage.groups(primary), [CONF, *line.folders]
    blocks = {key: value for key, value in primary.items() if isinstance(value, dict)}
    unknown = [str(key) for key in values if key not in primary and key not in groups]
    for key in {**blocks, **{group: None for group, choice in groups.items() if choice}}:
        hint = f"use {key}.KEY=VALUE" if key in blocks else f"give {key}=NAME"
        check(isinstance(values.get(key), dict), f"{key} is {values.get(key)!r}", hint)
        unknown += [f"{key}.{inner}" for inner in values[key] if blocks.get(key) and inner not in blocks[key]]
    if unknown:
        raise InputError(f"no configuration key {unknown[0]!r}{usage.similar(unknown[0], config_name, folders)}")
    return values | {"overridden": sorted(line.keys)}


def _with_texts(values: Any, texts: dict[str, str]) -> Any:
    """Plain values with the texts of the command line in place of their placeholders."""
    if isinstance(values, dict):
        return {key: _with_texts(value, texts) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_texts(value, texts) for value in values]
    return texts.get(values, values) if isinstance(values, str) else values


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep: all combinations of key=A,B."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    axes = []
    for text, override in zip(overrides, parsed, strict=True):
        sweeps = override.is_sweep_override()
        check(not sweeps or override.is_discrete_sweep(), f"{text} is not a list of values", "use key=A,B")
        values = (
            [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            if sweeps
            else [text]
        )
        axes.append(values)
    return [list(job) for job in itertools.product(*axes)]


def _escaped(value: str) -> str:
    """For Hydra's single quotes: a backslash counts only before a quote; ${ would begin an interpolation."""
    return re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", value)).replace("${", "\\${")


@contextlib.contextmanager
def _command(given: list[str], line: CommandLine, overrides: Sequence[str]) -> Iterator[None]:
    """Within, sys.argv is the command of one run of a sweep: Lightning starts further processes with it."""
    before = list(sys.argv)
    if line.sweep:
        pairs = [override.partition("=") for override in overrides]
        texts = [f"{key}='{line.texts[value]}'" if value in line.texts else f"{key}={value}" for key, _, value in pairs]
        sys.argv[len(before) - len(given) :] = [*(f"--config-dir={folder}" for folder in line.folders), *texts]
    try:
        yield
    finally:
        sys.argv[:] = before
