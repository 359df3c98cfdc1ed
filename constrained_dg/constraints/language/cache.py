"""Automata over the tokens of a vocabulary, kept on disk: `~/.cache/constrained_dg`, or CONSTRAINED_DG_CACHE."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from constrained_dg.constraints.language.dfa import Dfa
from constrained_dg.constraints.language.vocabulary import TokenAutomaton
from constrained_dg.files import write_whole
from constrained_dg.texts import Texts

log = logging.getLogger(__name__)

#: Changes when automata are made in another way.
_VERSION = 5
#: Vocabularies below this are not worth a file; files that are kept.
_TOKENS, _FILES = 4096, 256


def folder() -> Path:
    """Where automata are kept."""
    named = os.environ.get("CONSTRAINED_DG_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "constrained_dg"


def over_tokens(key: object, make: Callable[[], Dfa], texts: Texts) -> TokenAutomaton | None:
    """The automaton over the tokens, from disk if it was made before; None if it accepts nothing.

    Args:
        key: everything that the automaton depends on besides the vocabulary, as JSON writes it.
    """
    if len(texts) < _TOKENS:
        return _made(make, texts)
    name = hashlib.sha256(json.dumps([_VERSION, key, texts.digest]).encode()).hexdigest()
    path = folder() / f"{name}.npz"
    kept = _read(path, len(texts))
    if kept is not None:
        return kept
    made = _made(make, texts)
    if made is not None:
        _write(path, made)
    return made


def _made(make: Callable[[], Dfa], texts: Texts) -> TokenAutomaton | None:
    dfa = make()
    return TokenAutomaton.of(dfa, texts) if dfa.states else None


def _read(path: Path, tokens: int) -> TokenAutomaton | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = TokenAutomaton(**{each.name: file[each.name] for each in fields(TokenAutomaton)})
        os.utime(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # a file that is cut short, of another program: anything
        log.warning("%s cannot be read (%s); the rule is made again", path, error)
        return None
    return kept if len(kept.classes) == tokens else None


def _write(path: Path, made: TokenAutomaton) -> None:
    """Keep it, and no more than `_FILES` that were used last. A disk that is full or not ours is no reason to stop."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **{each.name: getattr(made, each.name) for each in fields(TokenAutomaton)})
        write_whole(path, buffer.getbuffer())
        files = sorted(path.parent.glob("*.npz"), key=lambda each: each.stat().st_mtime)
        for old in files[:-_FILES]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s cannot be written (%s)", path, error)
