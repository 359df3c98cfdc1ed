"""The samplers that have a name: in Python here, on the command line and in yaml through conf/sampler/NAME.yaml."""

from __future__ import annotations

import difflib
from dataclasses import replace

from constrained_dg.errors import InputError
from constrained_dg.sampling.accept import EntropyBound, Schedule
from constrained_dg.sampling.autoregressive import Autoregressive
from constrained_dg.sampling.completer import Completer
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.renoise import Violations
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.sampling.search import Search
from constrained_dg.sampling.sets import Sets
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.sampling.views import Views
from constrained_dg.sampling.wrappers import Candidates, Restarts, Symmetry

#: DiffusionGemma's sampler (2026). It reads no rule but the pinned cells.
PLAIN = Diffusion()
#: The same with a looser bound: it accepts many tokens a pass, and corrects itself.
PLAIN_EAGER = replace(PLAIN, name="plain_eager", accept=EntropyBound(6.0))
#: Plain guided by the rules. No search.
VALIDITY = replace(PLAIN, name="validity", guide=Guide(masks=True), renoise=Violations(), judge_stop=True)
#: Validity with accepted tokens as known: masks then propagate by themselves. Report it apart from the others.
KNOWN = replace(VALIDITY, name="known", guide=Guide(masks=True, known_accepted=True))
#: Validity with a looser bound.
EAGER = replace(VALIDITY, name="eager", accept=EntropyBound(6.0))
#: Eager from fresh noise every eight passes until the judge accepts. The recommended sampler.
RESTARTS = Restarts("restarts", replace(EAGER, max_passes=8))
#: Restarts, then a bounded search ordered by the model.
GUARANTEED = replace(RESTARTS, name="guaranteed", complete=Completer())
#: Restarts, each in a version of the problem moved by a symmetry of the task.
SYMMETRY = Symmetry("symmetry", RESTARTS.sampler)
#: Symmetry near the arg-max: where a problem has many answers (colorings), a warm sample mixes them.
COLD = replace(SYMMETRY, name="cold", sampler=replace(SYMMETRY.sampler, temperature=LinearTemperature(0.4, 0.1)))
#: Sets of living tokens: what the model calls unlikely is eliminated, and a position pinned; a conflict ends the row.
ELIMINATION = replace(PLAIN, name="elimination", sets=Sets(), judge_stop=True, max_passes=32)
#: Elimination again after each conflict, in versions moved by a symmetry. Rules only judge: the model alone.
SETS = Symmetry("sets", ELIMINATION, attempts=1_000_000, max_passes=64)
#: Sets, where the rules rule out tokens too. Report it apart from the others.
SETS_RULES = replace(SETS, name="sets_rules", sampler=replace(ELIMINATION, guide=Guide(masks=True)))
#: Sets, then a bounded search ordered by the model.
SETS_GUARANTEED = replace(SETS, name="sets_guaranteed", complete=Completer())
#: Elimination again after each conflict, for tasks without symmetries.
SETS_RESTARTS = Restarts("sets_restarts", ELIMINATION, attempts=1_000_000, max_passes=64)
#: The likeliest token of each position after one pass on pure noise.
ONE_PASS = replace(PLAIN, name="one_pass", max_passes=1)
#: The likeliest answer under that pass which keeps the rules.
ONE_PASS_COMPLETED = replace(ONE_PASS, name="one_pass_completed", complete=Completer(improve=True))
#: The same under the mean of that pass on sixteen views of a picture.
VIEWS = Views("views", ONE_PASS_COMPLETED)
#: Sixteen answers from one prefill; the first that the judge accepts ends the others.
CANDIDATES = Candidates("candidates", replace(EAGER, max_passes=64))
#: For texts that are open but for their rules: a growing share of positions keeps its draw, and a short search mends.
EXACT = Diffusion(
    "exact", Guide(masks=True), LinearTemperature(1.0, 0.9), Schedule(), max_passes=16, complete=Completer(0.1)
)
#: Exact, sharper and in more passes: for graphs of a family.
EXACT_SHARPER = replace(EXACT, name="exact_sharper", temperature=LinearTemperature(0.9, 0.7), max_passes=64)
#: For rules on text: plain with masks; if the last answer breaks a rule, the likeliest that breaks none stands for it.
COMPLETED = replace(PLAIN, name="completed", guide=Guide(masks=True), max_passes=12, complete=Completer(0.1))
#: Left to right, one token a pass.
AUTOREGRESSIVE = Autoregressive()
#: The same, where the rules mask each token.
AUTOREGRESSIVE_RULES = Autoregressive("autoregressive_rules", Guide(masks=True))
#: The completer alone, without a model.
SEARCH = Search()

_SIMPLE = (PLAIN, PLAIN_EAGER, VALIDITY, KNOWN, EAGER, ELIMINATION, EXACT, EXACT_SHARPER, COMPLETED)
_ONCE = (ONE_PASS, ONE_PASS_COMPLETED)
_WRAPPED = (RESTARTS, GUARANTEED, SYMMETRY, COLD, SETS, SETS_RULES, SETS_GUARANTEED, SETS_RESTARTS, CANDIDATES, VIEWS)
_ALL: dict[str, Sampler] = {
    each.name: each for each in (*_SIMPLE, *_ONCE, *_WRAPPED, AUTOREGRESSIVE, AUTOREGRESSIVE_RULES, SEARCH)
}


def sampler_names() -> list[str]:
    """The names that `named` knows, in alphabetical order."""
    return sorted(_ALL)


def named(name: str) -> Sampler:
    """The sampler of this name; `dataclasses.replace` changes parts of it.

    Raises:
        InputError: no sampler has this name; the known ones are listed.
    """
    if name not in _ALL:
        raise InputError(f"no sampler {name!r}", known_names(name, sampler_names()))
    return _ALL[name]


def known_names(name: str, names: list[str]) -> str:
    """A hint: what the name may have been meant to be, and all names."""
    close = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"known: {', '.join(names)}"
