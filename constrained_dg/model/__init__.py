"""The DiffusionGemma backbone."""

from constrained_dg.model.backbone import Backbone, RoutingRecord
from constrained_dg.model.config import PRESETS, ModelConfig, preset

__all__ = ["PRESETS", "Backbone", "ModelConfig", "RoutingRecord", "preset"]
