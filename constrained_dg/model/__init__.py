"""The DiffusionGemma backbone."""

from constrained_dg.model.backbone import Backbone, RoutingRecord
from constrained_dg.model.config import PRESETS, ModelConfig, preset
from constrained_dg.model.pretrained import load_pretrained, save_pretrained

__all__ = ["PRESETS", "Backbone", "ModelConfig", "RoutingRecord", "load_pretrained", "preset", "save_pretrained"]
