"""The training step as a LightningModule."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from constrained_dg.constraints.base import Constraint
from constrained_dg.diffusion import canvas_loss, corrupt, next_token_loss, sample_noise_levels
from constrained_dg.errors import check
from constrained_dg.model import Backbone, RoutingRecord
from constrained_dg.model.moe import balance_loss
from constrained_dg.sampling import Diffusion
from constrained_dg.shapes import FloatTensor, IntTensor
from constrained_dg.task import Batch
from constrained_dg.training.optimiser import new_optimiser
from constrained_dg.training.own_canvas import Carried, advance, refill
from constrained_dg.training.settings import Objective, Optimisation


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The CPU generator of one step: a resumed run draws the same numbers as an uninterrupted one."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1009 + rank)


class DiffusionModule(L.LightningModule):
    """Corrupt, predict, score; everything random is a function of (seed, step, rank).

    Args:
        objective, optimisation: the loss, and the optimiser.
        seed: of noise and corruption.
        sampler: computes the canvases that are carried to the next step (`objective.own_canvas`).
        rules: of a batch, see `Task.rules`; for a sampler that reads them.
        compiled: compile the layers for training steps (sampling stays eager: its shapes change often).
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimisation: Optimisation,
        seed: int,
        sampler: Diffusion | None = None,
        rules: Callable[[Batch], Constraint | None] = lambda batch: None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sampler, self.rules = sampler or Diffusion(), rules
        self.objective, self.optimisation, self.seed = objective, optimisation, seed
        #: Rows in the middle of being denoised, by `_kind` of their batch.
        self.carried: dict[tuple[int, ...], Carried] = {}
        self.strict_loading = not self._frozen()
        if compiled:
            backbone.compile_training()

    def configure_model(self) -> None:
        """Shard the backbone where the strategy is FSDP2: each layer, then the rest."""
        if not isinstance(self.trainer.strategy, ModelParallelStrategy) or isinstance(self.backbone, FSDPModule):
            return
        assert self.device_mesh is not None  # the strategy has set it
        mesh = self.device_mesh["data_parallel"]
        for layer in self.backbone.layers:
            fully_shard(layer, mesh=mesh)
            register_fsdp_forward_method(layer, "score_bias")
        fully_shard(self.backbone, mesh=mesh)
        self.strict_loading = True
        passes = ("prefill", "commit", "denoise", "denoise_loops", "causal_logits", "next_token")
        for name in (*passes, "self_condition"):
            register_fsdp_forward_method(self.backbone, name)

    # -- one step -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> FloatTensor:
        model, objective = self.backbone, self.objective
        generator = step_generator(self.seed, self.global_step, self.global_rank)
        # 1. Corrupt: noise of a random share, some rows pure noise, some canvases from the step before.
        level = sample_noise_levels(len(batch), generator)
        level[len(batch) - round(objective.pure_start * len(batch)) :] = 1.0
        noisy = corrupt(batch.answer, batch.pinned, level, batch.noise, generator)
        batch, noisy, carried = self._with_carried(batch, noisy, generator)

        # 2. Predict.
        model.routing = routing = RoutingRecord([], []) if objective.balance_weight else None
        cache = model.prefill(batch.prompt, batch.mask, batch.relations, room=0)
        model.routing = None  # the first prediction is not trained, so its routing does not count
        signal = self._signal(batch, noisy, cache, carried)
        model.routing = routing
        logits = model.denoise_loops(noisy, cache, signal, batch.relations)
        model.routing = None

        # 3. Score.
        loss = diffusion = canvas_loss(logits, batch.answer, batch.pinned)
        parts = {"loss/diffusion": diffusion}
        if routing is not None:
            parts["loss/balance"] = torch.stack(
                [balance_loss(p, c) for p, c in zip(routing.probabilities, routing.chosen, strict=True)]
            ).mean()
            loss = loss + objective.balance_weight * parts["loss/balance"]
            parts |= utilisation(routing)
        if objective.encoder_weight and (rows := math.ceil(objective.encoder_rows * len(batch))):
            parts["loss/encoder"] = self._encoder_loss(batch, rows)
            loss = loss + objective.encoder_weight * parts["loss/encoder"]
        value = loss.item()
        check(math.isfinite(value), f"the loss is {value} at step {self.global_step}", "lower the learning rate")
        self._carry_on(carried, logits[-1], generator)
        self.log_dict({"loss": loss.detach(), **{k: v.detach() for k, v in parts.items()}})
        return loss

    def _signal(self, batch: Batch, noisy: IntTensor, cache: Any, carried: Carried | None) -> FloatTensor:
        """Self-conditioning (B, C, D): a first prediction without gradient for a share of the new rows; carried rows
        have theirs. Rows are in random order, so the first ones are taken."""
        model, rows = self.backbone, len(batch)
        old = 0 if carried is None else len(carried.live)
        conditioned = torch.arange(old, old + round(self.objective.self_conditioning * (rows - old)))
        conditioned = conditioned.to(noisy.device)
        mask = torch.zeros(rows, dtype=torch.bool, device=noisy.device)
        mask[conditioned] = True
        first = torch.zeros(*noisy.shape, model.vocab_size, device=noisy.device)
        if carried is not None:
            first[:old], mask[:old] = carried.logits, carried.live & (carried.age > 0)
        if len(conditioned):
            relations = batch.select(conditioned).relations
            with torch.no_grad():
                first[conditioned] = model.denoise(noisy[conditioned], cache.select(conditioned), None, relations)
        return model.self_condition(first.softmax(-1), mask)

    def _encoder_loss(self, batch: Batch, rows: int) -> FloatTensor:
        """Next-token loss of the causal pass over prompt and answer, on the last rows (carried rows come first)."""
        batch = batch.select(torch.arange(len(batch) - rows, len(batch), device=batch.answer.device))
        tokens = torch.cat([batch.prompt, batch.answer], dim=1)
        known = torch.cat([torch.zeros_like(batch.prompt, dtype=torch.bool), batch.pinned], dim=1)
        padding = {}
        if batch.mask is not None:
            seen = torch.cat([batch.mask, torch.ones_like(batch.pinned)], dim=1)
            padding["mask"] = seen
            # A token counts where neither it nor the one before it is padding.
            known = known | ~seen | ~seen.roll(1, dims=1)
        cache = self.backbone.empty_cache(rows, tokens.shape[1])
        logits = self.backbone.causal_logits(tokens, cache, relations=batch.relations, **padding)
        return next_token_loss(logits, tokens, known)

    # -- carried canvases ---------------------------------------------------------------------------------------------

    def _with_carried(
        self, batch: Batch, noisy: IntTensor, generator: torch.Generator
    ) -> tuple[Batch, IntTensor, Carried | None]:
        """The batch with the carried rows in front; those that are replaced start from pure noise."""
        rows = round(self.objective.own_canvas * len(batch))
        if not rows:
            return batch, noisy, None
        kind = _kind(batch)
        start = corrupt(batch.answer, batch.pinned, torch.ones(len(batch)), batch.noise, generator)
        carried = self.carried.get(kind)
        if carried is None:
            zeros = torch.zeros(rows, dtype=torch.int64, device=noisy.device)
            logits = torch.zeros(rows, batch.answer.shape[1], self.backbone.vocab_size, device=noisy.device)
            examples = batch.select(torch.arange(rows, device=noisy.device))
            carried = Carried(examples, start[:rows], logits, zeros, zeros > 0)
        carried, batch = refill(carried, batch, start)
        return batch, torch.cat([carried.canvas, noisy[rows:]]), carried

    def _carry_on(self, carried: Carried | None, logits: FloatTensor, generator: torch.Generator) -> None:
        if carried is None:
            return
        logits, passes = logits[: len(carried.live)].detach(), self.objective.own_canvas_passes
        rules = self.rules(carried.batch) if self.sampler.reads_rules else None
        self.carried[_kind(carried.batch)] = advance(carried, logits, passes, generator, self.sampler, rules)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The checkpoint holds the carried rows of all processes. It does not hold frozen weights, which are
        loaded again from where the model came from."""
        for name in self._frozen():
            checkpoint["state_dict"].pop(name, None)
        rows = [carried.state_dict() for carried in self.carried.values()]
        of_processes = [rows]
        if torch.distributed.is_initialized():
            of_processes = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(of_processes, rows)
        checkpoint["carried"] = of_processes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if frozen := self._frozen():  # Lightning does not compare the names then
            odd = sorted((set(self.state_dict()) - frozen) ^ set(checkpoint["state_dict"]))
            check(
                not odd,
                f"the checkpoint does not hold the weights that are trained: {odd[:4]}",
                "use the checkpoint of this run",
            )
        of_processes = checkpoint["carried"]
        rows = of_processes[self.global_rank] if self.global_rank < len(of_processes) else []
        restored = [Carried.from_state_dict(state).to(self.device) for state in rows]
        self.carried = {_kind(c.batch): c for c in restored}

    def _frozen(self) -> set[str]:
        """Weights that checkpoints leave out; none where the model is sharded, since its strategy reads all back."""
        if isinstance(self.backbone, FSDPModule):
            return set()
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    # -- optimiser ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        settings = self.optimisation
        optimiser = new_optimiser(self.backbone, settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_share(step, settings))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _kind(batch: Batch) -> tuple[int, ...]:
    """What rows of one batch must have in common: (S, C) and the range of the noise."""
    return batch.prompt.shape[1], batch.answer.shape[1], *batch.noise


def learning_rate_share(step: int, settings: Optimisation) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to `floor` at the last step."""
    warm = min(1.0, (step + 1) / (settings.warmup + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))
    return warm * (settings.floor + (1 - settings.floor) * cosine)


def utilisation(routing: RoutingRecord) -> dict[str, FloatTensor]:
    """How evenly experts are used: the effective number of experts over E (1 is even), and the least used one's share
    of an even share."""
    experts = routing.probabilities[0].shape[-1]
    chosen = torch.cat([c.flatten() for c in routing.chosen])
    share = torch.bincount(chosen, minlength=experts).float() / len(chosen)
    entropy = -(share * share.clamp(min=1e-9).log()).sum()
    return {"experts/effective": entropy.exp() / experts, "experts/least_used": share.min() * experts}


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler on a CPU; on CUDA, Triton comes with torch."""
    return device != "cpu" or any(shutil.which(name) for name in ("g++", "clang++"))
