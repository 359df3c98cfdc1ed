"""Corruption, set states and losses of uniform-state diffusion."""

from constrained_dg.diffusion.corruption import corrupt, sample_noise_levels
from constrained_dg.diffusion.loss import canvas_loss, next_token_loss

__all__ = ["canvas_loss", "corrupt", "next_token_loss", "sample_noise_levels"]
