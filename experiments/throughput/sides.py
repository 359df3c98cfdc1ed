"""The two sides of the benchmark, the same weights in both: ours, and `transformers`' generate."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from constrained_dg.integrations.transformers import cache_keyword
from constrained_dg.model import Backbone, ModelConfig, load_pretrained
from constrained_dg.model.quantised import QuantisedWeight
from constrained_dg.model.quantised.formats import E2M1
from constrained_dg.model.quantised.place import place_usual
from constrained_dg.model.released.layout import released_name
from constrained_dg.sampling import Autoregressive, generate

#: Called with the raw logits (N, C, V), the pass (from 0) and the rows they belong to; may write into the logits.
Hook = Callable[[torch.Tensor, int, torch.Tensor], None]
KINDS = ("sliding_attention", "full_attention")
#: Fields that their text configuration names differently or lacks; all at the released values here.
NOT_THEIRS = {
    "sliding_layers_per_full",
    "rope_theta_sliding",
    "rope_theta_full",
    "partial_rotary_factor",
    "canvas_length",
    "num_relations",
    "loops",
    "causal_loops",
}
#: Root mean square of E2M1 numbers whose bits are random.
E2M1_SPREAD = (sum(each * each for each in E2M1) / len(E2M1)) ** 0.5
#: Added to a logit to make its token certain: far above the soft-capped ones, at most 30.
CERTAIN = 1000.0


@dataclass
class Clock:
    """A hook that notes when each pass has its logits, and finishes rows at chosen passes.

    From one note to the next lie the sampling of a pass and the canvas pass after it: one step.

    Args:
        stops: pass (counted from 1) after which each row of the batch stops; empty for none. From the pass before it,
            all tokens of the row are certain, so that two arg-max canvases agree and the entropy is 0.
        keep: keep a copy of the logits of the first pass.
    """

    stops: tuple[int, ...] = ()
    keep: bool = False

    def __post_init__(self) -> None:
        self.notes: list[float] = []
        self.row_passes = 0
        self.first: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor, index: int, rows: torch.Tensor) -> None:
        synchronise(logits.device)
        self.notes.append(time.perf_counter())
        self.row_passes += len(logits)
        if self.keep and index == 0:
            self.first = logits.clone()
        for at, row in enumerate(rows.tolist() if self.stops else ()):
            if index + 2 >= self.stops[row]:
                logits[at, :, 5 + row] += CERTAIN

    @property
    def steps(self) -> list[float]:
        """Seconds of each step."""
        return [after - before for before, after in zip(self.notes[:-1], self.notes[1:], strict=True)]


class Ours:
    name = "ours"

    def __init__(self, model: Backbone) -> None:
        self.model = model

    @torch.no_grad()
    def prefill(self, prompt: torch.Tensor) -> None:
        self.model.prefill(prompt)

    @torch.no_grad()
    def canvas_pass(self, prompt: torch.Tensor) -> Callable[[], torch.Tensor]:
        """A call that makes one self-conditioned canvas pass after the prompt, without sampling."""
        model = self.model
        cache = model.prefill(prompt)
        canvas = prompt[:, :1].repeat(1, model.config.canvas_length)
        signal = model.self_condition(model.denoise(canvas, cache).softmax(-1))
        return lambda: model.denoise(canvas, cache, signal)

    def generate(self, prompt: torch.Tensor, passes: int, hook: Hook | None, rng: str = "counter") -> None:
        def call(logits: torch.Tensor, info: Any) -> torch.Tensor:
            hook(logits, info.pass_index, info.rows)
            return logits

        length = self.model.config.canvas_length
        generate(
            self.model,
            prompt,
            canvas_length=length,
            max_new_tokens=length,
            max_passes=passes,
            eos=(),
            logits_hook=None if hook is None else call,
            rng=rng,
        )

    def autoregress(self, prompt: torch.Tensor, tokens: int) -> None:
        """Generate `tokens` tokens, always the likeliest one."""
        generate(self.model, prompt, sampler=Autoregressive(), canvas_length=tokens, max_new_tokens=tokens, eos=())


class Theirs:
    name = "transformers"

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def prefill(self, prompt: torch.Tensor) -> None:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        self.model.model.encoder(input_ids=prompt, **{cache_keyword(self.model): cache})

    def generate(self, prompt: torch.Tensor, passes: int, hook: Hook | None, rng: str = "transformers") -> None:
        from transformers import LogitsProcessorList

        def call(input_ids: torch.Tensor, scores: torch.Tensor, cur_step: torch.Tensor) -> torch.Tensor:
            hook(scores, passes - int(cur_step), torch.arange(len(scores)))
            return scores

        self.model.generate(
            prompt,
            max_new_tokens=self.model.config.canvas_length,
            max_denoising_steps=passes,
            logits_processor=None if hook is None else LogitsProcessorList([Processor(call)]),
        )


class Processor:
    """A function as a logits processor; transformers reads the arguments from the type."""

    def __init__(self, call: Callable[..., torch.Tensor]) -> None:
        self.call = call

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, cur_step: torch.Tensor) -> torch.Tensor:
        return self.call(input_ids, scores, cur_step)


def build(config: ModelConfig, seed: int, device: str, dtype: torch.dtype, saved: bool) -> tuple[Ours, Theirs | None]:
    """Both sides; theirs is None without the package `transformers`.

    Args:
        saved: through a checkpoint in a temporary folder; else ours shares the tensors of the other side.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of imports inside transformers
            import torch.utils.mkldnn
            import transformers
    except ImportError:
        return Ours(alone(config, seed, device, dtype)), None
    model = randomise(_released(transformers, config, device, dtype), seed, device)
    if saved:
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            ours = load_pretrained(Path(folder), device, dtype)
            assert ours.config == config, f"{ours.config} is not the requested shape, {config}"
            # Copied into memory, since the folder is removed.
            ours.load_state_dict({key: tensor.clone() for key, tensor in ours.state_dict().items()}, assign=True)
    else:
        with torch.device("meta"):
            ours = Backbone(config)
        weights = model.state_dict()
        ours.load_state_dict({key: weights[released_name(key)] for key in ours.state_dict()}, assign=True)
    return Ours(ours.eval()), Theirs(model)


def quantised_alone(config: ModelConfig, seed: int, device: str, dtype: torch.dtype, kind: str) -> Backbone:
    """Random weights, made in their format, so that no plain model need fit."""
    with torch.device("meta"):
        model = place_usual(Backbone(config).to(dtype), kind)
    model = randomise(model.to_empty(device=device), seed, device).eval()
    generator = torch.Generator(device).manual_seed(seed)
    for weight in (module for module in model.modules() if isinstance(module, QuantisedWeight)):
        spread = weight.shape[-1] ** -0.5
        scale = torch.empty(weight.scale.shape, device=device).uniform_(0.6, 1.4, generator=generator)
        if weight.global_scale is None:
            for values in weight.values.view(-1, *weight.shape[-2:]):  # one expert at a time: normal numbers are fp32
                values.copy_(torch.empty(values.shape, device=device).normal_(0.0, 64.0, generator=generator))
            weight.scale.copy_(scale * (spread / 64))
        else:
            weight.values.random_(0, 256, generator=generator)
            weight.scale.copy_(scale)
            weight.global_scale.fill_(E2M1_SPREAD / spread)
    return model


def alone(config: ModelConfig, seed: int, device: str, dtype: torch.dtype) -> Backbone:
    with torch.device("meta"):
        model = Backbone(config).to(dtype)
    return randomise(model.to_empty(device=device), seed, device).eval()


def _released(transformers: Any, config: ModelConfig, device: str, dtype: torch.dtype) -> Any:
    """A model of `transformers` of this shape. It needs a vision tower; this small one is not used."""
    values = {key: value for key, value in asdict(config).items() if key not in NOT_THEIRS}
    text = transformers.DiffusionGemmaTextConfig(
        **values,
        layer_types=[KINDS[config.is_full(layer)] for layer in range(config.num_hidden_layers)],
        use_bidirectional_attention="vision",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = transformers.Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=4,
        position_embedding_size=64,
        pooling_kernel_size=2,
    )
    images = range(config.vocab_size - 3, config.vocab_size)
    names = ("image_token_id", "boi_token_id", "eoi_token_id")
    full_config = transformers.DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        canvas_length=config.canvas_length,
        **dict(zip(names, images, strict=True)),
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return transformers.DiffusionGemmaForBlockDiffusion(full_config).eval()
    finally:
        torch.set_default_dtype(usual)


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int, device: str) -> Any:
    """Matrices N(0, 1 / fan-in), norms and scales around 1, never exactly 1, which could hide an error."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "rotary" in name or "embed_scale" in name or not tensor.is_floating_point() or tensor.element_size() == 1:
            continue
        if tensor.dim() > 1:
            tensor.normal_(0.0, tensor.shape[-1] ** -0.5, generator=generator)
        else:
            tensor.uniform_(0.6, 1.4, generator=generator)
    return model


def synchronise(device: torch.device | str) -> None:
    """Wait until the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
