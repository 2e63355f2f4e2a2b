"""The full-size recipe resolves, and a tiny model on a tiny tree goes through all of its code."""

import copy
import json

import domainnet_tree
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from gitmerge_eval import benchmarks
from gitmerge_eval.benchmarks import domainnet_classification as full
from gitmerge_eval.benchmarks import read_recipe
from gitmerge_eval.benchmarks.clip import measuring, weights
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip.published import PublishedSource
from gitmerge_eval.benchmarks.clip.source import Joined
from gitmerge_eval.benchmarks.domainnet import DOMAINS
from gitmerge_eval.benchmarks.domainnet.categories import categories
from gitmerge_eval.benchmarks.domainnet.reading import DomainNet
from gitmerge_eval.benchmarks.learning.loop import Stopping
from gitmerge_eval.benchmarks.learning.measuring import thinned
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.errors import EvaluationError, InvalidOption, UnknownName

CATEGORIES = {
    "bird": {"held_in": "real", "classes": ["owl", "swan"]},
    "tool": {"held_in": "clipart", "classes": ["nail", "axe"]},
    "office": {"held_in": "infograph", "classes": ["cup", "nail"]},
}
CONFIGURATION = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with DomainNet's tree, a tiny configuration and its 'pretrained' weights."""
    folder = tmp_path_factory.mktemp("full")
    names = [name for entry in CATEGORIES.values() for name in entry["classes"]]
    domainnet_tree.write(folder / "data", names, train=20, test=3)
    (folder / "tiny-domainnet.json").write_text(json.dumps(CONFIGURATION))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIGURATION).state_dict(), folder / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def settings(place):
    return {
        "seed": 1,
        "data": str(place / "data"),
        "model": str(place / "tiny-domainnet.json"),
        "weights": str(place / "tiny.safetensors"),
    }


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("GITMERGE_EVAL_DOMAINNET", raising=False)


@pytest.fixture(scope="module")
def tiny():
    """The full-size benchmark with three categories and a few steps."""
    recipe = copy.deepcopy(dict(read_recipe(full.NAME)))
    for section in ("fine_tuning", "multitask"):
        recipe[section] |= {"steps": 24, "batch": 8, "rate": 3e-3}
    recipe["stopping"] |= {"every": 4, "patience": 2}
    return full.benchmark(recipe, categories(CATEGORIES))


# --- the recipe as it is shipped -----------------------------------------------------------------


def test_the_grid_is_the_papers():
    benchmark = benchmarks.get("domainnet-classification")
    statuses = [task.status for task in benchmark.tasks]
    assert (statuses.count("held-in"), statuses.count("generalization")) == (24, 120)
    assert len(benchmark.axes["category"]) == 24
    assert benchmark.axes["domain"] == DOMAINS
    assert benchmark.task("fruit-quickdraw").status == "held-in"
    spanned = benchmark.generalization(["fruit-quickdraw", "bird-real"])
    assert {task.name for task in spanned} == {"fruit-real", "bird-quickdraw"}


def test_the_training_is_appendix_c1s():
    recipe = read_recipe(full.NAME)
    schedule = Schedule(**recipe["fine_tuning"])
    assert (schedule.steps, schedule.batch, schedule.rate) == (1000, 128, 2e-5)
    assert schedule.optimiser == "adamw"
    assert Stopping(**recipe["stopping"]) == Stopping(every=50, patience=5)


def test_the_model_is_open_clips_vit_b_32():
    with torch.device("meta"):
        model = clip.create(read_recipe(full.NAME)["model"])
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    vision = measuring.vision_parameters(model)
    assert sum(p.numel() for p in vision.values()) == 87_849_216
    assert len(vision) == 152
    assert vision["visual.conv1.weight"].shape == (768, 3, 32, 32)
    assert vision["visual.transformer.resblocks.11.mlp.c_fc.weight"].shape == (3072, 768)
    tokens = clip.tokens(["a sketch of a teddy-bear"], "ViT-B-32")
    assert tokens.shape == (1, 77)


def test_pictures_are_prepared_as_open_clip_does(place):
    source = PublishedSource(
        DomainNet(place / "data"), weights.preprocessing("ViT-B-32", "laion2b_s34b_b79k")
    )
    found = source.pictures(("owl", "axe"), "sketch", "test", ("axe", "cup", "owl"))
    assert found.labels.tolist() == [2, 2, 2, 0, 0, 0]
    by_hand = open_clip.image_transform(
        224, is_train=False,
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
    )  # fmt: skip
    paths = sorted((place / "data/sketch/axe").glob("*.jpg"))[-3:]
    rows = torch.tensor([5, 3])
    seen = found.inputs(rows)
    assert seen.shape == (2, 3, 224, 224)
    for row, picture in zip(rows.tolist(), seen, strict=True):
        with Image.open(paths[row - 3]) as image:
            assert torch.equal(picture, by_hand(image))


def test_prompts_and_classes(tiny, settings):
    grid = tiny.evaluate.__self__.grid(settings)
    assert grid.classes == ("owl", "swan", "nail", "axe", "cup")
    assert len(grid.prompts) == 5
    assert grid.prompts[0] == [f"a {domain} of a owl" for domain in DOMAINS]
    assert grid.prompt("wine_glass", "painting") == "a painting of a wine glass"
    # A class of two categories is one class, right either way.
    nails = [grid.cell(f"{category}-real", "test").labels for category in ("tool", "office")]
    assert nails[0].tolist() == [2] * 3 + [3] * 3
    assert nails[1].tolist() == [4] * 3 + [2] * 3


# --- a tiny model through everything -------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tiny, settings, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITMERGE_EVAL_DOMAINNET", raising=False)
        return tiny.build(tmp_path_factory.mktemp("models"), settings=settings)


def plainly(checkpoint, place, task, split_of):
    """Accuracy in percent, one picture at a time."""
    model = open_clip.CLIP(**CONFIGURATION)
    model.load_state_dict(load_file(checkpoint))
    model.eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    classes = ("owl", "swan", "nail", "axe", "cup")
    with torch.no_grad():
        vectors = []
        for name in classes:
            texts = tokenizer([f"a {domain} of a {name}" for domain in DOMAINS])
            mean = nn.functional.normalize(model.encode_text(texts), dim=-1).mean(0)
            vectors.append(nn.functional.normalize(mean, dim=0))
        transform = open_clip.image_transform(16, is_train=False)
        right = total = 0
        category, domain = task.split("-")
        for name in CATEGORIES[category]["classes"]:
            for line in (place / f"data/{domain}_{split_of}.txt").read_text().splitlines():
                path = line.split(" ")[0]
                if path.split("/")[1] == name:
                    with Image.open(place / "data" / path) as image:
                        feature = model.encode_image(transform(image)[None])[0]
                    best = max(range(5), key=lambda c, f=feature: float(f @ vectors[c]))
                    right += classes[best] == name
                    total += 1
    return 100 * right / total


def test_training_improves_and_scores_are_those_of_a_plain_loop(tiny, built, place, settings):
    assert set(built.constituents) == {"bird-real", "tool-clipart", "office-infograph"}
    assert built.settings == settings
    means = []
    for model in (built.base, built.multitask, built.constituents["tool-clipart"]):
        scores = tiny.evaluate(model, ["tool-clipart", "office-real"], settings=settings)
        for task, score in scores.items():
            assert score == pytest.approx(plainly(model, place, task, "test"))
        means.append(scores["tool-clipart"])
    assert max(means[1:]) > means[0]
    changed = load_file(built.constituents["bird-real"])
    base = load_file(place / "tiny.safetensors")
    assert {n for n in base if not torch.equal(base[n], changed[n])} == {
        n for n in base if n.startswith("visual.")
    }


def test_statistics_are_of_the_training_split(tiny, built, settings):
    (fisher, gram) = built.statistics["bird-real"]
    assert fisher.examples == gram.examples == 36
    assert fisher.data == "domainnet-classification/bird-real:train"
    found = tiny.collect(
        "gram", built.constituents["bird-real"], "bird-real", settings=settings,
        options={"examples": 10},
    )  # fmt: skip
    assert found.examples == 10
    assert found.tokens == 10 * 5
    assert fisher.fingerprint == tiny.fingerprint("bird-real", "train", settings)


def test_training_again_gives_the_same_bytes_and_goes_on_after_a_kill(
    tiny, built, settings, tmp_path
):
    class KilledError(Exception):
        pass

    def kill(done, total):
        if done == 6:
            raise KilledError

    state = tmp_path / "state"
    how = {"settings": settings, "state": state}
    target = tmp_path / "again.safetensors"
    with pytest.raises(KilledError):
        tiny.train(built.base, ["bird-real"], target, progress=kill, **how)
    assert not target.exists()
    assert list(state.iterdir())
    steps = []
    tiny.train(
        built.base, ["bird-real"], target, progress=lambda done, _: steps.append(done), **how
    )
    assert steps[0] == 5  # saved at the look after step 4
    assert target.read_bytes() == built.constituents["bird-real"].read_bytes()
    assert list(state.iterdir()) == []


def test_mixed_precision_trains_and_keeps_float32_weights(tiny, built, settings, tmp_path):
    tiny.train(
        built.base, ["bird-real"], tmp_path / "mixed", settings=settings, precision="bfloat16"
    )
    mixed, exact = load_file(tmp_path / "mixed"), load_file(built.constituents["bird-real"])
    assert all(mixed[name].dtype == exact[name].dtype for name in exact)
    assert not torch.equal(mixed["visual.proj"], exact["visual.proj"])
    with pytest.raises(InvalidOption, match="bfloat16"):
        tiny.train(built.base, ["bird-real"], tmp_path / "x", settings=settings, precision="half")


def test_joined_pictures_are_the_parts_one_after_the_other(tiny, settings):
    grid = tiny.evaluate.__self__.grid(settings)
    parts = [grid.cell(task, "test") for task in ("bird-real", "tool-clipart", "office-sketch")]
    joined = Joined(parts)
    everything = torch.cat([part.inputs(torch.arange(6)) for part in parts])
    rows = torch.tensor([17, 0, 6, 6, 5, 11, 12])
    assert torch.equal(joined.inputs(rows), everything[rows])
    assert torch.equal(joined.labels, torch.cat([part.labels for part in parts]))


def test_thinning_is_even():
    assert thinned(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert thinned(3, 5).tolist() == thinned(3, None).tolist() == [0, 1, 2]


# --- what is missing or wrong --------------------------------------------------------------------


def said(benchmark, settings, error=EvaluationError):
    with pytest.raises(error) as caught:
        benchmark.fingerprint("bird-real", "test", settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_are_checked(tiny, settings, tmp_path):
    assert "did you mean 'weights'" in said(tiny, settings | {"weihgts": "x"}, UnknownName)
    assert "not a text" in said(tiny, settings | {"model": 3}, InvalidOption)
    assert "did you mean 'ViT-B-32'" in said(tiny, settings | {"model": "ViT-B32"}, UnknownName)
    assert "ai.bu.edu/M3SDA" in said(tiny, settings | {"data": str(tmp_path / "gone")})
    other = {"bird": CATEGORIES["bird"]}
    assert "change their classes only" in said(tiny, settings | {"categories": other})
    changed = copy.deepcopy(CATEGORIES)
    changed["bird"]["classes"] = ["swan"]
    fewer = tiny.fingerprint("bird-real", "test", settings | {"categories": changed})
    assert fewer != tiny.fingerprint("bird-real", "test", settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "not named; set 'weights'"),
        ({"weights": "no-such-file"}, "neither a file nor a tag"),
        ({"model": "ViT-B-32", "weights": None}, "laion2b_s34b_b79k"),
        ({"model": "ViT-B-32", "weights": "openai"}, "set 'model' to 'ViT-B-32-quickgelu'"),
        ({"weights": "garbage"}, "has no weights of the open_clip model"),
    ],
)
def test_missing_weights_are_one_line(tiny, settings, tmp_path, change, message):
    (tmp_path / "garbage").write_bytes(b"not weights")
    if change["weights"] == "garbage":
        change = {"weights": str(tmp_path / "garbage")}
    given = {k: v for k, v in (settings | change).items() if v is not None}
    with pytest.raises(EvaluationError, match=message) as caught:
        tiny.build(tmp_path / "models", settings=given)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_line(tiny, settings, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network\nin a test")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    given = settings | {"model": "ViT-B-32", "weights": "laion2b_s34b_b79k"}
    with pytest.raises(EvaluationError, match="set 'weights' to the file") as caught:
        tiny.build(tmp_path, settings=given)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_picture_is_named(tiny, settings, place, tmp_path):
    data = domainnet_tree.write(tmp_path, ["owl", "swan", "nail", "axe", "cup"], domains=["real"])
    (data / "real/owl/real_003_000000.jpg").write_bytes(b"not a picture")
    with pytest.raises(EvaluationError, match="cannot be read"):
        tiny.train(
            place / "tiny.safetensors", ["bird-real"], tmp_path / "x",
            settings=settings | {"data": str(data)},
        )  # fmt: skip
