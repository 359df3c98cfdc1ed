"""One training step of Sudoku, timed again and again: a process of its own, on the code of any commit.

Reads what to measure (json) as its argument; each line on stdin asks for one measurement, answered by a json line.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import torch

from constrained_dg.diffusion import canvas_loss, next_token_loss
from constrained_dg.model import Backbone, RoutingRecord, preset
from constrained_dg.model.moe import balance_loss
from constrained_dg.training.optimiser import new_optimiser
from tasks.sudoku.task import VOCAB_SIZE, relations

#: Steps of a measurement; the fastest counts, in seconds of the processor.
STEPS = 3


class Step:
    """The model, inputs and optimiser of a step.

    `whole` is the default step of 2026-11-26: a prompt in front of the canvas, a first prediction without gradient for
    half of the rows, the loss on the prompt for an eighth of them, the loss of the router. Otherwise the canvas is
    alone, and the loss of each loop is all.
    """

    def __init__(self, whole: bool, bf16: bool, batch: int, loops: int, hidden: int) -> None:
        sizes = {"hidden_size": hidden, "head_dim": hidden // 4, "global_head_dim": hidden // 4, "loops": loops}
        config = preset("small", vocab_size=VOCAB_SIZE, num_relations=5, **sizes)
        self.model = Backbone(config).init_weights(torch.Generator().manual_seed(0)).train()
        if hasattr(self.model, "compile_training"):
            self.model.compile_training()
        else:
            torch._dynamo.config.recompile_limit = 64
            for layer in self.model.layers:
                layer.compile(dynamic=False)
        self.whole, self.bf16, self.batch = whole, bf16, batch
        generator = torch.Generator().manual_seed(1)
        self.answer, self.noisy = (torch.randint(3, 12, (batch, 81), generator=generator) for _ in range(2))
        self.pinned = torch.rand(batch, 81, generator=generator) < 0.3
        self.prompt = torch.where(self.pinned, self.answer, 0)[:, : 81 if whole else 0]
        tokens = 81 + self.prompt.shape[1]
        self.relations = relations(9)[:, :, :tokens, :tokens]
        settings = SimpleNamespace(method="muon", learning_rate=1e-3, weight_decay=0.01)
        self.optimiser = new_optimiser(self.model, settings)

    def loss(self) -> torch.Tensor:
        model, rows = self.model, self.batch // 2
        model.routing = routing = RoutingRecord([], []) if self.whole else None
        cache = model.prefill(self.prompt, None, self.relations, room=0)
        model.routing = None
        first = torch.zeros(self.batch, 81, VOCAB_SIZE)
        if self.whole:
            with torch.no_grad():
                past = cache.select(torch.arange(rows))
                first[:rows] = model.denoise(self.noisy[:rows], past, None, self.relations)
        signal = model.self_condition(first.softmax(-1), torch.arange(self.batch) < rows)
        model.routing = routing
        loss = canvas_loss(model.denoise_loops(self.noisy, cache, signal, self.relations), self.answer, self.pinned)
        model.routing = None
        if routing is None:
            return loss
        balance = [balance_loss(p, c) for p, c in zip(routing.probabilities, routing.chosen, strict=True)]
        loss = loss + 0.01 * torch.stack(balance).mean()
        rows = max(1, self.batch // 8)
        tokens = torch.cat([self.prompt[-rows:], self.answer[-rows:]], dim=1)
        known = torch.cat([torch.zeros(rows, 81, dtype=torch.bool), self.pinned[-rows:]], dim=1)
        cache = model.empty_cache(rows, tokens.shape[1])
        return loss + next_token_loss(model.causal_logits(tokens, cache, relations=self.relations), tokens, known)

    def __call__(self) -> tuple[float, float]:
        """Loss, and norm of the gradient."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item(), norm.item()


def main() -> None:
    torch.set_num_threads(1)
    step = Step(**json.loads(sys.argv[1]))
    loss, norm = step()
    print(json.dumps({"loss": loss, "norm": norm}), flush=True)
    step()
    for _ in sys.stdin:
        times = []
        for _ in range(STEPS):
            start = time.process_time()
            step()
            times.append(time.process_time() - start)
        print(json.dumps(min(times)), flush=True)


if __name__ == "__main__":
    main()
