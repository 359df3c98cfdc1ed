"""The text arithmetic of DiffusionGemma written a second time, token by token, from its description (Google, 2026).

Shares no code with `constrained_dg.model`: plain functions on one row, float64, a Python list of keys and values per
layer. It knows nothing but a state dict and the numbers of the configuration.
"""

from __future__ import annotations

import math

import torch

from constrained_dg.model import Backbone, ModelConfig, preset


def random_backbone(seed: int = 0, name: str = "tiny", **changes: object) -> Backbone:
    """A backbone in which no norm weight, scale, layer scalar or bias is a neutral number."""
    generator = torch.Generator().manual_seed(seed)
    model = Backbone(preset(name, **changes)).init_weights(generator)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("relation_bias"):
                tensor.normal_(0.0, 1.5, generator=generator)
            elif tensor.dim() == 1:
                low, high = (0.7, 1.1) if key.endswith("layer_scalar") else (0.5, 1.5)
                tensor.mul_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.eval()


class NaiveRow:
    """One row: commit tokens, then look at canvases.

    Attributes:
        keys, values: [entry][position] -> (G, K), entries counted causal loop by causal loop.
        real: [position] -> False at padding.
    """

    def __init__(self, config: ModelConfig, state: dict[str, torch.Tensor], relations: torch.Tensor | None = None):
        self.config, self.relations = config, relations
        self.state = {key: tensor.double() for key, tensor in state.items()}
        entries = config.causal_loops * config.num_hidden_layers
        self.keys = [[] for _ in range(entries)]
        self.values = [[] for _ in range(entries)]
        self.real: list[bool] = []

    # -- passes -------------------------------------------------------------------------------------------------------

    def commit(self, tokens: list[int], real: list[bool] | None = None) -> torch.Tensor:
        """Causal logits (N, V) of new tokens, which join the cache."""
        start = len(self.real)
        self.real = self.real + (real or [True] * len(tokens))
        xs = [self.embed(token) for token in tokens]
        layers = self.config.num_hidden_layers
        for loop in range(self.config.causal_loops):
            for layer in range(layers):
                xs = self.layer(layer, loop * layers + layer, xs, start, causal=True)
        return torch.stack([self.head(x) for x in xs])

    def denoise(self, canvas: list[int], previous: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (C, V) of a canvas; `previous` (C, V) are the logits fed back, None for no signal."""
        start = len(self.real)
        xs = []
        for i, token in enumerate(canvas):
            inner = torch.zeros(self.config.hidden_size, dtype=torch.float64)
            if previous is not None:
                p = torch.softmax(previous[i].double(), -1)
                table = self.state["embed_tokens.weight"]
                signal = sum(p[v] * table[v] for v in range(len(table))) * math.sqrt(self.config.hidden_size)
                inner = self.gated("self_conditioning", self.norm(signal, "self_conditioning.pre_norm.weight"))
            xs.append(self.norm(self.embed(token) + inner))
        layers = self.config.num_hidden_layers
        for loop in range(self.config.loops):
            for layer in range(layers):
                entry = min(loop, self.config.causal_loops - 1) * layers + layer
                xs = self.layer(layer, entry, xs, start, causal=False)
        return torch.stack([self.head(x) for x in xs])

    # -- arithmetic ---------------------------------------------------------------------------------------------------

    def embed(self, token: int) -> torch.Tensor:
        return self.state["embed_tokens.weight"][token] * math.sqrt(self.config.hidden_size)

    def norm(self, x: torch.Tensor, weight: str | None = None) -> torch.Tensor:
        y = x / math.sqrt(float((x * x).mean()) + 1e-6)
        return y if weight is None else y * self.state[weight]

    def gated(self, prefix: str, x: torch.Tensor) -> torch.Tensor:
        gate = gelu(self.state[f"{prefix}.gate_proj.weight"] @ x)
        return self.state[f"{prefix}.down_proj.weight"] @ (gate * (self.state[f"{prefix}.up_proj.weight"] @ x))

    def head(self, x: torch.Tensor) -> torch.Tensor:
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(self.state["embed_tokens.weight"] @ self.norm(x, "norm.weight") / cap)

    def layer(self, layer: int, entry: int, xs: list[torch.Tensor], start: int, causal: bool) -> list[torch.Tensor]:
        config, prefix = self.config, f"layers.{layer}"
        last_of_group = (layer + 1) % (config.sliding_layers_per_full + 1) == 0
        full = last_of_group or layer + 1 == config.num_hidden_layers
        groups = config.num_global_key_value_heads if full else config.num_key_value_heads
        size = config.global_head_dim if full else config.head_dim
        theta, turning = (1_000_000.0, 0.25) if full else (10_000.0, 1.0)
        queries, keys, values = [], list(self.keys[entry]), list(self.values[entry])
        for offset, x in enumerate(xs):
            x = self.norm(x, f"{prefix}.input_layernorm.weight")
            project = f"{prefix}.self_attn"
            q = (self.state[f"{project}.q_proj.weight"] @ x).view(-1, size)
            k = (self.state[f"{project}.k_proj.weight"] @ x).view(groups, size)
            v = k if full else (self.state[f"{project}.v_proj.weight"] @ x).view(groups, size)
            at = start + offset
            queries.append([turn(self.norm(h, f"{project}.q_norm.weight"), at, theta, turning) for h in q])
            keys.append(torch.stack([turn(self.norm(g, f"{project}.k_norm.weight"), at, theta, turning) for g in k]))
            values.append(torch.stack([self.norm(g) for g in v]))
        if causal:
            self.keys[entry], self.values[entry] = keys, values
        out = []
        for offset, x in enumerate(xs):
            me = start + offset
            seen = [j for j in range(start + len(xs)) if self.sees(me, j, start, full, causal)]
            heads = []
            for h, q in enumerate(queries[offset]):
                g = h // (config.num_attention_heads // groups)
                scores = []
                for j in seen:
                    score = float(q @ keys[j][g])
                    if self.relations is not None:
                        bias = self.state[f"{prefix}.self_attn.relation_bias"]
                        for r in range(config.num_relations):
                            score += float(bias[h, r]) if self.relations[r, me, j] else 0.0
                    scores.append(score)
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                heads.append(sum(w / sum(weights) * values[j][g] for w, j in zip(weights, seen, strict=True)))
            attended = self.state[f"{prefix}.self_attn.o_proj.weight"] @ torch.cat(heads)
            r = x + self.norm(attended, f"{prefix}.post_attention_layernorm.weight")
            dense = self.gated(f"{prefix}.mlp", self.norm(r, f"{prefix}.pre_feedforward_layernorm.weight"))
            routed = self.experts(prefix, r)
            both = self.norm(dense, f"{prefix}.post_feedforward_layernorm_1.weight")
            both = both + self.norm(routed, f"{prefix}.post_feedforward_layernorm_2.weight")
            x = r + self.norm(both, f"{prefix}.post_feedforward_layernorm.weight")
            scalar = "encoder_layer_scalar" if causal else "layer_scalar"
            out.append(x * float(self.state[f"{prefix}.{scalar}"]))
        return out

    def sees(self, me: int, j: int, start: int, full: bool, causal: bool) -> bool:
        window = self.config.sliding_window
        if causal:
            in_reach = j <= me and (full or j > me - window)
            return in_reach and (self.real[j] or j == me)
        return j >= start or (self.real[j] and (full or j >= start - (window - 1)))

    def experts(self, prefix: str, r: torch.Tensor) -> torch.Tensor:
        u = self.norm(r) * self.state[f"{prefix}.router.scale"] / math.sqrt(len(r))
        p = torch.softmax(self.state[f"{prefix}.router.proj.weight"] @ u, -1).tolist()
        best = sorted(range(len(p)), key=lambda e: -p[e])[: self.config.top_k_experts]
        z = self.norm(r, f"{prefix}.pre_feedforward_layernorm_2.weight")
        total = torch.zeros_like(r)
        for e in best:
            both = self.state[f"{prefix}.experts.gate_up_proj"][e] @ z
            hidden = gelu(both[: len(both) // 2]) * both[len(both) // 2 :]
            weight = p[e] / sum(p[b] for b in best) * float(self.state[f"{prefix}.router.per_expert_scale"][e])
            total = total + weight * (self.state[f"{prefix}.experts.down_proj"][e] @ hidden)
        return total


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def turn(x: torch.Tensor, position: int, theta: float, share: float) -> torch.Tensor:
    """Rotate channels (t, t + K/2) by position * theta^(-2t/K) for the first `share` of the pairs."""
    half = len(x) // 2
    y = x.clone()
    for t in range(half):
        angle = position * theta ** (-2 * t / len(x)) if t < share * half else 0.0
        y[t] = x[t] * math.cos(angle) - x[t + half] * math.sin(angle)
        y[t + half] = x[t + half] * math.cos(angle) + x[t] * math.sin(angle)
    return y
