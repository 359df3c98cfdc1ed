"""Small random DiffusionGemmas built with `transformers`, in which no weight is a neutral number."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports; what it warns of later counts
    import torch.utils.mkldnn  # generate imports it and warns

    transformers = pytest.importorskip("transformers", minversion="5.11")

WINDOW, CANVAS, VOCAB = 24, 16, 128


def released(
    seed: int = 0, layers: int = 6, spread: float = 1.0, vision: dict[str, object] | None = None, **text: object
):
    """A model of 5 sliding layers and a full one, with a vision tower, all weights random.

    Args:
        vision: sizes of the tower other than the usual.
        spread: standard deviation of the matrices times the square root of their fan-in. Above 1 noise grows from pass
            to pass; far below, logits are flat.
    """
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_global_key_value_heads": 1,
        "global_head_dim": 32,
        "sliding_window": WINDOW,
        "num_experts": 8,
        "top_k_experts": 2,
        "max_position_embeddings": 1024,
        "use_bidirectional_attention": "vision",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    if layers == 1:
        sizes["layer_types"] = ["full_attention"]
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 64,
        "pooling_kernel_size": 2,
        "standardize": True,
    }
    config = transformers.DiffusionGemmaConfig(
        text_config=transformers.DiffusionGemmaTextConfig(**(sizes | text)),
        vision_config=transformers.Gemma4VisionConfig(**(tower | (vision or {}))),
        canvas_length=CANVAS,
        image_token_id=125,
        boi_token_id=126,
        eoi_token_id=127,
    )
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "rotary" in name or "embed_scale" in name:
                continue
            if tensor.dim() > 1:
                tensor.normal_(0.0, spread * tensor.shape[-1] ** -0.5, generator=generator)
            elif "layer_scalar" in name:  # the encoder's and the decoder's are drawn separately
                tensor.uniform_(0.6, 1.2, generator=generator)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model


def save(model: torch.nn.Module, folder: Path, **options: object) -> Path:
    """Written by transformers."""
    model.save_pretrained(folder, **options)
    return folder


def nudged(model: torch.nn.Module, by: float = 1e-7) -> torch.nn.Module:
    """A copy whose embeddings of tokens and of patches differ by some rounding: what it answers otherwise is the noise
    floor of a comparison."""
    twin = copy.deepcopy(model)
    patches = twin.model.encoder.vision_tower.patch_embedder.input_proj.weight
    with torch.no_grad():
        for weight in (twin.model.decoder.embed_tokens.weight, patches):
            weight.mul_(1 + by * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return twin
