"""Pictures: every stage agrees with `transformers`, from the pixels to the answer.

float32, CPU, one thread. Tolerance as in test_passes: 3e-4, or four times what a relative change of 1e-7 in the
embeddings of tokens and patches makes of the same numbers.
"""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import constrained_dg
from constrained_dg import load_pretrained
from constrained_dg.errors import InputError
from constrained_dg.integrations.transformers import cache_keyword, wrap
from constrained_dg.model.images import ATTENTION
from constrained_dg.model.masks import causal_mask, with_images
from constrained_dg.vision import Video, Vision
from tests.parity.test_passes import assert_close, decode
from tests.released import CANVAS, VOCAB, WINDOW, nudged, released, save, transformers

gemma4 = transformers.models.gemma4
IMAGE, BEGIN, END = 125, 126, 127
#: Heights and widths: square, wide, high, extreme, tiny, and one that is not resized.
SIZES = [(40, 40), (31, 90), (90, 31), (8, 200), (200, 8), (1, 1), (64, 64)]
TOWER = {"num_hidden_layers": 3, "num_attention_heads": 4, "position_embedding_size": 160}


@pytest.fixture(scope="module")
def theirs():
    return released(vision=TOWER)


@pytest.fixture(scope="module")
def twin(theirs):
    return nudged(theirs)


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    return save(theirs, tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def ours(folder):
    return load_pretrained(folder)


@pytest.fixture(scope="module")
def vision(folder):
    return Vision.load(folder, soft_tokens=70)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves and some noise, so that resizing has both to do."""
    generator = np.random.default_rng([seed, height, width])
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / 5 + seed)[..., None] * np.cos(columns / 7)[..., None] * [90, 60, 30] + 128
    return np.clip(waves + generator.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def their_inputs(vision: Vision, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Patches padded to the budget, and their positions, as their processor gives them."""
    pixels, positions = [], []
    most = vision.soft_tokens * vision.tower.config.pooling_kernel_size**2
    for each in (vision.processor.patches(pixels, vision.soft_tokens) for pixels in pictures):
        at = torch.arange(len(each.pixels))
        where = torch.stack([at % each.columns, at // each.columns], -1)
        free = most - len(at)
        pixels.append(torch.nn.functional.pad(each.pixels, (0, 0, 0, free)))
        positions.append(torch.nn.functional.pad(where, (0, 0, 0, free), value=-1))
    return {"pixel_values": torch.stack(pixels), "image_position_ids": torch.stack(positions)}


# -- the processor ----------------------------------------------------------------------------------------------------


def odd_sizes(count: int = 50) -> list[tuple[int, int]]:
    generator = np.random.default_rng(7)
    return [tuple(int(n) for n in np.exp(generator.uniform(0, 7, 2)).astype(int) + 1) for _ in range(count)]


def check_processor(processor, closest: float, equal: float) -> None:
    """50 odd sizes and every budget: the same sizes, positions and counts; pixels within `closest` of 255, of which a
    share of `equal` is the same."""
    ours = SimpleNamespace(patch_size=16, pooling_kernel_size=3, position_embedding_size=10_240)
    ours = constrained_dg.vision.processor.Processor(ours)
    differing = total = 0
    for number, (height, width) in enumerate(odd_sizes()):
        budget = (70, 140, 280, 560, 1120)[number % 5 if number < 25 else 0]
        pixels = picture(height, width, number)
        expected = processor(pixels, max_soft_tokens=budget, input_data_format="channels_last", return_tensors="pt")
        found = ours.patches(pixels, budget)
        used = len(found.pixels)
        assert used // 9 == expected["num_soft_tokens_per_image"][0] <= budget
        at = torch.arange(used)
        assert torch.equal(
            torch.stack([at % found.columns, at // found.columns], -1), expected["image_position_ids"][0, :used]
        )
        assert (expected["image_position_ids"][0, used:] == -1).all()
        apart = (found.pixels - expected["pixel_values"][0, :used]).abs() * 255
        assert apart.max() <= closest + 1e-3, (height, width, budget)
        differing, total = differing + int((apart > 0.5).sum()), total + apart.numel()
    assert differing <= (1 - equal) * total


def test_the_processor_is_theirs_on_50_odd_sizes():
    """With torchvision, which transformers prefers: every pixel is the same."""
    pytest.importorskip("torchvision", reason="their own processor needs torchvision")
    from transformers.models.gemma4.image_processing_gemma4 import Gemma4ImageProcessor

    check_processor(Gemma4ImageProcessor(), closest=0, equal=1)


def test_the_processor_is_near_to_theirs_without_torchvision():
    """Their other processor resizes with Pillow, whose rounding differs."""
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    check_processor(Gemma4ImageProcessorPil(), closest=2, equal=0.98)


# -- the tower --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features(theirs, twin, vision, size):
    pixels = picture(*size)
    found = vision.tower(vision.processor.patches(pixels, 70))
    both = [m.model.encoder.get_image_features(**their_inputs(vision, [pixels])).pooler_output for m in (theirs, twin)]
    assert len(found) == len(both[0]) <= 70
    assert_close(found[None], *(each[None] for each in both))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_features_of_other_shapes(tmp_path, standardize, groups):
    model = released(
        vision=TOWER | {"standardize": standardize, "num_key_value_heads": groups, "pooling_kernel_size": 3}
    )
    vision = Vision.load(save(model, tmp_path), soft_tokens=70)
    pixels = picture(50, 77)
    inputs = their_inputs(vision, [pixels])
    both = [m.model.encoder.get_image_features(**inputs).pooler_output[None] for m in (model, nudged(model))]
    assert_close(vision.tower(vision.processor.patches(pixels, 70))[None], *both)


def test_stages_of_the_tower(theirs, twin, vision):
    """Embedded patches, the output of the layers, and pooled ones, before the projection."""
    pixels, stages = picture(60, 45), ("patch_embedder", "encoder")
    seen: list[dict[str, torch.Tensor]] = []
    for model in (theirs, twin):
        tower, kept = model.model.encoder.vision_tower, {}
        hooks = [
            getattr(tower, name).register_forward_hook(
                lambda _, __, out, name=name, kept=kept: kept.update(
                    {name: out if isinstance(out, torch.Tensor) else out.last_hidden_state}
                )
            )
            for name in stages
        ]
        kept["pooled"] = model.model.encoder.get_image_features(**their_inputs(vision, [pixels])).last_hidden_state[
            None
        ]
        for hook in hooks:
            hook.remove()
        seen.append(kept)
    patches, tower = vision.processor.patches(pixels, 70), vision.tower
    used, kept = len(patches.pixels), []
    handle = tower.layers[0].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    last = tower.layers[-1].register_forward_hook(lambda _, __, out: kept.append(out))
    tower(patches)
    handle.remove(), last.remove()
    for name, found in zip(stages, kept, strict=True):
        assert_close(found, *(each[name][:, :used] for each in seen))
    assert_close(tower.pooled(kept[-1][0], patches.columns)[None], *(each["pooled"] for each in seen))


def test_bfloat16_features(tmp_path):
    """As far from the exact features of the same weights as theirs are."""
    half, exact = released(vision=TOWER).to(torch.bfloat16), released(vision=TOWER)
    exact.load_state_dict(half.state_dict())
    vision = Vision.load(save(half, tmp_path), soft_tokens=70)
    pixels = picture(60, 45)
    found = vision.tower(vision.processor.patches(pixels, 70))
    theirs, right = (
        m.model.encoder.get_image_features(**their_inputs(vision, [pixels])).pooler_output for m in (half, exact)
    )
    assert found.dtype == torch.bfloat16
    errors = [(each.float() - right).abs().mean() for each in (found, theirs)]
    assert errors[0] <= 1.25 * errors[1]


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_expanded_placeholders_are_theirs(vision):
    tokens = SimpleNamespace(boi_token="<b>", eoi_token="<e>", image_token="<i>", video_token="<v>")
    processor = gemma4.processing_gemma4.Gemma4Processor
    out = vision.expand([7, IMAGE, IMAGE, 9], [picture(40, 40), picture(31, 90)])
    counts = [len(each.pixels) // 4 for each in out.pictures]
    words = {IMAGE: "<i>", BEGIN: "<b>", END: "<e>"}
    replaced = [processor.replace_image_token(tokens, {"num_soft_tokens_per_image": counts}, n) for n in (0, 1)]
    assert "".join(words.get(token, str(token)) for token in out.tokens) == f"7{''.join(replaced)}9"
    assert [at for at, soft in enumerate(out.index) if soft >= 0] == [
        at for at, token in enumerate(out.tokens) if token == IMAGE
    ]
    assert [soft for soft in out.index if soft >= 0] == list(range(sum(counts)))


@pytest.mark.parametrize("total, fps", [(32, 24.0), (33, 2.0), (100, 0.5), (7200, 29.97)])
def test_frames_and_stamps_of_a_video_are_theirs(vision, total, fps):
    from transformers.video_utils import VideoMetadata, default_sample_indices_fn

    metadata = VideoMetadata(total_num_frames=total, fps=fps)
    metadata.frames_indices = default_sample_indices_fn(metadata, num_frames=32).tolist()
    video = Video([b""] * total, fps=fps)
    assert video.chosen() == metadata.frames_indices
    tokens = SimpleNamespace(boi_token="<b>", eoi_token="<e>", video_token="<v>")
    expected = gemma4.processing_gemma4.Gemma4Processor.replace_video_token(
        tokens, {"num_soft_tokens_per_video": [3], "video_metadata": [metadata]}, 0
    )
    video_vision = Vision(vision.tower, (IMAGE, BEGIN, END, 124))
    stamped = video_vision.stamped("<|video|>", [video])
    assert stamped.replace("<|video|>", f"<b>{'<v>' * 3}<e>") == expected


def test_the_frames_of_a_video_are_their_frames():
    pytest.importorskip("torchvision", reason="their processor of videos needs torchvision")
    from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
    from transformers.video_utils import VideoMetadata

    frames = np.stack([picture(90, 121, seed) for seed in range(40)])
    metadata = VideoMetadata(total_num_frames=40, fps=10)
    expected = Gemma4VideoProcessor()([frames.transpose(0, 3, 1, 2)], video_metadata=[metadata], return_tensors="pt")
    processor = constrained_dg.vision.processor.Processor(
        SimpleNamespace(patch_size=16, pooling_kernel_size=3, position_embedding_size=10_240)
    )
    chosen = Video(frames, fps=10.0).chosen()
    assert len(chosen) == expected["num_frames_per_video"][0] == 32
    for number, index in enumerate(chosen):
        found = processor.patches(frames[index], 70)
        used = len(found.pixels)
        assert used // 9 == expected["num_soft_tokens_per_video"][0]
        # They normalise frames by a mean of 0 and a deviation of 1, which rounds otherwise.
        torch.testing.assert_close(found.pixels, expected["pixel_values_videos"][number, :used], atol=1e-6, rtol=0)


def test_a_video_is_its_frames_given_as_images(ours, vision):
    """The same pixels behind the same times: the same cache, though the placeholders are other tokens."""
    frames = [picture(40, 40, seed) for seed in range(3)]
    video_vision = Vision(vision.tower, (IMAGE, BEGIN, END, 124), soft_tokens=70, frame_tokens=70)
    times = [[10, 11], [12], [13, 14]]
    as_video = video_vision.expand([5, *times[0], 124, *times[1], 124, *times[2], 124], [Video(frames, fps=1.0)])
    as_images = vision.expand([5, *times[0], IMAGE, *times[1], IMAGE, *times[2], IMAGE], frames)
    assert as_video.tokens == [124 if token == IMAGE else token for token in as_images.tokens]
    canvas = torch.randint(3, 120, (1, CANVAS), generator=torch.Generator().manual_seed(0))
    logits = [
        ours.denoise(canvas, ours.prefill(torch.tensor([each.tokens]), images=reader.images([each], len(each.tokens))))
        for each, reader in ((as_video, video_vision), (as_images, vision))
    ]
    assert torch.equal(*logits)


# -- masks ------------------------------------------------------------------------------------------------------------


def groups(length: int, *spans: tuple[int, int]) -> torch.Tensor:
    row = torch.full((length,), -1)
    for number, (lo, hi) in enumerate(spans):
        row[lo:hi] = number
    return row


def their_masks(model, kinds, mask, past, attention):
    """Their masks of both kinds of layer: of DiffusionGemma as it is, or as they run Gemma 4.

    Args:
        kinds: (B, S), 1 at tokens of pictures.
    """
    if attention == "all_layers":
        make, more = model.model.encoder.create_masks_for_generate, {"mm_token_type_ids": kinds}
    else:
        module = transformers.models.diffusion_gemma.modeling_diffusion_gemma
        blocks = module.get_block_sequence_ids_for_mask(kinds, kinds.device)
        make, more = gemma4.modeling_gemma4.create_masks_for_vision_model, {"block_sequence_ids": blocks}
    name = "cache" if "cache" in signature(make).parameters else "past_key_values"
    return make(
        config=model.config.text_config,
        inputs_embeds=torch.zeros(*kinds.shape, 4),
        attention_mask=mask,
        position_ids=torch.arange(kinds.shape[1])[None],
        **{name: past},
        **more,
    )


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_masks_are_those_of_both_models(theirs, attention, kind):
    """Two rows with pictures at different places, one longer than the window."""
    length, window = 40, WINDOW if kind == "sliding_attention" else None
    blocks = torch.stack([groups(length, (2, 32)), groups(length, (0, 5), (6, 20))])
    expected = their_masks(theirs, (blocks >= 0).long(), torch.ones(2, length).long(), None, attention)[kind]
    expected = causal_mask(0, length, None)[None] if expected is None else expected[:, 0]
    found = with_images(causal_mask(0, length, window), blocks, blocks, window, attention, 0, 0)
    assert torch.equal(found.expand(2, -1, -1), expected.expand(2, -1, -1))


# -- passes and generations -------------------------------------------------------------------------------------------


def prompts(vision: Vision, *, apart: bool = False):
    """Two prompts of equal length with two pictures each; the pictures of the second come in another order."""
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(3, 120, (2, 12), generator=generator).tolist()
    pictures = [[picture(40, 40, 1), picture(31, 50, 2)], [picture(31, 50, 3), picture(40, 40, 4)]]
    rows = [[*text[0][:3], IMAGE, *text[0][3:6], IMAGE, *text[0][6:]], [*text[1][:5], IMAGE, IMAGE, *text[1][5:]]]
    expanded = [vision.expand(row, of_row) for row, of_row in zip(rows, pictures, strict=True)]
    if apart:
        expanded[1] = vision.expand(rows[1][2:], pictures[1])
    return rows, pictures, expanded


def their_arguments(vision, pictures, tokens):
    inputs = their_inputs(vision, [each for of_row in pictures for each in of_row])
    return inputs | {"mm_token_type_ids": (tokens == IMAGE).long()}


def encoded(model, tokens, mask, inputs, attention):
    """Their cache, with the masks that `generate` gives (a direct call would lose them)."""
    past = transformers.DynamicCache(config=model.config.text_config)
    model.model.encoder(
        input_ids=tokens,
        attention_mask=their_masks(model, inputs["mm_token_type_ids"], mask, past, attention),
        pixel_values=inputs["pixel_values"],
        image_position_ids=inputs["image_position_ids"],
        **{cache_keyword(model): past},
    )
    return past


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("padded", [False, True], ids=["plain", "left-padded"])
@pytest.mark.parametrize("chunk", [2048, 100], ids=["at once", "in chunks"])
def test_prefill_and_canvas(theirs, twin, ours, folder, monkeypatch, attention, padded, chunk):
    """Cached keys and values of every layer, and the logits of a canvas. Pictures of 64 and 66 tokens are longer than
    the window of 24 and than half a chunk."""
    vision = Vision.load(folder, soft_tokens=70, attention=attention)
    _, pictures, expanded = prompts(vision, apart=padded)
    length = max(len(each.tokens) for each in expanded)
    tokens = torch.tensor([[0] * (length - len(each.tokens)) + each.tokens for each in expanded])
    mask = torch.tensor([[0] * (length - len(each.tokens)) + [1] * len(each.tokens) for each in expanded]).bool()
    monkeypatch.setattr("constrained_dg.model.backbone.PREFILL_CHUNK", chunk)
    monkeypatch.setattr("constrained_dg.model.backbone.QUERY_BLOCK", chunk // 2)
    monkeypatch.setattr("constrained_dg.model.plan.SPLIT", 0)
    inputs = their_arguments(vision, pictures, tokens)
    pasts = [encoded(m, tokens, mask if padded else None, inputs, attention) for m in (theirs, twin)]
    cache = ours.prefill(tokens, mask if padded else None, images=vision.images(expanded, length))
    assert cache.length == length > 2 * WINDOW
    for layer in range(ours.config.num_hidden_layers):
        for found, name in zip(cache.committed(layer), ("keys", "values"), strict=True):
            both = [getattr(past.layers[layer], name).transpose(1, 2) for past in pasts]
            assert found.shape == both[0].shape
            assert_close(found, *both, where=mask[:, -found.shape[1] :] if padded else None)
    canvas = torch.randint(3, 120, (2, CANVAS), generator=torch.Generator().manual_seed(9))
    both = [
        decode(m, canvas, past, mask=mask if padded else None) for m, past in zip((theirs, twin), pasts, strict=True)
    ]
    assert_close(ours.denoise(canvas, cache), *both)


def test_both_ways_of_attention_differ(ours, folder):
    """The option has an effect on the answers: full layers see less."""
    logits = []
    for attention in ATTENTION:
        vision = Vision.load(folder, soft_tokens=70, attention=attention)
        _, _, expanded = prompts(vision)
        tokens = torch.tensor([each.tokens for each in expanded])
        cache = ours.prefill(tokens, images=vision.images(expanded, tokens.shape[1]))
        logits.append(ours.denoise(tokens[:, :CANVAS].clamp(max=120), cache))
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Smaller weights for whole generations, see test_generation."""
    theirs = released(spread=0.16, vision=TOWER)
    folder = save(theirs, tmp_path_factory.mktemp("small"))
    return theirs, load_pretrained(folder), Vision.load(folder, soft_tokens=70)


@pytest.mark.parametrize("wrapped", [False, True], ids=["ours", "wrapped"])
@pytest.mark.parametrize("seed", range(3))
def test_a_generation_with_two_images_is_token_identical(small, seed, wrapped):
    """Of 24 seeds, 24 were identical (2 rows, 3 canvases of 12 passes, transformers 5.23)."""
    theirs, ours, vision = small
    rows, pictures, expanded = prompts(vision)
    tokens = torch.tensor([each.tokens for each in expanded])
    torch.manual_seed(seed)
    output = theirs.generate(
        tokens,
        **their_arguments(vision, pictures, tokens),
        max_new_tokens=3 * CANVAS,
        max_denoising_steps=12,
        pad_token_id=0,
        eos_token_id=None,
    )
    torch.manual_seed(seed)
    found = constrained_dg.generate(
        wrap(theirs) if wrapped else ours,
        rows,
        images=pictures,
        vision=vision,
        max_new_tokens=3 * CANVAS,
        max_passes=12,
        eos=(),
        pad=0,
        rng="transformers",
    )
    assert torch.equal(found.tokens, output.sequences[:, tokens.shape[1] :])
    assert found.tokens.max() < VOCAB and found.tokens.shape == (2, 3 * CANVAS)


def test_a_wrapped_model_reads_prompts_of_different_lengths(small):
    theirs, ours, vision = small
    rows, pictures, _ = prompts(vision, apart=True)
    rows[1] = rows[1][2:]
    found = []
    for model in (ours, wrap(theirs)):
        torch.manual_seed(3)
        more = {"max_passes": 12, "eos": (), "pad": 0, "rng": "transformers"}
        found.append(constrained_dg.generate(model, rows, images=pictures, vision=vision, **more).tokens)
    assert torch.equal(*found)


@pytest.mark.parametrize("given", [1, 3])
def test_a_wrapped_model_refuses_other_counts_of_pictures_as_ours_does(small, given):
    theirs, ours, vision = small
    wrapped, found = wrap(theirs), []
    for model in (ours, wrapped):
        with pytest.raises(InputError, match=rf"the prompt has 2 .* and {given} images were given") as refused:
            constrained_dg.generate(model, [[5, IMAGE, IMAGE, 6]], images=[[picture(40, 40)] * given], vision=vision)
        found.append(str(refused.value))
    assert found[0] == found[1] and "\n" not in found[0]
    bare = torch.tensor([[5, BEGIN, IMAGE, IMAGE, END, 6]])
    with pytest.raises(InputError, match=rf"the prompt holds the image tokens .{IMAGE}, {BEGIN}, {END}."):
        constrained_dg.generate(wrapped, bare, max_passes=1)


def test_a_wrapped_model_refuses_what_transformers_does_not_compute(theirs, folder):
    vision = Vision.load(folder, soft_tokens=70, attention=ATTENTION[1])
    rows, pictures, _ = prompts(vision)
    with pytest.raises(InputError, match="attention='sliding_layers'; a model of transformers takes"):
        constrained_dg.generate(wrap(theirs), rows, images=pictures, vision=vision, max_passes=1)


def test_the_pictures_matter(small):
    """Another picture, another answer: what is compared above is not blind."""
    _, ours, vision = small
    rows, pictures, _ = prompts(vision)
    answers = [
        constrained_dg.generate(ours, rows, images=given, vision=vision, max_passes=12, max_new_tokens=CANVAS).tokens
        for given in (pictures, [pictures[1][::-1], pictures[0][::-1]])
    ]
    assert not torch.equal(*answers)
