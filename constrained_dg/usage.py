"""What `--help` prints and what a typo may have meant, read from the comments of the yaml files in conf/."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from constrained_dg.places import choices, yaml_files

#: `key: value # comment` of a yaml file, or `- group: choice # comment` of its defaults.
_LINE = re.compile(r"^(?P<indent> *)(?:- )?(?P<key>[\w/.@-]+):(?P<value>.*?)(?:(?:^| )# (?P<comment>.*))?$")
#: Columns of the names, and of a whole line of help.
_NAMES, _WIDTH = 34, 120


def unknown(what: str, name: str, known: Sequence[str]) -> tuple[str, str]:
    """Problem and hint for a name that is not known."""
    close = difflib.get_close_matches(name, known, n=3)
    suggestion = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"no {what} {name!r}", f"known: {', '.join(known) or 'none'}{suggestion}"


def similar(key: str, config_name: str, folders: Sequence[Path]) -> str:
    """What a key that does not exist may have been meant to be: a hint that begins with "; "."""
    primary = folders[0] / f"{config_name}.yaml"
    known = set(_keys(_read(primary), ""))
    for group in groups(_read(primary)):
        known |= {group}.union(*(_keys(_read(p), group) for f in folders for p in yaml_files(f / group)))
    # Where the part before the last dot is right, only the rest can be wrong.
    parent = key.rpartition(".")[0]
    siblings = sorted(k for k in known if parent and k.rpartition(".")[0] == parent)
    if close := difflib.get_close_matches(key, siblings or sorted(known), n=3, cutoff=0.8 if siblings else 0.6):
        return f"; did you mean {' or '.join(close)}?"
    names = ", ".join(k.rpartition(".")[2] for k in siblings)
    return f"; known in {parent}: {names}" if siblings else "; --help lists all keys"


def groups(primary: Mapping[str, Any]) -> dict[str, str | None]:
    """The groups of a configuration, `- group: choice` among its defaults, and what is chosen of them."""
    entries = [entry for entry in primary.get("defaults") or [] if isinstance(entry, dict)]
    return {str(group): choice for entry in entries for group, choice in entry.items()}


def help_text(config_name: str, folders: Sequence[Path], values: Any, chosen: Mapping[str, Any], program: str) -> str:
    """All keys of a configuration with their values and comments, and the choices of its groups.

    Args:
        folders: conf/ and the user's own folders of yaml files.
        values: the composed configuration, plain values.
        chosen: group -> the name that is chosen of it.
        program: how the script was called, which replaces `python <config_name>.py`.
    """
    primary = folders[0] / f"{config_name}.yaml"
    comments, known_groups = _comments(primary), groups(_read(primary))
    lines = [*_head(primary), "", "Keys, with their values when nothing else is given:", ""]
    for key, value in leaves({k: v for k, v in values.items() if k not in known_groups}, ""):
        comment = comments.get(key, "")
        lines += _entry(f"{key}={_shown(value)}", comment)
        if named := re.search(r"\bconf/(\w+)", comment):
            lines += _listing(named[1], folders)
    for group, default in known_groups.items():
        choice = chosen.get(group) or ("NAME" if default == "???" else "null")
        lines += ["", *_entry(f"{group}={choice}", comments.get(group, ""))]
        lines += _listing(group, folders)
        files = [p for f in folders for p in yaml_files(f / group)]
        # A key is explained where it is chosen, or else in another file of the group.
        last = f"{group}/{choice}.yaml"
        files = [path for is_last in (True, False) for path in files if path.as_posix().endswith(last) is is_last]
        explained = {key: text for path in reversed(files) for key, text in _comments(path).items() if text}
        for key, value in leaves(values.get(group) or {}, ""):
            if key.rpartition(".")[2] != "_target_":
                lines += _entry(
                    f"  {group}.{key}={_shown(value)}", explained.get(key, explained.get(f"{group}.{key}", ""))
                )
    lines += ["", "Flags:", *_entry("--help", "this text, with the values of the keys that are given")]
    lines += _entry("--config-dir=DIR", "a folder of your own yaml files, in addition to conf/: DIR/task/NAME.yaml")
    lines += _entry("--cfg job", "print the configuration, and end") + _entry("-m", "a run for each value of key=A,B")
    return "\n".join(lines).replace(f"python {config_name}.py", program)


def _listing(group: str, folders: Sequence[Path]) -> list[str]:
    """The choices of a group, a line each, with the first comment of their files."""
    lines = []
    for name in choices(group, folders):
        path = next(f / group / f"{name}.yaml" for f in folders if (f / group / f"{name}.yaml").is_file())
        lines += _entry(f"    {name}", " ".join(_head(path)))
    return lines


def _entry(name: str, comment: str) -> list[str]:
    """A name and its comment, wrapped behind the column of names."""
    pieces = textwrap.wrap(comment, _WIDTH - _NAMES - 2) or [""]
    if len(name) > _NAMES:
        return [name, *(" " * (_NAMES + 2) + piece for piece in pieces if piece)]
    return [f"{name:{_NAMES}}  {pieces[0]}".rstrip(), *(" " * (_NAMES + 2) + piece for piece in pieces[1:])]


def _shown(value: Any) -> str:
    """A value as one writes it behind `key=`."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return "VALUE" if value == "???" else str(value)


def _head(path: Path) -> list[str]:
    """The comment lines at the top of a yaml file, without what Hydra reads from them."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines += [] if line.startswith("# @package") else [line.removeprefix("#").removeprefix(" ")]
    return lines


def _comments(path: Path) -> dict[str, str]:
    """Key (with its parents, "a.b") -> the comment behind it."""
    comments: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (match := _LINE.match(line)) or line.lstrip().startswith("#"):
            continue
        depth = len(match["indent"])
        parents = [(d, key) for d, key in parents if d < depth]
        # An entry of the defaults has no parents.
        inside = [] if "- " in line[: match.start("key")] else [key for _, key in parents]
        comments[".".join([*inside, match["key"]])] = match["comment"] or ""
        parents.append((depth, match["key"]))
    return comments


def leaves(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested values, and what they hold."""
    for key, value in values.items():
        if isinstance(value, dict) and any(isinstance(k, str) for k in value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(values: Any, prefix: str) -> set[str]:
    """All keys of a yaml file, with their parents, below a prefix."""
    if not isinstance(values, dict):
        return set()
    here = {
        f"{prefix}.{key}".lstrip("."): value for key, value in values.items() if key not in ("defaults", "_target_")
    }
    return set(here).union(*(_keys(value, name) for name, value in here.items()))


def _read(path: Path) -> Any:
    """The plain values of a yaml file; nothing of one that is broken, which Hydra reports where it is used."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
