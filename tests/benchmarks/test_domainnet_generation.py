"""The paper's size resolves, and a tiny pipeline on a tiny tree goes through all of its code."""

import copy
import json
import shutil

import domainnet_tree
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gitmerge_eval import benchmarks
from gitmerge_eval.benchmarks import domainnet_generation as full
from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.diffusion import lora, published, scoring
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.domainnet.categories import categories
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.errors import EvaluationError, UnknownName

FOLDER = recipe_folder(full.NAME) / "pipeline"
MINI = recipe_folder("domainnet-generation-mini")
CATEGORIES = {
    "bird": {"held_in": "real", "classes": ["owl", "swan"]},
    "tool": {"held_in": "clipart", "classes": ["nail", "axe"]},
}
PARAMETERS = {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}
"""Of Stable Diffusion 2.1 as it is published."""


# --- the recipe as it is shipped -----------------------------------------------------------------


def test_the_grid_is_the_papers():
    benchmark = benchmarks.get(full.NAME)
    statuses = [task.status for task in benchmark.tasks]
    assert (statuses.count("held-in"), statuses.count("generalization")) == (24, 120)
    assert benchmark.task("insect-sketch").status == "held-in"
    assert benchmark.metric == "CLIP score"


@pytest.mark.parametrize("part", PARAMETERS)
def test_the_configurations_are_those_of_stable_diffusion(part):
    with torch.device("meta"):
        model = diffusion.configured(FOLDER, part)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[part]


def test_the_adapter_is_of_all_attention_at_rank_64():
    recipe = read_recipe(full.NAME)
    with torch.device("meta"):
        unet = diffusion.configured(FOLDER, "unet")
        names = lora.weights(unet)
        shapes = [tuple(w.shape) for w in names.values()]
        adapted = lora.adapted(unet, lora.Settings(**recipe["lora"]))
    # 16 transformer blocks, each with self- and cross-attention of four layers.
    assert len(shapes) == 16 * 2 * 4
    assert {name.rsplit(".", 2)[-2] for name in names} == {"to_q", "to_k", "to_v", "0"}
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == sum(64 * (o + i) for o, i in shapes)
    assert len(trained) == 2 * len(shapes)
    cross = [s for n, s in zip(names, shapes, strict=True) if "attn2.to_k" in n]
    assert {inputs for _, inputs in cross} == {1024}
    settings = adapted.peft_config["default"]
    assert (settings.r, settings.lora_alpha) == (64, 64)


def test_the_numbers_are_the_papers():
    recipe = read_recipe(full.NAME)
    assert Schedule(**recipe["fine_tuning"]) == Schedule(
        steps=10_000, batch=4, rate=1e-4, decay="cosine", optimiser="adam"
    )
    assert recipe["judge"]["dimensions"] == 192
    assert (recipe["sampling"]["held-in"], recipe["sampling"]["generalization"]) == (3, 1)
    noise = diffusion.scheduler(FOLDER).config
    assert (noise.prediction_type, noise.beta_schedule) == ("v_prediction", "scaled_linear")


def test_prompts_are_of_all_classes(tmp_path):
    settings = {"data": str(tmp_path)}
    grid = benchmarks.get(full.NAME).evaluate.__self__.grid(settings)
    assert "a real of a wine bottle" in grid.prompts("kitchen-real")
    prompts = [
        p for task in grid.tasks if task.status == "held-in" for p in grid.prompts(task.name)
    ]
    assert len(prompts) == 347


# --- what is missing -----------------------------------------------------------------------------


def test_missing_data_and_weights_give_a_line_each(place, tiny, monkeypatch, tmp_path):
    monkeypatch.delenv("GITMERGE_EVAL_DOMAINNET", raising=False)
    with pytest.raises(EvaluationError, match="not known where DomainNet is"):
        tiny.fingerprint("bird-real", "test", {})
    data = {"data": str(place / "data")}
    with pytest.raises(EvaluationError, match=r"weights of Stable Diffusion 2\.1 are not named"):
        tiny.build(tmp_path / "built", settings=data)
    with pytest.raises(EvaluationError, match=r"has no 'model_index\.json'"):
        tiny.build(tmp_path / "built", settings={**data, "weights": str(tmp_path)})
    with pytest.raises(UnknownName, match="did you mean 'weights'"):
        tiny.build(tmp_path / "built", settings={**data, "weight": "x"})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"need '.*pt_inception-2015-12-05.*'; download"):
        published.inception(192)


# --- a tiny pipeline -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """DomainNet's tree, a tiny pipeline, and 'published' weights of the judges."""
    from torchvision.models import inception_v3

    folder = tmp_path_factory.mktemp("full")
    names = [name for entry in CATEGORIES.values() for name in entry["classes"]]
    domainnet_tree.write(folder / "data", names, train=5, test=3, side=40)
    torch.manual_seed(0)
    parts = [
        diffusion.configured(MINI / "pipeline", part) for part in ("unet", "vae", "text_encoder")
    ]
    prompts = [f"a {domain} of a {name}" for domain in ("real", "clipart") for name in names]
    pipeline = diffusion.assembled(
        *parts, diffusion.tokenizer(prompts, 12), diffusion.scheduler(MINI / "pipeline")
    )
    diffusion.save(pipeline, folder / "weights")
    judge = MINI / "domainnet-generation-mini-judge.json"
    shutil.copyfile(judge, folder / "tiny-generation-judge.json")
    clip = open_clip.CLIP(**json.loads(judge.read_text()))
    save_file(clip.state_dict(), folder / "clip.safetensors")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    inception = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    torch.save(inception.state_dict(), folder / "hub" / "checkpoints" / published.INCEPTION)
    return folder


@pytest.fixture(scope="module")
def settings(place):
    return {
        "seed": 1,
        "data": str(place / "data"),
        "weights": str(place / "weights"),
        "clip_model": str(place / "tiny-generation-judge.json"),
        "clip_weights": str(place / "clip.safetensors"),
    }


@pytest.fixture(scope="module")
def tiny():
    """The full-size benchmark with two categories, small pictures and a few steps."""
    recipe = copy.deepcopy(dict(read_recipe(full.NAME)))
    recipe["pictures"] |= {"side": 32, "validation": 0.2}
    recipe["lora"] = {"rank": 2, "alpha": 2}
    for section in ("fine_tuning", "multitask"):
        recipe[section] |= {"steps": 3, "batch": 2, "rate": 1e-2}
    recipe["saving"] = {"every": 1}
    recipe["sampling"] |= {"steps": 2}
    recipe["statistics"] = {"split": "train", "fisher": {"examples": 3}, "gram": {"examples": 3}}
    return full.benchmark(recipe, categories(CATEGORIES))


@pytest.fixture(scope="module")
def models(tiny, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "models"
    return tiny.build(folder, settings=settings, device="cpu")


def test_the_build_gives_a_pipeline_and_its_adapters(models, settings, place):
    assert tuple(models.constituents) == ("bird-real", "tool-clipart")
    assert models.settings == {name: v for name, v in settings.items() if name != "weights"}
    unet = "unet/diffusion_pytorch_model.safetensors"
    given, kept = (
        load_file(p / unet) for p in (place / "weights", models.base.parent / "pipeline")
    )
    assert all(torch.equal(tensor, kept[name]) for name, tensor in given.items())
    kinds = [[file.kind for file in files] for files in models.statistics.values()]
    assert kinds == [["fisher", "gram"]] * 2


def test_training_by_the_command_gives_the_builds_adapter(tiny, models, settings, tmp_path):
    target, state = tmp_path / "trained.partial", tmp_path / "state"
    tiny.train(models.base, ["bird-real"], target, settings=settings, device="cpu", state=state)
    built, trained = load_file(models.constituents["bird-real"]), load_file(target)
    assert built.keys() == trained.keys()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in built.items())
    assert not state.exists() or list(state.iterdir()) == []


def test_an_interrupted_training_goes_on_to_the_same_adapter(tiny, models, settings, tmp_path):
    class Killed(Exception):
        pass

    def progress(done, total):
        if done == 3:
            raise Killed

    arguments = (models.base, ["bird-real"], tmp_path / "trained.partial")
    how = {"settings": settings, "device": "cpu", "state": tmp_path / "state"}
    with pytest.raises(Killed):
        tiny.train(*arguments, progress=progress, **how)
    steps = []
    tiny.train(*arguments, progress=lambda done, total: steps.append(done), **how)
    assert steps == [3]
    built, trained = load_file(models.constituents["bird-real"]), load_file(arguments[2])
    assert all(torch.equal(tensor, trained[name]) for name, tensor in built.items())


def test_evaluation_makes_the_papers_numbers_of_pictures(
    tiny, models, settings, place, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(place))
    outputs = {task: tmp_path / task for task in ("bird-real", "bird-sketch")}
    for folder in outputs.values():
        folder.mkdir()
    scores = tiny.evaluate(models.base, tuple(outputs), settings=settings, outputs=outputs)
    kept = {task: load_file(folder / scoring.FEATURES) for task, folder in outputs.items()}
    # Two classes: three pictures of each in the held-in task, one in the other.
    assert [tuple(kept[task]["made"].shape) for task in outputs] == [(6, 192), (2, 192)]
    assert [tuple(kept[task]["real"].shape) for task in outputs] == [(6, 192), (6, 192)]
    assert all(0 <= score <= 100 for score in scores.values())
    by_status = {"held-in": {"bird-real": outputs["bird-real"]}}
    figures = tiny.summarise(by_status, settings=settings, split="test")
    assert figures["FID held-in"] > 0


def test_features_are_pytorch_fids(place, tmp_path, monkeypatch):
    from pytorch_fid.fid_score import get_activations

    monkeypatch.setenv("TORCH_HOME", str(place))
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    files = []
    for number, picture in enumerate(pictures):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(files[-1])
    model = published.inception(192)
    expected = get_activations(files, model, batch_size=3, dims=192, device="cpu", num_workers=0)
    found = published.PublishedJudge(None, model).features(torch.from_numpy(pictures))
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_pictures_are_the_files_centre_squares(tiny, settings, place):
    grid = tiny.evaluate.__self__.grid(settings)
    examples = grid.examples(["bird-real"], "test")
    assert examples.prompts == ["a real of a owl"] * 3 + ["a real of a swan"] * 3
    file = sorted((place / "data" / "real" / "owl").iterdir())[5]
    with Image.open(file) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        expected = picture.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS, box=box)
    found = np.asarray(examples.picture(0)).astype(int)
    assert np.abs(found - np.asarray(expected).astype(int)).max() <= 1
