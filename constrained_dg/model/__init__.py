"""The DiffusionGemma backbone."""

from constrained_dg.model.backbone import Backbone, RoutingRecord
from constrained_dg.model.config import PRESETS, ModelConfig, preset
from constrained_dg.model.released.read import load_pretrained
from constrained_dg.model.released.write import save_pretrained

__all__ = ["PRESETS", "Backbone", "ModelConfig", "RoutingRecord", "load_pretrained", "preset", "save_pretrained"]
