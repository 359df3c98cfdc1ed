"""Self-conditioning: the previous prediction enters the canvas as a gated MLP of its expected embedding."""

from __future__ import annotations

from constrained_dg.model.config import ModelConfig
from constrained_dg.model.layers import MLP, RMSNorm
from constrained_dg.shapes import FloatTensor


class SelfConditioning(MLP):
    """x0 = RMS_noscale(embedding + MLP(RMS(signal))). The outer norm holds without a signal too (the MLP is then 0)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size)
        self.pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, scaled=False)

    def forward(self, x: FloatTensor, signal: FloatTensor | None = None) -> FloatTensor:
        """(B, C, D) embedding, and (B, C, D) or None -> (B, C, D)."""
        if signal is not None:
            x = x + super().forward(self.pre_norm(signal))
        return self.post_norm(x)
