"""Pictures and videos that cannot be read, and prompts that do not fit them: one line before any pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import constrained_dg
from constrained_dg.errors import InputError
from constrained_dg.model import backbone, plan
from constrained_dg.model.config import VisionConfig
from constrained_dg.model.images import ATTENTION, Images, SoftTokens
from constrained_dg.model.vision import VisionTower
from constrained_dg.text import pad_left
from constrained_dg.vision import Video, Vision
from constrained_dg.vision.processor import Processor
from tests.fakes import Fake
from tests.naive_backbone import random_backbone
from tests.pictures import TINY, pixels

IMAGE, BEGIN, END, VIDEO = 60, 61, 62, 63


def tower(seed: int = 0) -> VisionTower:
    made, generator = VisionTower(TINY), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def vision() -> Vision:
    return Vision(tower(), (IMAGE, BEGIN, END, VIDEO), soft_tokens=70)


@pytest.fixture(scope="module")
def model():
    made = random_backbone(0, canvas_length=4)
    made.image_token_ids = (IMAGE, BEGIN, END)
    return made


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens, given_pictures, said",
    [
        ([1, IMAGE], [], r"^the prompt has 1 <\|image\|> and 0 images were given; write <\|image\|> once where each"),
        ([1], [pixels()], r"the prompt has 0 <\|image\|> and 1 images were given"),
        ([IMAGE, IMAGE, IMAGE], [pixels()] * 2, r"has 3 <\|image\|> and 2 images"),
        ([VIDEO], [pixels()], r"has 0 <\|image\|> and 1 images"),
        ([VIDEO], [Video([pixels()] * 2, fps=1)], r"has 1 <\|video\|> and 2 frames"),
        ([IMAGE], [b"no picture"], "^image 1 is not a picture"),
        ([IMAGE, IMAGE], [pixels(), "no.png"], "^image 2 'no.png' is not a file"),
        ([VIDEO] * 2, [Video([pixels(), b""], fps=1)], "^a frame of video 1 is not a picture"),
        ([VIDEO] * 2, [Video([pixels(), pixels(9, 9)], fps=1)], "the frames of video 1 are 12 x 8 and 9 x 9 pixels"),
    ],
)
def test_prompts_that_do_not_fit_their_pictures(vision: Vision, tokens: list, given_pictures: list, said: str) -> None:
    with pytest.raises(InputError, match=said):
        vision.expand(tokens, given_pictures)


def test_counts_are_compared_before_anything_is_decoded(vision: Vision) -> None:
    with pytest.raises(InputError, match="1 images were given"):
        vision.expand([IMAGE, IMAGE], [b"no picture at all"])


@pytest.mark.parametrize(
    "keywords, said",
    [
        ({"frames": [], "fps": 1}, "the video has no frames; give a list of pictures"),
        ({"frames": "a.mp4", "fps": 1}, "the video has no frames"),
        ({"frames": np.zeros((0, 4, 4, 3), np.uint8), "fps": 1}, "the video has no frames"),
        ({"frames": [0]}, "a video needs either fps or stamps; give one of them"),
        ({"frames": [0], "fps": 1, "stamps": [0]}, "either fps or stamps"),
        ({"frames": [0], "fps": 0}, "fps is 0; give a number above 0"),
        ({"frames": [0], "fps": float("nan")}, "fps is nan"),
        ({"frames": [0, 1], "stamps": [0]}, "the video has 2 frames and 1 stamps"),
        ({"frames": [0, 1], "stamps": [0, -1]}, "a stamp is -1; give seconds from 0 up"),
        ({"frames": [0], "fps": 1, "most": 0}, "most is 0"),
    ],
)
def test_bad_videos_are_named(keywords: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Video(**keywords)


def test_a_video_is_read_at_its_times(vision: Vision) -> None:
    video = Video([0] * 5, stamps=[0, 59.9, 60, 3600, 7200], most=4)
    assert video.chosen() == [0, 1, 2, 3] and video.times() == ["00:00", "00:59", "01:00", "60:00"]
    assert vision.stamped("a <|video|>!", [video, pixels()]) == (
        "a 00:00 <|video|> 00:59 <|video|> 01:00 <|video|> 60:00 <|video|>!"
    )
    with pytest.raises(InputError, match=r"the prompt has 0 <\|video\|> and 1 videos were given"):
        vision.stamped("a", [video])
    with pytest.raises(InputError, match=r"no tokenizer with <\|video\|> was given; give frames as images"):
        Vision(vision.tower, (IMAGE, BEGIN, END, None)).stamped("<|video|>", [video])


@pytest.mark.parametrize(
    "keywords, said",
    [
        ({"soft_tokens": 100}, "soft_tokens is 100; give one of 70, 140, 280, 560, 1120"),
        ({"frame_tokens": 0}, "frame_tokens is 0"),
        ({"attention": "some"}, "attention is 'some'; give one of all_layers, sliding_layers"),
    ],
)
def test_bad_options_are_named(keywords: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Vision(tower(), (IMAGE, BEGIN, END, None), **keywords)


@given(st.lists(st.sampled_from([1, 2, IMAGE]), max_size=8), st.integers(0, 100))
def test_every_soft_token_has_one_place_and_text_stays(tokens: list[int], seed: int) -> None:
    vision = Vision(tower(), (IMAGE, BEGIN, END, None), soft_tokens=70)
    generator = np.random.default_rng(seed)
    pictures = [pixels(*generator.integers(4, 30, 2)) for token in tokens if token == IMAGE]
    out = vision.expand(tokens, pictures)
    soft = [at for at in out.index if at >= 0]
    assert soft == list(range(sum(len(each.pixels) for each in out.pictures) // 4))
    assert [token == IMAGE for token in out.tokens] == [at >= 0 for at in out.index]
    assert [token for token in out.tokens if token < IMAGE] == [token for token in tokens if token != IMAGE]
    assert out.tokens.count(BEGIN) == out.tokens.count(END) == len(pictures)


# -- a model and its pictures -----------------------------------------------------------------------------------------


def ask(model: object, **keywords: object):
    usual = {"prompt": [[1, IMAGE, 2]], "images": [[pixels()]], "max_passes": 2, "canvas_length": 4, "seeds": 3}
    return constrained_dg.generate(model, **(usual | keywords))


@pytest.mark.parametrize("sampler", ["plain", "restarts", "autoregressive"])
def test_rows_with_and_without_pictures_share_a_batch(model, vision: Vision, sampler: str) -> None:
    """A row answers as it does alone; candidates and attempts see the picture too."""
    rows, pictures = (
        [[1, IMAGE, 2], [5, 6, 7, IMAGE, IMAGE], [9, 8]],
        [[pixels()], [pixels(9, 9, 1), pixels(5, 30)], []],
    )
    seeds = torch.tensor([1, 2, 3])
    options = {"vision": vision, "sampler": sampler, "max_new_tokens": 8}
    options |= {"candidates": 2} if sampler == "plain" else {}
    together = ask(model, prompt=rows, images=pictures, seeds=seeds, **options)
    for row in range(3):
        alone = ask(
            model, prompt=rows[row : row + 1], images=pictures[row : row + 1], seeds=seeds[row : row + 1], **options
        )
        assert torch.equal(alone.tokens[0], together.tokens[row])
    other = ask(model, prompt=rows, images=[[pixels(seed=5)], *pictures[1:]], seeds=seeds, **options)
    assert torch.equal(other.tokens[1:], together.tokens[1:])


WINDOWED = random_backbone(0, canvas_length=4, sliding_window=6)


@settings(max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(ATTENTION), st.booleans(), st.integers(0, 99))
def test_a_prompt_in_pieces_is_one_at_once(chunk: int, block: int, attention: str, padded: bool, seed: int) -> None:
    """The twin is the gradient mode: one chunk and one block of queries."""
    reader = Vision(tower(), (IMAGE, BEGIN, END, None), soft_tokens=70, attention=attention)
    generator = np.random.default_rng(seed)
    small = [pixels(*generator.integers(4, 30, 2)) for _ in range(3)]  # about 60 soft tokens each
    rows = [reader.expand([1, IMAGE, 2, 3, IMAGE], small[:2]), reader.expand([4] * 9 + [IMAGE, 5], small[2:])]
    length = max(len(row.tokens) for row in rows) + 3 * padded
    prompt, mask = pad_left([row.tokens for row in rows], 0, length)
    canvas = torch.tensor([[1, 2, 3, 4]]).expand(2, -1)

    def logits() -> torch.Tensor:
        cache = WINDOWED.prefill(prompt, mask, images=reader.images(rows, length))
        return WINDOWED.denoise(canvas, cache).detach()

    cut = mock.patch.multiple(backbone, PREFILL_CHUNK=chunk, QUERY_BLOCK=block)
    with torch.no_grad(), cut, mock.patch.object(plan, "SPLIT", 0):
        found = logits()
    torch.testing.assert_close(found, logits(), atol=1e-4, rtol=1e-4)


def test_the_tower_runs_once_for_all_candidates_and_attempts(model) -> None:
    calls = []
    vision = Vision(tower(), (IMAGE, BEGIN, END, None), soft_tokens=70)
    vision.tower.register_forward_hook(lambda *_: calls.append(1))
    ask(model, vision=vision, sampler="restarts", candidates=1)
    assert len(calls) == 1
    with pytest.raises(InputError, match="do not fit a context"):
        ask(model, vision=vision, max_new_tokens=4096)
    assert len(calls) == 1  # what does not fit is refused before


def test_pictures_that_do_not_fit_the_model_are_refused(model, vision: Vision) -> None:
    with pytest.raises(InputError, match=r"image tokens \[60\]; give images and vision, or text alone"):
        ask(model, images=None)
    with pytest.raises(InputError, match="images were given without vision; give vision as well"):
        ask(model)
    with pytest.raises(InputError, match=r"vision is 'model'; give vision.Vision.load"):
        ask(model, vision="model")
    with pytest.raises(InputError, match="images is not a list for each prompt"):
        ask(model, vision=vision, images=[pixels()])
    with pytest.raises(InputError, match="images is not a list for each prompt"):
        ask(model, vision=vision, images=None)
    with pytest.raises(InputError, match="1 prompts, and images for 2; give one list each"):
        ask(model, vision=vision, images=[[pixels()], []])
    with pytest.raises(InputError, match="a Fake reads no images; use a model of load_pretrained"):
        ask(Fake(), vision=Vision(tower(), (6, 5, 4, None), soft_tokens=70), prompt=[[1, 6]])
    with pytest.raises(InputError, match="a prompt is empty"):
        ask(model, vision=vision, prompt=[[1], []], images=[[], []])
    wide = VisionTower(VisionConfig(**(vars(TINY) | {"text_size": 48})))
    with pytest.raises(InputError, match="soft tokens of size 48; this model takes 32"):
        ask(model, vision=Vision(wide, (IMAGE, BEGIN, END, None), soft_tokens=70))


def test_reads_see_pictures(model, vision: Vision) -> None:
    """The probabilities of a pass behind the picture, by hand; with another picture they differ."""
    slots, canvas = {1: [5, 9]}, torch.zeros(1, 4, dtype=torch.int64)
    pinned = torch.tensor([[True, False, True, True]])
    options = {"canvas": canvas, "pinned": pinned, "vision": vision, "seeds": 4}
    found = constrained_dg.read(model, [[1, IMAGE, 2]], slots, images=[[pixels()]], **options)
    other = constrained_dg.read(model, [[1, IMAGE, 2]], slots, images=[[pixels(seed=1)]], **options)
    assert (found.probabilities - other.probabilities).abs().max() > 1e-4
    written = vision.expand([1, IMAGE, 2], [pixels()])
    by_hand = constrained_dg.read(
        model, [written.tokens], slots, images=vision.images([written], len(written.tokens)),
        **(options | {"vision": None}),
    )  # fmt: skip
    torch.testing.assert_close(found.probabilities, by_hand.probabilities)
    with pytest.raises(InputError, match="images were given without vision"):
        constrained_dg.read(model, [[1, IMAGE, 2]], slots, images=[[pixels()]], **(options | {"vision": None}))
    with pytest.raises(InputError, match=r"image tokens \[60\]"):
        constrained_dg.read(model, [[1, IMAGE, 2]], slots, **(options | {"vision": None}))


def test_images_that_were_made_by_hand_are_checked(model) -> None:
    soft = SoftTokens(tower(), [Processor(TINY).patches(pixels(), 70)])
    prompt = torch.tensor([[1, IMAGE, IMAGE, 2]])

    def given_index(*index: int) -> object:
        return ask(model, prompt=prompt, images=Images(torch.tensor([index]), soft))

    assert given_index(-1, 0, 1, -1).tokens.shape == (1, 4)
    with pytest.raises(InputError, match=r"images index \(1, 3\); give \(1, 4\)"):
        given_index(-1, 0, 1)
    with pytest.raises(InputError, match=rf"soft tokens -1 to {soft.count}; there are {soft.count}"):
        given_index(-1, 0, soft.count, -1)
    with pytest.raises(InputError, match=r"the prompts \[0\] hold image tokens without an image"):
        given_index(-1, 0, -1, -1)
    with pytest.raises(InputError, match="attention is 'none'"):
        Images(torch.zeros(1, 1), soft, "none")


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.released import released, save

    return save(released(layers=1), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copied"))


def test_the_budget_comes_from_the_checkpoint(copied: Path) -> None:
    assert Vision.load(copied).soft_tokens == 280
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": {"max_soft_tokens": 560}}))
    assert Vision.load(copied).soft_tokens == 560
    assert Vision.load(copied, soft_tokens=140).soft_tokens == 140
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": {"max_soft_tokens": "many"}}))
    with pytest.raises(InputError, match="max_soft_tokens is 'many'"):
        Vision.load(copied)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("model_type", "siglip", "vision_config.model_type is 'siglip'; this tower knows 'gemma4_vision' only"),
        ("use_clipped_linears", True, "vision_config.use_clipped_linears is True"),
        ("hidden_size", 0, "vision_config.hidden_size is 0; give an integer from 1"),
        ("rms_norm_eps", -1, "vision_config.rms_norm_eps is -1; give a number above 0"),
        ("standardize", 1, "vision_config.standardize is 1; give true or false"),
        ("rope_parameters", {"rope_type": "yarn"}, "rope_parameters is .*this tower knows axial only"),
        ("head_dim", 10, "vision_config.head_dim is 10"),
        ("num_key_value_heads", 3, "2 attention heads cannot share 3 key/value heads"),
        ("hidden_size", 48, "has shape"),
        ("num_hidden_layers", 2, "lacks tensors"),
        ("standardize", False, "has unknown tensors"),
    ],
)
def test_a_tower_that_does_not_fit_its_description_is_named(copied: Path, key: str, value: object, said: str) -> None:
    path = copied / "config.json"
    raw = json.loads(path.read_text())
    raw["vision_config"][key] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=said):
        Vision.load(copied)


def test_a_checkpoint_without_a_tower_is_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    weights = load_file(path)
    save_file({name: tensor.clone() for name, tensor in weights.items() if ".vision_tower." not in name}, path)
    with pytest.raises(InputError, match="lacks tensors"):
        Vision.load(copied)
    text = {name: tensor.clone() for name, tensor in weights.items() if "vision" not in name}
    save_file(text, path)
    with pytest.raises(InputError, match="has no vision tower; give text alone, or another checkpoint"):
        Vision.load(copied)
    assert SimpleNamespace(**vars(constrained_dg.load_pretrained(copied).config)).hidden_size == 64
