"""Our loop in `rng="transformers"` mode beside the parts of transformers' generate, on one fake model.

The fake depends on canvas, self-conditioning and cache by integer arithmetic, so that both sides see the same logits;
every decision, pass count and draw must then be the same.
"""

from types import SimpleNamespace

import pytest
import torch

from constrained_dg.sampling import Diffusion, EntropyBound, Stable, generate
from constrained_dg.sampling.distribution import settle, settle_by_softmax
from tests.fakes import VOCAB, Restless

reference = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # of its own imports
LENGTH = 8


def their_generate(model, prompt, canvases, max_passes, bound, threshold, confidence, eos, pad):
    """The canvas loop of transformers around its own step, sampler, stopping rule and finalising of a canvas."""
    rows = len(prompt)
    generator = reference.DiffusionGemmaGenerationMixin
    config = SimpleNamespace(pad_token_id=pad, eos_token_id=eos)
    stub = SimpleNamespace(
        config=SimpleNamespace(text_config=SimpleNamespace(vocab_size=VOCAB)),
        model=SimpleNamespace(decoder=SimpleNamespace(embed_tokens=SimpleNamespace(weight=torch.zeros(1)))),
    )
    sampler = reference.EntropyBoundSampler(
        reference.EntropyBoundSamplerConfig(entropy_bound=bound), LENGTH, VOCAB, max_passes
    )
    heat = reference.LinearTemperatureScheduleLogitsProcessor(0.4, 0.8, max_passes)
    ends = reference.StoppingCriteriaList([reference.EosTokenCriteria(eos_token_id=eos)] if eos else [])
    cache, tokens = model.prefill(prompt), prompt
    passes, finished = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool)
    for _ in range(canvases):
        canvas = best = sampler.initialize_canvas(rows, prompt.device)
        logits, done = None, torch.zeros(rows, dtype=torch.bool)
        stop = reference.StableAndConfidentStoppingCriteria(threshold, confidence)

        def forward(decoder_input_ids, self_conditioning_logits, cache=cache, **_):
            signal = None if self_conditioning_logits is None else self_conditioning_logits.softmax(-1)
            return SimpleNamespace(logits=model.denoise(decoder_input_ids, cache, signal))

        for step in range(max_passes, 0, -1):
            passes += ~(done | finished)
            canvas, best, logits, done = generator._denoising_step(
                stub, forward, canvas, best, tokens, None, logits, None, cache, done, step, sampler, heat, stop
            )
            if done.all():
                break
        tokens = torch.cat([tokens, best], 1)
        tokens, finished = generator._finalize_canvas(tokens, finished, config, ends, LENGTH, torch.tensor(eos))
        if finished.all():
            break
        cache = model.commit(tokens[:, -LENGTH:], cache)
    return tokens[:, prompt.shape[1] :], passes


@pytest.mark.parametrize("eos", [(), (6,), (0, 5)], ids=str)
@pytest.mark.parametrize("threshold, confidence", [(0, 1.2), (1, 0.9), (2, 0.9), (1, 0.005)])
def test_a_generation_is_token_identical(threshold, confidence, eos):
    counts = set()
    for seed in range(8):
        torch.manual_seed(seed)
        solutions = torch.randint(0, VOCAB, (3, 16))
        certainty = torch.randint(0, 14, (4, 1, 1))  # some rows settle at once, others never
        model, prompt = Restless(certainty, solutions), torch.tensor([[0, 6], [1, 5], [2, 5], [0, 3]])
        torch.manual_seed(seed)
        theirs, counted = their_generate(model, prompt, 3, 7, 0.3, threshold, confidence, eos, 0)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        ours = generate(
            model,
            prompt,
            sampler=Diffusion(accept=EntropyBound(0.3), stop=Stable(threshold, confidence), max_passes=7),
            canvas_length=LENGTH,
            max_new_tokens=3 * LENGTH,
            eos=eos,
            pad=0,
            rng="transformers",
        )
        made = theirs.shape[1]
        assert torch.equal(ours.tokens[:, :made], theirs) and (ours.tokens[:, made:] == 0).all()
        assert torch.equal(ours.passes, counted)
        assert torch.equal(torch.get_rng_state(), state)  # the same draws, finished rows included
        counts |= {*counted.tolist()}
    assert len(counts) > 1  # rows do stop at different passes


def test_entropies_are_those_of_transformers_to_the_bit():
    logits = 4 * torch.randn(3, LENGTH, 300, generator=torch.Generator().manual_seed(0))
    logits[:, :, 7] = -torch.inf
    temperature = torch.tensor(0.65)
    entropy = torch.distributions.Categorical(logits=logits / temperature).entropy()
    torch.manual_seed(0)
    slow = settle_by_softmax(logits, temperature)
    assert torch.equal(slow.entropy, entropy)
    fast = settle(logits.clone(), temperature, torch.full((3, LENGTH), 0.5))
    assert torch.equal(fast.best, slow.best)
    for name in ("entropy", "log_best", "probabilities"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", [0.05, 0.4, 3.0])
def test_acceptance_is_that_of_transformers(bound):
    logits = 6 * torch.randn(40, 16, 50, generator=torch.Generator().manual_seed(1))
    theirs = reference.EntropyBoundSampler(reference.EntropyBoundSamplerConfig(entropy_bound=bound), 16, 50, 1)
    theirs.accept_canvas(torch.zeros(40, 16), torch.zeros(40, 16), logits, 1)
    ours = EntropyBound(bound)(settle_by_softmax(logits, 1.0), torch.ones(40, 16, dtype=torch.bool))
    assert torch.equal(ours, theirs.accepted_token_mask) and ours.any() and not ours.all()
