"""The baseline: the same backbone, left to right, one token a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.answers import Answers, after_end
from constrained_dg.sampling.base import Denoiser, Generation
from constrained_dg.sampling.distribution import draw
from constrained_dg.sampling.loop import READ_EVERY, select_relations
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.randomness import SAMPLE
from constrained_dg.sampling.request import Request
from constrained_dg.shapes import FloatTensor, IntTensor
from constrained_dg.task import Batch


@dataclass(frozen=True)
class Autoregressive:
    """Emits one token after the other from the causal logits; pinned cells are forced. It knows no other rule.

    A pass is one `next_token` call, so an answer of T tokens takes T passes whatever `max_passes` says, and there is no
    canvas to record.

    Args:
        name: as on the command line.
        temperature: of the sampled tokens; 0 takes the likeliest.
    """

    name: str = "autoregressive"
    temperature: float = 0.0
    needs_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.temperature >= 0, f"temperature is {self.temperature}", "give 0 (the likeliest token) or more")

    @torch.no_grad()
    def run(
        self,
        model: Denoiser,
        batch: Batch,
        constraint: Constraint | None = None,
        seeds: IntTensor | int = 0,
        **options: Any,
    ) -> Generation:
        """See `Sampler.run`; there are no canvases here, so nothing is recorded and options of canvases are ignored.

        Raises:
            InputError: as there, a prompt that is too short or ends in padding, or an option it cannot follow.
        """
        options = Options.of(model, options, refused=("candidates", "rng", "logits_hook"))
        request = Request.of(model, batch, constraint, seeds, options)
        check(
            batch.prompt.shape[1] > 1,
            "the prompt has fewer than 2 tokens",
            "the first token is predicted from the last one",
        )
        check(
            batch.mask is None or bool(batch.mask[:, -1].all()),
            "a prompt ends in padding",
            "pad on the left: the first token is predicted from the last one",
        )
        answers = request.begin(None)
        if not request.refused.all():
            self._fill(model, request, answers)
        return request.conclude(answers)

    def _fill(self, model: Denoiser, request: Request, answers: Answers) -> None:
        options, batch, length = request.options, request.batch, request.tokens.shape[1]
        going = (~request.refused).nonzero().flatten()
        relations, mask = select_relations(batch.relations, going), None if batch.mask is None else batch.mask[going]
        cache = model.prefill(batch.prompt[going, :-1], None if mask is None else mask[:, :-1], relations)
        if hasattr(cache, "reserve"):
            cache.reserve(length)
        last, ended = batch.prompt[going, -1:], torch.zeros_like(going, dtype=torch.bool)
        interval = 1 if going.device.type == "cpu" else READ_EVERY
        for at in range(length):
            if options.expired():
                answers.padding[going, at:] = True
                break
            log_probs = self._scaled(model.next_token(last, cache, relations)).log_softmax(-1)
            chosen = log_probs.argmax(-1)
            if self.temperature > 0:
                chosen = draw(log_probs.exp(), rng.uniform(request.seeds[going], at, 0, SAMPLE, count=1)[:, 0])
            # An answer that has ended waits, all padding, until it leaves.
            chosen = torch.where(ended, options.pad, chosen)
            chosen = torch.where(batch.pinned[going, at], batch.answer[going, at], chosen)
            answers.passes[going] += ~ended
            answers.tokens[going, at], answers.padding[going, at] = chosen, ended
            answers.log_best[going, at] = log_probs.gather(-1, chosen[:, None])[:, 0]
            last = chosen[:, None]
            if options.eos:
                ended = ended | after_end(last, options.eos)[1]
                if (at + 1) % interval == 0 and bool(ended.any()):
                    answers.padding[going, at + 1 :] |= ended[:, None]
                    staying = (~ended).nonzero().flatten()
                    if len(staying) == 0:
                        break
                    going, ended, last, cache = going[staying], ended[staying], last[staying], cache.select(staying)
                    relations = select_relations(batch.relations, going)
        answers.tokens.masked_fill_(answers.padding & ~batch.pinned, options.pad)

    def _scaled(self, logits: FloatTensor) -> FloatTensor:
        return logits / self.temperature if self.temperature > 0 else logits
