"""AdamW, or Muon for the matrices and AdamW for everything else as one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from constrained_dg.training.settings import Optimisation


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon (Jordan et al., 2024) and AdamW behind one interface, since Lightning steps a single optimiser.

    Both work on one shared state and on the same parameter groups, so schedules, checkpoints and sharded state
    dictionaries see a single ordinary optimiser.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], settings: Optimisation) -> None:
        rate = settings.learning_rate
        # The update of a matrix is scaled to the size of AdamW's, so that one learning rate fits both.
        self.muon = torch.optim.Muon(
            matrices, lr=rate, momentum=0.95, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
        super().__init__(self.muon.param_groups + self.adamw.param_groups, {})
        self._share()

    def _share(self) -> None:
        """Point both optimisers at the groups and the state of this one."""
        first = len(self.muon.param_groups)
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:first], self.param_groups[first:]
        self.muon.state = self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


def new_optimiser(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """The optimiser of all parameters that are not frozen.

    With `method: muon` Muon takes the projection matrices of the layers; embeddings, routers, stacked experts, relation
    biases and norms, which do not map one activation to another, take AdamW.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if settings.method == "adam":
        rate, decay = settings.learning_rate, settings.weight_decay
        return torch.optim.AdamW(named.values(), lr=rate, betas=(0.95, 0.99), eps=1e-8, weight_decay=decay)
    matrices = [
        n
        for n, p in named.items()
        if p.dim() == 2 and not any(part in n for part in ("embed_tokens", "router", "relation_bias"))
    ]
    return MuonAdamW([named[n] for n in matrices], [p for n, p in named.items() if n not in matrices], settings)
