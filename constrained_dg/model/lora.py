"""Low-rank adapters (LoRA, 2106.09685): W x + B A x, with A of `rank` rows, and only A and B trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from constrained_dg.errors import check, is_count
from constrained_dg.model.backbone import Backbone
from constrained_dg.model.quantised.weight import QuantisedWeight, linear, plain
from constrained_dg.shapes import FloatTensor


class Adapted(nn.Linear):
    """A frozen linear layer, whose weight it shares, with an adapter. The weight may be quantised.

    Attributes:
        lora_a: (rank, in) fp32, N(0, 1 / in).
        lora_b: (out, rank) fp32, zero at first: a new adapter changes nothing.
    """

    weight: Any

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # Linear.__init__ would allocate a second weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        # Drawn on the CPU so that one seed gives one adapter on every device.
        a = torch.randn(rank, self.in_features, generator=generator) * self.in_features**-0.5
        self.lora_a = nn.Parameter(a.to(base.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=base.weight.device))

    def forward(self, x: FloatTensor) -> FloatTensor:
        low = F.linear(F.linear(x, self.lora_a.to(x.dtype)), self.lora_b.to(x.dtype))
        return linear(x, self.weight) + low

    def merged(self, dtype: torch.dtype) -> nn.Linear:
        """A plain layer with the same weight tensor, to which B A, multiplied in fp32, is added and rounded once.

        Args:
            dtype: of the layer if the weight was quantised: the sum would not be, so it is no longer.
        """
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        total = plain(self.weight, torch.float32).float() + self.lora_b.float() @ self.lora_a.float()
        if isinstance(self.weight, QuantisedWeight):
            layer.weight = nn.Parameter(total.to(dtype), requires_grad=False)
        else:
            self.weight.copy_(total)
            layer.weight = self.weight
        return layer


def freeze_routers(model: Backbone) -> Backbone:
    """Keep which expert serves which token, as NVIDIA's recipe for DiffusionGemma does."""
    for layer in model.layers:
        layer.router.requires_grad_(False)
    return model


def adapt(model: Backbone, rank: int, generator: torch.Generator | None = None) -> Backbone:
    """Freeze the model and put an adapter on every linear layer but the routers', in place.

    Prefill and denoising share their weights, so one adapter serves both. Experts and embeddings do not change.

    Raises:
        InputError: a rank below 1, or a model that has adapters.
    """
    check(is_count(rank, 1), f"the rank of the adapters is {rank!r}", "use an integer of at least 1")
    check(not _adapted(model), "the model has adapters already", "merge them first")
    generator = generator or torch.Generator().manual_seed(0)
    model.requires_grad_(False)
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "router" not in name.split(".")
    ]
    for name, module in chosen:
        model.set_submodule(name, Adapted(module, rank, generator))
    return model


@torch.no_grad()
def merge(model: Backbone) -> Backbone:
    """Fold the adapters into the weights and remove them, in place: equal up to the rounding of the weights.

    A quantised layer with an adapter becomes a plain one, in the type of the embedding.

    Raises:
    InputError: a model without adapters.
    """
    adapters = _adapted(model)
    check(bool(adapters), "the model has no adapters", "they may be merged already")
    for name, module in adapters:
        model.set_submodule(name, module.merged(model.embed_tokens.weight.dtype))
    return model


def _adapted(model: Backbone) -> list[tuple[str, Adapted]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Adapted)]
