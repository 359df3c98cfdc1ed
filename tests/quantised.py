"""Quantised twins of small models."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from constrained_dg.model import Backbone
from constrained_dg.model.quantised import QuantisedWeight
from constrained_dg.model.quantised.formats import quantise
from constrained_dg.model.quantised.place import place, usually_quantised


def quantised(model: Backbone, kind: str) -> Backbone:
    """The model with quantised weights where published checkpoints have them, in place."""
    for key in [key for key in model.state_dict() if usually_quantised(key, kind)]:
        weight = model.get_parameter(key).detach()
        empty = place(model, key, kind)
        matrices = weight.reshape(-1, weight.shape[-2] // empty.matrices, weight.shape[-1])
        parts = [quantise(matrix, kind) for matrix in matrices]
        for name, buffer in empty.state_dict().items():
            buffer.copy_(torch.stack([part[name] for part in parts]).view(buffer.shape))
    return model


def dequantised_twin(model: Backbone) -> Backbone:
    """A plain model with the numbers that a quantised one stands for."""
    plain = Backbone(model.config)
    dtype = model.embed_tokens.weight.dtype
    state = {key: tensor for key, tensor in model.state_dict().items() if key in plain.state_dict()}
    for name, module in model.named_modules():
        if isinstance(module, QuantisedWeight):
            state[name] = module.dequantised(dtype)
    plain.load_state_dict(state, assign=True)
    return plain.train(model.training)


def as_modelopt(folder: Path) -> None:
    """Rename the tensors of an NVFP4 checkpoint to the spelling of NVIDIA's ModelOpt."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {}
        for name, tensor in load_file(path).items():
            if name.endswith(".weight_global_scale"):
                name, tensor = name.replace("weight_global_scale", "weight_scale_2"), (1 / tensor).reshape(())
                tensors[name.replace("weight_scale_2", "input_scale")] = torch.tensor(0.5)
            tensors[name.replace(".weight_packed", ".weight")] = tensor
        save_file(tensors, path, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(tensors, path.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
