"""The baseline: the same backbone, left to right, one token a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from constrained_dg import rng
from constrained_dg.constraints.base import Constraint
from constrained_dg.errors import check
from constrained_dg.sampling.base import Denoiser, Generation, StepRecord
from constrained_dg.sampling.loop import SAMPLE, draw, select_relations
from constrained_dg.sampling.request import Request, after_end
from constrained_dg.shapes import IntTensor
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
        *,
        max_passes: int | None = None,
        canvas_length: int | None = None,
        eos: tuple[int, ...] = (),
        pad: int = 0,
        on_step: Callable[[StepRecord], None] | None = None,
        trace: bool = False,
    ) -> Generation:
        """See `Sampler.run`; there are no canvases here, so nothing is recorded."""
        length = batch.canvas.shape[1]
        request = Request.of(batch, constraint, seeds, length, model.vocab_size)
        check(
            batch.prompt.shape[1] > 1,
            "the prompt has fewer than 2 tokens",
            "the first token is predicted from the last one",
        )
        tokens, passes = request.tokens.clone(), torch.zeros_like(request.seeds)
        log_probability = torch.zeros(len(tokens), device=tokens.device)
        going = (~request.refused).nonzero().flatten()
        if len(going):
            prompt, pinned = batch.prompt[going], batch.pinned[going]
            relations, row_seeds = select_relations(batch.relations, going), request.seeds[going]
            cache = model.prefill(prompt[:, :-1], relations=relations)
            last = prompt[:, -1:]
            ended = torch.zeros_like(going, dtype=torch.bool)
            for at in range(length):
                log_probs = self._scaled(model.next_token(last, cache, relations)).log_softmax(-1)
                chosen = log_probs.argmax(-1)
                if self.temperature > 0:
                    chosen = draw(log_probs.exp(), rng.uniform(row_seeds, at, 0, SAMPLE, count=1)[:, 0])
                passes[going] += 1
                free = ~pinned[:, at]
                chosen = torch.where(free, chosen, batch.canvas[going, at])
                gained = log_probs.gather(-1, chosen[:, None])[:, 0]
                log_probability[going] += gained.masked_fill(~free | ended, 0)
                tokens[going, at], last = chosen, chosen[:, None]
                if eos:
                    ended |= after_end(last, eos)[1]
                    if bool(ended.all()):
                        break
        padding = torch.zeros_like(batch.pinned)
        padding[going] = after_end(tokens[going], eos)[0]
        tokens = torch.where(padding & ~batch.pinned, pad, tokens)
        return request.conclude(tokens, passes=passes, padding=padding, log_probability=log_probability)

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / self.temperature if self.temperature > 0 else logits
