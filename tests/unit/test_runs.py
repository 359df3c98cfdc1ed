"""Run folders: a round trip is exact, and whatever is wrong with a folder is said by name."""

import errno
import json
import re
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

import train
from constrained_dg import places, runs
from constrained_dg.errors import InputError
from constrained_dg.places import OUR_PACKAGES
from constrained_dg.runs import DESCRIPTION, WEIGHTS, build, save_run
from constrained_dg.sampling import Sampler, named
from constrained_dg.task import Task
from constrained_dg.training import folder as run_folder
from constrained_dg.training.settings import Objective, Optimisation, check_values, from_dict
from tests.naive_backbone import random_backbone

#: Where the task and the sampler of these tests lie.
OWN_PACKAGE = __name__.partition(".")[0]


def load(folder):
    return runs.load(folder, packages=[OWN_PACKAGE])


class SmallTask(Task):
    """A task in name only."""

    name = "small"

    def __init__(self, size: int = 4) -> None:
        self.size = int(size)


SmallTask.__abstractmethods__ = frozenset()


@dataclass(frozen=True)
class Part:
    bound: float = 0.1


@dataclass(frozen=True)
class OwnSampler(Sampler):
    name: str
    part: Part | None = None
    parts: tuple = ()

    def answer(self, model, batch, constraint, seeds, options):
        """All that a sampler has to have."""


class Bystander:
    """Neither a task nor a dataclass; building one would be noticed."""

    built = 0

    def __init__(self) -> None:
        Bystander.built += 1


def description(**changes):
    return {
        "task": {"_target_": f"{__name__}.SmallTask", "size": 9},
        "sampler": {"_target_": f"{__name__}.OwnSampler", "name": "plain", "part": {"_target_": f"{__name__}.Part"}},
        "training": {"steps": 3},
    } | changes


@pytest.fixture(scope="module")
def model():
    return random_backbone(1, num_relations=2, loops=2)


@pytest.fixture
def folder(tmp_path, model):
    save_run(tmp_path / "deep" / "run", model, description())
    return tmp_path / "deep" / "run"


def edit(folder, change):
    """Rewrite the weights with `change` applied to the dictionary of tensors."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def rewrite(folder, **changes):
    values = json.loads((folder / DESCRIPTION).read_text()) | changes
    (folder / DESCRIPTION).write_text(json.dumps(values))


def refused(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value), "one line"


# -- round trip -------------------------------------------------------------------------------------------------------


def test_round_trip_is_bit_equal(folder, model):
    run = load(str(folder))
    assert run.folder == folder and not run.model.training
    assert run.model.config == model.config
    want = model.state_dict()
    got = run.model.state_dict()
    assert list(got) == list(want)
    assert all(torch.equal(got[name], want[name]) and got[name].dtype == want[name].dtype for name in want)
    assert all(p.requires_grad for p in run.model.parameters())
    prompt, canvas = torch.arange(6).view(2, 3), torch.arange(8).view(2, 4)
    with torch.no_grad():
        assert torch.equal(
            run.model.denoise(canvas, run.model.prefill(prompt)), model.denoise(canvas, model.prefill(prompt))
        )
    assert isinstance(run.task, SmallTask) and run.task.size == 9
    assert run.sampler == OwnSampler("plain", Part(0.1))
    assert run.description["training"] == {"steps": 3}


def test_a_run_is_two_plain_files_and_saving_twice_replaces_it(folder, model):
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "run.json"]
    header = (folder / WEIGHTS).read_bytes()
    assert header[8:9] == b"{" and b"pickle" not in header
    other = random_backbone(2)
    # A description read from another run names that run's model: the model that is saved decides.
    save_run(folder, other, load(folder).description)
    again = load(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "run.json"]
    assert again.model.config == other.config
    assert torch.equal(again.model.embed_tokens.weight, other.embed_tokens.weight)


def test_bfloat16_weights_come_back_as_such(tmp_path):
    model = random_backbone(1).bfloat16()
    save_run(tmp_path, model, description())
    assert load(tmp_path).model.embed_tokens.weight.dtype == torch.bfloat16


# -- folders that are no run ------------------------------------------------------------------------------------------


def test_missing_folder_and_files(tmp_path, folder):
    refused(tmp_path / "nowhere", r"no run\.json in '.*nowhere'; a run folder holds run\.json and model\.safetensors")
    (folder / WEIGHTS).unlink()
    refused(folder, r"no model\.safetensors in '.*run'")
    refused(folder / DESCRIPTION, r"no run\.json in '.*run\.json'")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "null", '{"model": {}}', '{"task": {}, "sampler": {}}', "\udcff"]
)
def test_broken_description(folder, text):
    (folder / DESCRIPTION).write_text(text, errors="surrogateescape")
    refused(folder, r"run\.json (is not a run description|cannot be read)")


NESTED = '{"a": ' * 200 + "1" + "}" * 200


@pytest.mark.parametrize(
    "text",
    [
        f'{{"model": {{"vocab_size": {"9" * 5000}}}, "task": {{}}, "sampler": {{}}}}',
        "[" * 100_000 + "]" * 100_000,
        f'{{"model": {{}}, "task": {NESTED}, "sampler": {{}}}}',
        f'{{"model": {{}}, "task": {{}}, "sampler": {{}}, "training": {NESTED}}}',
    ],
    ids=["5000 digits", "deep list", "deep task", "deep training"],
)
def test_odd_numbers_and_deep_nesting_in_a_description(folder, text):
    (folder / DESCRIPTION).write_text(text)
    refused(folder, r"run\.json is not a run description \(.{10,300}\); ")


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1.5, 10**30, 1e300, float("nan"), True, [[]], {"a": None}])
@pytest.mark.parametrize("key", ["vocab_size", "num_relations", "loops", "canvas_length", "head_dim", "tie"])
def test_odd_values_of_the_model(folder, key, value):
    """Refused in one line; a value that changes nothing about the weights may open."""
    values = json.loads((folder / DESCRIPTION).read_text())["model"]
    rewrite(folder, model=values | {key: value})
    try:
        load(folder)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1.5, 10**30, float("inf"), float("nan"), [[]], {"a": None}])
def test_odd_values_of_a_task(folder, value):
    """Every argument of every task: the task is built, or refused in one line."""
    arguments = {
        "tasks.sudoku.Sudoku": ("sizes", "puzzles", "seed", "minimal", "added", "augment"),
        "tasks.graph.Coloring": ("graphs", "seed"),
        "tasks.graph.GenerateGraphs": ("mix", "graphs", "width", "family", "seed"),
        "tasks.graph.Hamiltonian": ("sizes", "graphs", "seed"),
        "tasks.amino_acid.Design": ("seed",),
    }
    for target, names in arguments.items():
        for name in names:
            try:
                build({"_target_": target, name: value}, OUR_PACKAGES)
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.5, 0.999])
def test_weights_cut_short(folder, share):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])
    refused(folder, r"model\.safetensors cannot be read \(.*\); it may be cut short")


def test_weights_that_are_no_safetensors_are_never_unpickled(folder):
    torch.save({"a": Bystander}, folder / WEIGHTS)
    refused(folder, r"model\.safetensors cannot be read")


def test_missing_extra_and_misshapen_tensors(folder, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    edit(folder, lambda tensors: tensors.pop("layers.1.router.scale"))
    refused(folder, r"model\.safetensors lacks tensors \['layers\.1\.router\.scale'\]")
    shutil.copy(kept / WEIGHTS, folder / WEIGHTS)
    edit(folder, lambda tensors: tensors.update(surplus=torch.zeros(2)))
    refused(folder, r"has unknown tensors \['surplus'\]")
    shutil.copy(kept / WEIGHTS, folder / WEIGHTS)
    edit(folder, lambda tensors: tensors.update({"norm.weight": torch.zeros(7)}))
    refused(folder, r"norm\.weight has shape \(7,\); run\.json promises \(32,\)")


def test_weights_of_whole_numbers_or_of_two_types_are_refused(folder, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    edit(folder, lambda tensors: tensors.update({"norm.weight": tensors["norm.weight"].bfloat16()}))
    refused(folder, r"model\.safetensors mixes the types \['BF16', 'F32'\]; give all of its tensors one type")
    shutil.copy(kept / WEIGHTS, folder / WEIGHTS)
    edit(folder, lambda tensors: [tensors.update({name: value.long()}) for name, value in list(tensors.items())])
    refused(folder, r"embed_tokens\.weight has type I64; weights have one of \['BF16', 'F16', 'F32', 'F64'\]")


@pytest.mark.parametrize(
    "model_changes, message",
    [
        ({"vocab_size": 65}, r"embed_tokens\.weight has shape \(64, 32\); run\.json promises \(65, 32\)"),
        ({"num_hidden_layers": 6}, r"lacks tensors \['layers\.3\."),
        ({"num_hidden_layers": 2}, r"has unknown tensors \['layers\.1\.self_attn\.v_proj"),
        ({"hidden_size": 0}, r"model\.hidden_size is 0"),
        ({"color": "red"}, r"unknown model keys \['color'\]"),
    ],
)
def test_description_of_another_model(folder, model_changes, message):
    values = json.loads((folder / DESCRIPTION).read_text())["model"]
    rewrite(folder, model=values | model_changes)
    refused(folder, message)


@pytest.mark.parametrize("value", [None, 3, [], "tiny"])
def test_model_description_that_is_no_mapping(folder, value):
    rewrite(folder, model=value)
    refused(folder, r"run\.json: model is " + re.escape(repr(value)))


# -- what a description may build -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, message",
    [
        ("os.system", "'os.system' is neither a task nor a part of a sampler"),
        ("builtins.eval", "neither a task nor a part"),
        ("pathlib.Path", "neither a task nor a part"),
        (f"{__name__}.Bystander", "neither a task nor a part"),
        ("json.loads", "neither a task nor a part"),
        ("constrained_dg.nowhere.Task", "cannot import 'constrained_dg.nowhere.Task'"),
        ("constrained_dg.task.Nothing", "cannot import 'constrained_dg.task.Nothing'"),
        ("Task", "cannot import 'Task'"),
        ("", "cannot import ''"),
        (".relative.Task", "cannot import '.relative.Task'"),
        (3, "cannot import '3'"),
        (None, "cannot import 'None'"),
    ],
)
@pytest.mark.parametrize("part", ["task", "sampler"])
def test_targets_that_are_refused(folder, part, target, message):
    expected = str(target).partition(".")[0] in (*OUR_PACKAGES, OWN_PACKAGE)
    rewrite(folder, **{part: {"_target_": target}})
    refused(folder, re.escape(message if expected else f"{str(target)!r} lies outside constrained_dg, "))
    with pytest.raises(InputError, match=re.escape(message)):
        build({"_target_": f"{__name__}.OwnSampler", "name": "x", "parts": [{"_target_": target}]})
    assert Bystander.built == 0


@pytest.mark.parametrize("part", ["task", "sampler"])
def test_a_run_from_elsewhere_cannot_make_us_import_a_module(folder, tmp_path, monkeypatch, part):
    # Importing is running: the module leaves a mark when it is imported, and has just what a run may name.
    mark = tmp_path / "mark"
    base = "from dataclasses import dataclass\nfrom constrained_dg.task import Task\n"
    body = f"open({str(mark)!r}, 'w').close()\nclass Mine(Task): pass\n"
    parts = "Mine.__abstractmethods__ = frozenset()\nfrom constrained_dg.sampling import Sampler\n"
    parts += "@dataclass\nclass Part(Sampler):\n    name: str = ''\n    def answer(self, *_): pass\n"
    (tmp_path / "elsewhere_for_tests.py").write_text(base + body + parts)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elsewhere_for_tests", raising=False)
    target = {"task": "elsewhere_for_tests.Mine", "sampler": "elsewhere_for_tests.Part"}[part]
    rewrite(folder, **{part: {"_target_": target}})
    refused(folder, re.escape(f"'{target}' lies outside constrained_dg, ") + ".*packages=")
    assert not mark.exists() and "elsewhere_for_tests" not in sys.modules
    made = runs.load(folder, packages=[OWN_PACKAGE, "elsewhere_for_tests"])
    assert type(getattr(made, part)).__module__ == "elsewhere_for_tests" and mark.exists()


def test_what_a_module_of_ours_imported_from_elsewhere_is_not_ours(folder):
    rewrite(folder, sampler={"_target_": "constrained_dg.runs.Backbone"})
    refused(folder, "neither a task nor a part")
    runs.Stranger = Part
    try:
        rewrite(folder, task={"_target_": "tasks.sudoku.Sudoku"}, sampler={"_target_": "constrained_dg.runs.Stranger"})
        with pytest.raises(InputError, match=r"'constrained_dg\.runs\.Stranger' lies outside"):
            runs.load(folder)
    finally:
        del runs.Stranger


@pytest.mark.parametrize("part", ["task", "sampler"])
@pytest.mark.parametrize("value", [3, "plain", None, [], {"_target_": f"{__name__}.Part"}])
def test_a_description_of_something_else(folder, part, value):
    rewrite(folder, **{part: value})
    refused(folder, rf"run\.json: {part} describes ")


@pytest.mark.parametrize("arguments", [{}, {"name": "x", "color": "red"}])
def test_wrong_arguments_name_the_target(arguments):
    with pytest.raises(InputError, match=r"test_runs\.OwnSampler.*(name|color)"):
        build({"_target_": f"{__name__}.OwnSampler"} | arguments)


def test_a_value_that_a_constructor_refuses_names_the_target():
    with pytest.raises(InputError, match=r"test_runs\.SmallTask: invalid literal.*'nine'"):
        build({"_target_": f"{__name__}.SmallTask", "size": "nine"})


# -- a disk that does not take it -------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_leaves_the_earlier_run_whole(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("constrained_dg.files.os.fsync", full)
    with pytest.raises(InputError, match=r"cannot write to '.*run': No space left on device"):
        save_run(folder, random_backbone(2), description())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, model):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(InputError, match="cannot write to"):
            save_run(place, model, description())


def test_the_weights_can_be_read_by_whoever_can_read_the_description(folder):
    assert len({stat.S_IMODE((folder / name).stat().st_mode) for name in (WEIGHTS, DESCRIPTION)}) == 1


def test_build_nests_and_leaves_plain_values_alone():
    part = {"_target_": f"{__name__}.Part", "bound": 2}
    sampler = build({"_target_": f"{__name__}.OwnSampler", "name": "x", "part": part, "parts": (part, 1, {"a": part})})
    assert sampler == OwnSampler("x", Part(2), [Part(2), 1, {"a": Part(2)}])
    for plain in (None, 1, "text", [1, [2]], {"a": 1}):
        assert build(plain) == plain
    assert part == {"_target_": f"{__name__}.Part", "bound": 2}, "the configuration itself is not touched"


# -- runs of earlier versions, and shipped ones -----------------------------------------------------------------------

SHIPPED = places.shipped_runs()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_runs_open_by_name_and_by_folder(name):
    by_name, by_folder = runs.load(name), runs.load(SHIPPED[name])
    assert by_name.folder == by_folder.folder == SHIPPED[name]
    assert by_name.task.name == re.sub("_twin$|/plain$|/16x16$", "", name)
    assert by_name.sampler == by_folder.sampler


def test_every_shipped_run_has_a_name():
    found = {path.parent for path in (places.ROOT / "experiments").rglob("run.json")}
    assert len(SHIPPED) == 12 and found == set(SHIPPED.values())


def test_a_name_that_is_not_shipped_lists_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sudoku").mkdir()  # a folder without a run does not hide the shipped one
    assert runs.find_run("sudoku") == SHIPPED["sudoku"]
    for name in ("graph/colouring", "", "sudoku/small", Path("graph")):
        with pytest.raises(
            InputError, match=r"no run\.json in .*shipped runs: amino_acid/design, .*, text/records_twin$"
        ):
            runs.load(name)
    for value in (None, 3, [], object()):
        with pytest.raises(InputError, match=r"^run is "):
            runs.load(value)


def test_a_folder_comes_before_a_shipped_name(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "sudoku")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load("sudoku").task, SmallTask)


def old_sampler(**changes):
    """The description of a sampler as runs before version 0.2 have it."""
    target = "constrained_dg.sampling."
    guide = {"mask_logits": True, "mask_self_conditioning": True, "known_accepted": False, "forget_violations": False}
    return {
        "_target_": f"{target}Diffusion",
        "name": "eager",
        "guide": {"_target_": f"{target}Guide", **guide},
        "temperature": {"_target_": f"{target}LinearTemperature", "t_max": 0.8, "t_min": 0.4},
        "accept": {"_target_": f"{target}EntropyBound", "bound": 6.0},
        "renoise": {"_target_": f"{target}Violations"},
        "noise": {"_target_": f"{target}AnyToken"},
        "stop": {"_target_": f"{target}Stable", "stability_threshold": 1, "confidence_threshold": 0.005},
        "self_conditioning": True,
        "judge_stop": True,
        "max_passes": 8,
        "complete": None,
    } | changes


def test_a_sampler_of_version_0_1_is_the_present_one(folder):
    rewrite(folder, sampler=old_sampler(max_passes=48))
    assert load(folder).sampler == named("eager")
    outer = {"_target_": "constrained_dg.sampling.Restarts", "name": "restarts", "attempts": 8, "complete": None}
    rewrite(folder, sampler=outer | {"sampler": old_sampler()})
    assert load(folder).sampler == named("restarts")


@pytest.mark.parametrize(
    "key, part",
    [
        ("renoise", "Blocks"),
        ("accept", "Margin"),
        ("accept", "Confidence"),
        ("accept", "FixedCount"),
        ("stop", "Change"),
        ("noise", "AllowedToken"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_run_with_a_deleted_part_is_refused_by_the_name_of_the_part(folder, key, part, wrapped):
    sampler = old_sampler(**{key: {"_target_": f"constrained_dg.sampling.{part}"}})
    if wrapped:
        sampler = {"_target_": "constrained_dg.sampling.Restarts", "name": "restarts", "sampler": sampler}
    rewrite(folder, sampler=sampler)
    refused(folder, rf"\b{part} is no longer")


@pytest.mark.parametrize("old, new", sorted(runs.RENAMED.items()))
def test_renamed_tasks_open_under_both_names(old, new):
    configuration = {"task": {"_target_": old, "seed": 5}, "sampler": {"_target_": "constrained_dg.sampling.Search"}}
    described = runs.current(configuration)["task"]
    assert described == {"_target_": new, "seed": 5}
    assert build(described, OUR_PACKAGES).seed == 5


OLD_RUNS = sorted((places.ROOT / "experiments").rglob("train.json"))


@pytest.mark.parametrize("path", OLD_RUNS, ids=[path.parent.parent.name for path in OLD_RUNS])
def test_the_training_runs_that_are_kept_can_be_resumed(path, tmp_path):
    (tmp_path / "train.json").write_bytes(path.read_bytes())
    with initialize_config_dir(str(places.CONF), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("train", ["task=sudoku"]), resolve=True)
    cfg |= {"resume": str(tmp_path), "overridden": ["resume"]}
    resumed = run_folder.resumed(cfg)
    check_values(resumed)
    from_dict(Objective, resumed["objective"], "objective")
    from_dict(Optimisation, resumed["optimisation"], "optimisation")
    saved = json.loads(path.read_text())
    assert resumed["seed"] == saved["seed"] and resumed["optimisation"] == saved["optimisation"]
    assert build(resumed["sampler"], OUR_PACKAGES) == named(saved["sampler"].get("name", "plain"))
    assert build(resumed["task"], OUR_PACKAGES).name == build(saved["task"], OUR_PACKAGES).name


def test_training_starts_from_a_shipped_run_by_its_name():
    cfg = {"task": {}, "data": None, "model": {"run": "sudoku"}}
    assert train.with_absolute_paths(cfg)["model"]["run"] == str(SHIPPED["sudoku"])
    with pytest.raises(InputError, match=r"no run\.json in 'sudoku9'; .*shipped runs"):
        train.with_absolute_paths(cfg | {"model": {"run": "sudoku9"}})
