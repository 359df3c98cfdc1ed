"""Shapes of the backbone and of a vision tower, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from constrained_dg.errors import InputError, check, is_count, is_number

#: The largest value of each size; MOST_OTHER where a size is not listed. Far above any model, and below what hangs
#: (a pass repeats layers and loops) or overflows.
MOST = {
    "vocab_size": 2**24,
    "num_hidden_layers": 1000,
    "loops": 1000,
    "causal_loops": 1000,
    "num_relations": 1000,
    "sliding_window": 2**31,
    "max_position_embeddings": 2**31,
}
MOST_OTHER, MOST_PARAMETERS = 2**20, 10**13


def shown(value: object) -> str:
    """A value as errors name it: on one line, and not longer than one."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


@dataclass(frozen=True)
class VisionConfig:
    """Shape of a vision tower; the names are those of the released vision_config.

    Attributes:
        text_size: D of the text model that reads the soft tokens.
        patch_size: p, pixels on one side of a patch.
        pooling_kernel_size: k, patches on one side of a soft token.
        position_embedding_size: most patches on one side of a picture.
        standardize: shift and scale the soft tokens by stored numbers.

    Raises:
        InputError: a value out of range, or heads that do not fit each other.
    """

    text_size: int
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 72
    patch_size: int = 16
    pooling_kernel_size: int = 3
    position_embedding_size: int = 10_240
    rms_norm_eps: float = 1e-6
    rope_theta: float = 100.0
    standardize: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind == "int":
                fits, hint = is_count(value, 1) and value <= MOST_OTHER, f"give an integer from 1 to {MOST_OTHER}"
            elif kind == "bool":
                fits, hint = isinstance(value, bool), "give true or false"
            else:
                fits, hint = is_number(value, above=0), "give a number above 0"
            check(fits, f"vision_config.{field.name} is {shown(value)}", hint)
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        check(heads % groups == 0, f"{heads} attention heads cannot share {groups} key/value heads", "use a divisor")
        check(
            self.head_dim % 4 == 0, f"vision_config.head_dim is {self.head_dim}", "both halves turn pairs of channels"
        )

    @property
    def num_parameters(self) -> int:
        """How many numbers a tower learns, without building it."""
        size, inner = self.hidden_size, self.intermediate_size
        attention = 2 * size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads) + 2 * self.head_dim
        layer = attention + 3 * size * inner + 4 * size
        return size * (3 * self.patch_size**2 + 2 * self.position_embedding_size + self.text_size) + (
            self.num_hidden_layers * layer
        )


@dataclass(frozen=True)
class ModelConfig:
    """DiffusionGemma's text backbone (Google, June 2026) and two extensions that are absent by default.

    Field names follow the released configuration where it has the field. Layers repeat `sliding_layers_per_full`
    sliding layers and one full layer; the last layer is always full.

    Attributes:
        intermediate_size: width of the dense MLP (added to the experts' output) and of the self-conditioning MLP.
        moe_intermediate_size: width of one expert.
        sliding_window: tokens a sliding layer sees in the causal passes, itself included; a canvas sees the last
            `sliding_window - 1` committed tokens there. 1 means the canvas alone.
        partial_rotary_factor: share of the channels of full layers that rotate.
        canvas_length: longest canvas.
        num_relations: R, extension: each layer adds a learned bias per head and relation to its attention scores.
        loops: extension: the stack runs this many times in a canvas pass.
        causal_loops: the same for prefill, commit and next-token passes. Loop i of a canvas reads the keys and values
            of causal loop min(i, causal_loops - 1), so a prompt need not pay for the loops of the canvas.
        vision: the tower that is trained with the model and reads `model.images.Pictures`; None without. The tower of a
            released checkpoint is no part of its model, see `vision.Vision`. Its text_size is the hidden size, and may
            be left out of a mapping.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_global_key_value_heads: int
    global_head_dim: int
    sliding_window: int
    num_experts: int
    top_k_experts: int
    sliding_layers_per_full: int = 5
    rms_norm_eps: float = 1e-6
    rope_theta_sliding: float = 10_000.0
    rope_theta_full: float = 1_000_000.0
    partial_rotary_factor: float = 0.25
    max_position_embeddings: int = 262_144
    final_logit_softcapping: float = 30.0
    canvas_length: int = 256
    num_relations: int = 0
    loops: int = 1
    causal_loops: int = 1
    vision: VisionConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.vision, Mapping):
            known = {f.name for f in fields(VisionConfig)}
            odd = sorted(set(self.vision) - known)
            check(not odd, f"unknown keys model.vision.{', '.join(odd)}", f"known: {', '.join(sorted(known))}")
            object.__setattr__(self, "vision", VisionConfig(**{"text_size": self.hidden_size, **self.vision}))
        fits = self.vision is None or isinstance(self.vision, VisionConfig)
        check(fits, f"model.vision is {shown(self.vision)}", "give the sizes of a tower, or null")
        if self.vision is not None:
            size = self.vision.text_size
            check(
                size == self.hidden_size,
                f"model.vision.text_size is {size}",
                f"give {self.hidden_size}, or leave it out",
            )
        for name, value in vars(self).items():
            if name == "vision":
                continue
            if ModelConfig.__dataclass_fields__[name].type == "int":
                low = 0 if name in ("num_relations", "sliding_layers_per_full") else 1
                most = MOST.get(name, MOST_OTHER)
                fits, hint = is_count(value, low) and value <= most, f"use an integer from {low} to {most}"
            else:
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                fits, hint = number and 0 < value < 1e30, "use a number above 0 and below 1e30"
            check(fits, f"model.{name} is {shown(value)}", hint)
        check(
            self.partial_rotary_factor <= 1,
            f"model.partial_rotary_factor is {self.partial_rotary_factor!r}",
            "use a share of the channels, at most 1",
        )
        check(
            self.top_k_experts <= self.num_experts,
            f"model.top_k_experts {self.top_k_experts} exceeds model.num_experts {self.num_experts}",
        )
        check(
            self.causal_loops <= self.loops,
            f"model.causal_loops {self.causal_loops} exceeds model.loops {self.loops}",
            "a canvas reads one causal loop per loop at most",
        )
        for heads in (self.num_key_value_heads, self.num_global_key_value_heads):
            check(
                self.num_attention_heads % heads == 0,
                f"{self.num_attention_heads} attention heads cannot share {heads} key/value heads",
                "use a divisor of model.num_attention_heads",
            )
        for size in (self.head_dim, self.global_head_dim):
            check(size % 2 == 0, f"head size {size} is odd", "rotary embeddings turn pairs of channels")
        count = self.num_parameters
        check(count <= MOST_PARAMETERS, f"the model has {count:.1e} parameters", f"at most {MOST_PARAMETERS:.0e} work")

    def is_full(self, layer: int) -> bool:
        """Whether a layer sees every committed token (full) or the sliding window."""
        return layer == self.num_hidden_layers - 1 or layer % (self.sliding_layers_per_full + 1) == (
            self.sliding_layers_per_full
        )

    def window(self, layer: int) -> int | None:
        """Tokens that a sliding layer sees, itself included; None where a layer sees every committed token."""
        return None if self.is_full(layer) else self.sliding_window

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned, without building anything."""
        size, heads, experts = self.hidden_size, self.num_attention_heads, self.num_experts
        mlp = 3 * size * self.intermediate_size
        # Everything in a layer but its attention: seven norms, dense MLP, router, experts.
        layer = 7 * size + mlp + size * (experts + 1) + experts + 3 * experts * size * self.moe_intermediate_size
        layer += heads * self.num_relations

        def attention(groups: int, head: int, projections: int) -> int:
            return size * head * (2 * heads + projections * groups) + 2 * head

        full = sum(self.is_full(index) for index in range(self.num_hidden_layers))
        sliding = self.num_hidden_layers - full
        attentions = full * attention(self.num_global_key_value_heads, self.global_head_dim, 1)
        attentions += sliding * attention(self.num_key_value_heads, self.head_dim, 2)
        # Embedding and final norm; norm and MLP of self-conditioning.
        tower = 0 if self.vision is None else self.vision.num_parameters
        return self.vocab_size * size + 2 * size + mlp + self.num_hidden_layers * layer + attentions + tower

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without a tower also without its key."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("vision", None)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Raises InputError that names unknown and missing keys."""
        known = {f.name for f in fields(cls)}
        check(set(values) <= known, f"unknown model keys {sorted(set(values) - known)}", f"known: {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"model configuration is incomplete: {error}") from None


PRESETS: dict[str, ModelConfig] = {
    # Every mechanism at a size that tests can afford: 2 sliding + 1 full, twice; K = V on full layers; 4 experts.
    "tiny": ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_global_key_value_heads=1,
        global_head_dim=16,
        sliding_window=6,
        num_experts=4,
        top_k_experts=2,
        sliding_layers_per_full=2,
        max_position_embeddings=1024,
    ),
    # Laptop default: three looped layers; sliding layers look at the canvas alone, the full layer at the prompt too.
    "small": ModelConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        num_global_key_value_heads=4,
        global_head_dim=32,
        sliding_window=1,
        num_experts=4,
        top_k_experts=2,
        sliding_layers_per_full=2,
        max_position_embeddings=4096,
        loops=4,
    ),
    # One GPU.
    "base": ModelConfig(
        vocab_size=64,
        hidden_size=512,
        intermediate_size=1024,
        moe_intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        num_global_key_value_heads=8,
        global_head_dim=64,
        sliding_window=1,
        num_experts=16,
        top_k_experts=2,
        sliding_layers_per_full=2,
        max_position_embeddings=8192,
        loops=4,
    ),
    "diffusiongemma_26b_a4b": ModelConfig(
        vocab_size=262_144,
        hidden_size=2816,
        intermediate_size=2112,
        moe_intermediate_size=704,
        num_hidden_layers=30,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        num_global_key_value_heads=2,
        global_head_dim=512,
        sliding_window=1024,
        num_experts=128,
        top_k_experts=8,
    ),
}


def preset(name: str, **changes: Any) -> ModelConfig:
    """A preset with some fields changed, e.g. `preset("small", vocab_size=19, num_relations=5)`.

    Raises:
        InputError: unknown preset or field, or a value out of range.
    """
    check(name in PRESETS, f"unknown model preset {name!r}", f"known: {sorted(PRESETS)}")
    known = {f.name for f in fields(ModelConfig)}
    check(set(changes) <= known, f"unknown model keys {sorted(set(changes) - known)}", f"known: {sorted(known)}")
    return replace(PRESETS[name], **changes)
