"""The training step as a LightningModule."""

from __future__ import annotations

import math
import shutil
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from constrained_dg.diffusion import canvas_loss, corrupt, next_token_loss, sample_noise_levels
from constrained_dg.diffusion.sets import as_distribution
from constrained_dg.errors import check
from constrained_dg.model import Backbone, RoutingRecord
from constrained_dg.model.moe import balance_loss
from constrained_dg.model.quantised import QuantisedWeight
from constrained_dg.shapes import FloatTensor, IntTensor
from constrained_dg.task import Batch, Task
from constrained_dg.training.optimiser import new_optimiser
from constrained_dg.training.rollouts import Pool, kind_of
from constrained_dg.training.settings import Objective, Optimisation


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The CPU generator of one step: a resumed run draws the same numbers as an uninterrupted one."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1009 + rank)


class DiffusionModule(L.LightningModule):
    """Corrupt, predict, score; everything random is a function of (seed, step, rank).

    Args:
        objective, optimisation: the loss, and the optimiser.
        seed: of noise and corruption.
        task: whose symmetries move the rows of the pool (`objective.rollouts`); None without.
        compiled: compile the layers for training steps (sampling stays eager: its shapes change often).
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimisation: Optimisation,
        seed: int,
        task: Task | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        ruled = task is not None and type(task).rules is not Task.rules
        hint = "use objective.other_answers=false"
        check(ruled or not objective.other_answers, "the task gives no rules for batches (Task.rules)", hint)
        check(task is not None or not objective.conflict, "objective.conflict without a task", "give the task")
        self.backbone = backbone
        self.task = task
        self.objective, self.optimisation, self.seed = objective, optimisation, seed
        #: Rows in the middle of being denoised, by kind.
        self.pools: dict[tuple[int, ...], Pool] = {}
        self.strict_loading = not self._frozen()
        if compiled:
            backbone.compile_training()

    def configure_model(self) -> None:
        """Shard the backbone where the strategy is FSDP2: each layer, then the rest. DDP leaves quantised weights be:
        they are equal in all processes, and its broadcasts know no float8."""
        ignored = sorted(self._quantised())
        torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, ignored)
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
        objective = self.objective
        generator = step_generator(self.seed, self.global_step, self.global_rank)
        routing = RoutingRecord([], []) if objective.balance_weight else None
        parts: dict[str, FloatTensor] = {}
        loss, pool, logits = torch.zeros((), device=batch.answer.device), None, []
        # 1. The noisy answer, predicted and scored.
        if objective.canvas_weight:
            pool = self._pool(batch, generator) if objective.rollouts else None
            batch = batch if pool is None else pool.batch
            logits = self._denoised(batch, pool, generator, routing)
            parts["loss/diffusion"] = self._canvas_loss(batch, pool, logits)
            loss = objective.canvas_weight * parts["loss/diffusion"]
        # 2. The next token, predicted and scored.
        if objective.encoder_weight and (rows := math.ceil(objective.encoder_rows * len(batch))):
            # Beside a canvas pass, the routing of that pass is balanced.
            parts["loss/encoder"] = self._encoder_loss(batch, rows, None if objective.canvas_weight else routing)
            loss = loss + objective.encoder_weight * parts["loss/encoder"]
        if routing is not None:
            parts["loss/balance"] = torch.stack(
                [balance_loss(p, c) for p, c in zip(routing.probabilities, routing.chosen, strict=True)]
            ).mean()
            loss = loss + objective.balance_weight * parts["loss/balance"]
            parts |= utilisation(routing)
        value = loss.item()
        check(math.isfinite(value), f"the loss is {value} at step {self.global_step}", "lower the learning rate")
        # 3. The pool goes on.
        if pool is not None:
            rules = self.task.rules(batch) if self.task is not None and objective.other_answers else None
            self.pools[pool.kind], metrics = pool.advanced(logits[-1].detach(), objective, generator, rules)
            parts |= metrics
        self.log_dict({"loss": loss.detach(), **{k: v.detach() for k, v in parts.items()}})
        return loss

    def _denoised(
        self, batch: Batch, pool: Pool | None, generator: torch.Generator, routing: RoutingRecord | None
    ) -> list[FloatTensor]:
        """The logits (B, C, V) after each loop, for a canvas with noise: of the pool, or drawn."""
        model, objective = self.backbone, self.objective
        if pool is not None:
            noisy = pool.canvas(generator)
            cache = self._prefill(batch, routing)
            distribution = as_distribution(pool.sets, noisy, batch.pinned, batch.noise[0], model.vocab_size)
            signal = model.self_condition(*distribution)
        else:
            level = sample_noise_levels(len(batch), generator)
            level[len(batch) - round(objective.pure_start * len(batch)) :] = 1.0
            noisy = corrupt(batch.answer, batch.pinned, level, batch.noise, generator)
            cache = self._prefill(batch, routing)
            signal = self._signal(batch, noisy, cache)
        model.routing = routing
        logits = model.denoise_loops(noisy, cache, signal, batch.relations)
        model.routing = None
        return logits

    def _canvas_loss(self, batch: Batch, pool: Pool | None, logits: list[FloatTensor]) -> FloatTensor:
        if pool is None or not self.objective.conflict:
            return canvas_loss(logits, batch.answer, batch.pinned)
        assert self.task is not None  # checked at the start
        weights = torch.where(pool.lost > 0, self.objective.conflict, 1.0)
        return canvas_loss(logits, pool.target(self.task.blank_id), batch.pinned, weights)

    def _prefill(self, batch: Batch, routing: RoutingRecord | None) -> Any:
        self.backbone.routing = routing
        cache = self.backbone.prefill(batch.prompt, batch.mask, batch.relations, 0, batch.images)
        self.backbone.routing = None  # a first prediction is not trained, so its routing does not count
        return cache

    def _pool(self, fresh: Batch, generator: torch.Generator) -> Pool:
        """The pool of this kind of batch, where the rows of the new batch replace those that are over."""
        pool = self.pools.get(kind_of(fresh))
        if pool is None:
            return Pool.of(fresh, self.objective, generator)
        if self.task is not None:
            pool = pool.moved(self.task, generator)
        return pool.refilled(fresh, self.objective, generator)

    def _signal(self, batch: Batch, noisy: IntTensor, cache: Any) -> FloatTensor:
        """Self-conditioning (B, C, D): a first prediction without gradient for a share of the rows. Rows are in random
        order, so the first ones are taken."""
        model, rows = self.backbone, len(batch)
        conditioned = torch.arange(round(self.objective.self_conditioning * rows), device=noisy.device)
        mask = torch.zeros(rows, dtype=torch.bool, device=noisy.device)
        mask[conditioned] = True
        first = torch.zeros(*noisy.shape, model.vocab_size, device=noisy.device)
        if len(conditioned):
            relations = batch.select(conditioned).relations
            with torch.no_grad():
                first[conditioned] = model.denoise(noisy[conditioned], cache.select(conditioned), None, relations)
        return model.self_condition(first.softmax(-1), mask)

    def _encoder_loss(self, batch: Batch, rows: int, routing: RoutingRecord | None) -> FloatTensor:
        """Next-token loss of the causal pass over prompt and answer, on the last rows. Of pictures: the loss of naming
        the token in whose place each soft token stands, which the model does not see."""
        batch = batch.select(torch.arange(len(batch) - rows, len(batch), device=batch.answer.device))
        if batch.images is not None:
            self.backbone.routing = routing
            cache = self.backbone.empty_cache(rows, batch.prompt.shape[1])
            logits = self.backbone.causal_logits(batch.prompt, cache, batch.relations, images=batch.images)
            self.backbone.routing = None
            return canvas_loss([logits], batch.prompt, torch.zeros_like(batch.prompt, dtype=torch.bool))
        tokens = torch.cat([batch.prompt, batch.answer], dim=1)
        given = torch.full_like(batch.prompt, not self.objective.encoder_prompt, dtype=torch.bool)
        known = torch.cat([given, batch.pinned], dim=1)
        padding: dict[str, Any] = {}
        if batch.mask is not None:
            seen = torch.cat([batch.mask, torch.ones_like(batch.pinned)], dim=1)
            padding["mask"] = seen
            # A token counts where neither it nor the one before it is padding.
            known = known | ~seen | ~seen.roll(1, dims=1)
        cache = self.backbone.empty_cache(rows, tokens.shape[1])
        self.backbone.routing = routing
        logits = self.backbone.causal_logits(tokens, cache, relations=batch.relations, **padding)
        self.backbone.routing = None
        return next_token_loss(logits, tokens, known)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The checkpoint holds the pools of all processes. It does not hold frozen weights, which are
        loaded again from where the model came from."""
        for name in self._frozen():
            checkpoint["state_dict"].pop(name, None)
        rows = [pool.state_dict() for pool in self.pools.values()]
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
        pools = [Pool.from_state_dict(state).to(self.device) for state in rows]
        for pool in pools:
            check(
                len(pool.age) == self.optimisation.batch_size,
                f"the checkpoint has a pool of {len(pool.age)} rows, and optimisation.batch_size is "
                f"{self.optimisation.batch_size}",
                "resume with the batch size of the run",
            )
        self.pools = {pool.kind: pool for pool in pools}

    def _frozen(self) -> set[str]:
        """Weights that checkpoints leave out; none where the model is sharded, since its strategy reads all back."""
        if isinstance(self.backbone, FSDPModule):
            return set()
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad} | self._quantised()

    def _quantised(self) -> set[str]:
        """The buffers of quantised weights."""
        weights = {name: module for name, module in self.named_modules() if isinstance(module, QuantisedWeight)}
        return {f"{name}.{buffer}" for name, weight in weights.items() for buffer in weight.state_dict()}

    # -- optimiser ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        settings = self.optimisation
        optimiser = new_optimiser(self.backbone, settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_share(step, settings))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
