"""A tiny Stable Diffusion on a small grid: training, scores and statistics against plain loops."""

import json
import warnings

import numpy as np
import pytest
import torch
from evaluated_repositories import PLAIN
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gitmerge_eval import benchmarks
from gitmerge_eval.benchmarks import domainnet_generation_mini as mini
from gitmerge_eval.benchmarks import recipe_folder
from gitmerge_eval.benchmarks.diffusion import lora, measuring, noising, scoring
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.learning.loop import reproducible
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.statistics import gram

SETTINGS = {"seed": 3}
HELD_IN = ("bird-real", "fruit-quickdraw")


@pytest.fixture(scope="session")
def generation():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        return benchmarks.get("small-generation")


@pytest.fixture(scope="session")
def models(generation, tmp_path_factory):
    return generation.build(tmp_path_factory.mktemp("generation") / "models", settings=SETTINGS)


@pytest.fixture(scope="session")
def adapter(models, tmp_path_factory):
    """A constituent's checkpoint with its companions around it, as an evaluation finds it."""
    return laid_out(models, models.constituents["bird-real"], tmp_path_factory.mktemp("laid out"))


def laid_out(models, checkpoint, folder):
    base = models.base.parent
    for name in ("pipeline", "judge.safetensors"):
        (folder / name).symlink_to(base / name)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).write_bytes((checkpoint.parent / name).read_bytes())
    return folder / "adapter_model.safetensors"


def grid_of(benchmark):
    return benchmark.evaluate.__self__.grid(SETTINGS)


def test_every_model_is_an_adapter_that_peft_and_diffusers_load(models, adapter):
    assert tuple(models.constituents) == HELD_IN
    for checkpoint in (models.base, models.multitask, *models.constituents.values()):
        settings = json.loads((checkpoint.parent / "adapter_config.json").read_text())
        assert (settings["r"], settings["base_model_name_or_path"]) == (4, None)
        tensors = load_file(checkpoint)
        assert len(tensors) == 2 * 56
        changed = [bool(t.any()) for name, t in tensors.items() if "lora_B" in name]
        assert any(changed) == (checkpoint != models.base)
        assert (checkpoint != models.base) == all(changed)
    pipeline = diffusion.load(adapter.parent / "pipeline")
    loaded = PeftModel.from_pretrained(pipeline.unet, adapter.parent)
    assert not torch.equal(*_outputs(pipeline, loaded, adapter))


def _outputs(pipeline, loaded, adapter):
    states = diffusion.embedded(pipeline, ["a real of a owl"])
    latent, time = torch.ones(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        found = [loaded(latent, time, states).sample]
        with loaded.disable_adapter():
            found.append(loaded(latent, time, states).sample)
    return found


def test_the_same_seed_gives_the_same_bytes(generation, models, tmp_path):
    again = generation.build(tmp_path / "again", settings=SETTINGS)
    first, second = models.base.parent.parent, tmp_path / "again"
    files = {p.relative_to(first) for p in first.rglob("*") if p.is_file()}
    assert files == {p.relative_to(second) for p in second.rglob("*") if p.is_file()}
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    for task in HELD_IN:
        for one, other in zip(models.statistics[task], again.statistics[task], strict=True):
            assert all(torch.equal(t, other.tensors[name]) for name, t in one.tensors.items())


def test_adding_an_adapter_to_the_weights_is_what_peft_computes(adapter):
    pipeline = diffusion.load(adapter.parent / "pipeline")
    original = {n: w.clone() for n, w in lora.weights(pipeline.unet).items()}
    adapted = lora.with_changes(pipeline.unet, adapter)
    tensors = load_file(adapter)
    settings = json.loads((adapter.parent / "adapter_config.json").read_text())
    assert len(original) == 56
    for name, weight in lora.weights(adapted).items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        up, down = tensors[f"{stem}.lora_B.weight"], tensors[f"{stem}.lora_A.weight"]
        expected = original[name] + settings["lora_alpha"] / settings["r"] * up @ down
        torch.testing.assert_close(weight.detach(), expected)


@pytest.fixture(scope="session")
def outputs(generation, adapter, tmp_path_factory):
    """Scores on two tasks, and what was kept of them."""
    folders = {
        task: tmp_path_factory.mktemp(task, numbered=False) for task in ("bird-real", "fruit-real")
    }
    scores = generation.evaluate(adapter, tuple(folders), settings=SETTINGS, outputs=folders)
    return scores, folders


def test_scores_equal_a_plain_loop_over_the_published_pipeline(generation, adapter, outputs):
    import open_clip
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from gitmerge_eval.benchmarks.diffusion.sampling import start

    scores, _ = outputs
    pipeline = StableDiffusionPipeline.from_pretrained(
        adapter.parent / "pipeline", safety_checker=None, requires_safety_checker=False
    )
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.unet = PeftModel.from_pretrained(pipeline.unet, adapter.parent).base_model.model
    pipeline.set_progress_bar_config(disable=True)
    numbers = json.loads(
        (recipe_folder(mini.NAME) / "domainnet-generation-mini-judge.json").read_text()
    )
    judge = open_clip.CLIP(**numbers)
    judge.load_state_dict(load_file(adapter.parent / "judge.safetensors"))
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    cosines = []
    for name in ("duck", "flamingo", "owl", "penguin"):
        prompt = f"a real of a {name}"
        for number in range(2):
            made = pipeline(
                prompt,
                latents=start(prompt, number, 3, (4, 8, 8))[None],
                num_inference_steps=2,
                guidance_scale=2.0,
                output_type="np",
            ).images[0]
            seen = (np.round(made * 255) / 255 - [0.48145466, 0.4578275, 0.40821073]) / [
                0.26862954, 0.26130258, 0.27577711,
            ]  # fmt: skip
            with torch.no_grad():
                one = judge.encode_image(torch.tensor(seen.transpose(2, 0, 1)[None]).float())
                other = judge.encode_text(tokenizer([prompt]))
            cosines.append(float(nn.functional.cosine_similarity(one, other)))
    assert scores["bird-real"] == pytest.approx(100 * max(0, np.mean(cosines)), abs=0.02)
    assert 0 <= scores["fruit-real"] <= 100


def test_figures_are_of_all_kept_features(generation, outputs, tmp_path):
    from pytorch_fid.fid_score import calculate_frechet_distance

    _, folders = outputs
    kept = {task: load_file(folder / scoring.FEATURES) for task, folder in folders.items()}
    # 4 classes: 2 pictures of each in a held-in task, 1 elsewhere; 3 real ones.
    assert [len(kept[task]["made"]) for task in kept] == [8, 4]
    assert [len(kept[task]["real"]) for task in kept] == [12, 12]
    sheet = tmp_path / "sheet.png"
    split = {"held-in": {"bird-real": folders["bird-real"]}, "generalization": folders}
    found = generation.summarise(split, sheet=sheet, settings=SETTINGS, split="test")
    both = {
        part: torch.cat([kept[task][part] for task in kept]).double().numpy()
        for part in ("made", "real")
    }
    rows = [(f.mean(0), np.cov(f, rowvar=False)) for f in both.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls SciPy in a way that is to be removed
        expected = calculate_frechet_distance(*rows[0], *rows[1])
    assert found["FID generalization"] == pytest.approx(expected, rel=1e-3)
    assert set(found) == {"FID held-in", "FID generalization"}
    with Image.open(sheet) as picture:
        assert (picture.format, picture.width) == ("PNG", 8 * 64)


def test_a_distance_of_a_single_picture_is_refused(outputs, tmp_path):
    from safetensors.torch import save_file

    save_file({"made": torch.ones(1, 4), "real": torch.ones(3, 4)}, tmp_path / scoring.FEATURES)
    with pytest.raises(EvaluationError, match=r"needs two pictures .* 1 made and 3 real"):
        scoring.summarise({"held-in": {"bird-real": tmp_path}})


def drawn_batches(grid, pipeline, count):
    """The first batches as the statistics see them: examples with drawn noise and time."""
    examples = grid.examples(["bird-real"], "train")
    rows = [number * len(examples) // count for number in range(count)]
    return list(measuring.batches(pipeline, examples, rows, grid.seed))


def test_collected_fisher_equals_a_loop_over_single_examples(generation, adapter, models):
    pipeline = diffusion.load(adapter.parent / "pipeline")
    unet = lora.with_changes(pipeline.unet, adapter)
    pipeline.unet = unet
    weights = lora.weights(unet)
    sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
    unet.requires_grad_(True)
    (batch,) = drawn_batches(grid_of(generation), pipeline, 5)
    for latent, noise, time, states in zip(*batch, strict=True):
        unet.zero_grad()
        noisy = pipeline.scheduler.add_noise(latent, noise, time)
        target = pipeline.scheduler.get_velocity(latent, noise, time)
        predicted = unet(noisy[None], time[None], states[None]).sample[0]
        ((predicted - target) ** 2).mean().backward()
        for name, weight in weights.items():
            sums[name] += weight.grad.double() ** 2 / 5
    found = next(f for f in models.statistics["bird-real"] if f.kind == "fisher")
    assert found.tensors.keys() == sums.keys()
    assert (found.examples, found.data) == (5, f"{mini.NAME}/bird-real:train")
    for name, expected in sums.items():
        torch.testing.assert_close(
            found.tensors[name].double(), expected, rtol=2e-3, atol=1e-5 * float(expected.max())
        )


def test_every_adapted_layer_has_the_gram_matrix_of_its_inputs(generation, adapter, models):
    pipeline = diffusion.load(adapter.parent / "pipeline")
    pipeline.unet = lora.with_changes(pipeline.unet, adapter)
    seen = {}
    for name, module in pipeline.unet.named_modules():
        if f"{name}.weight" in lora.weights(pipeline.unet):
            module.register_forward_pre_hook(
                lambda _, given, key=f"{name}.weight": seen.setdefault(key, []).append(given[0])
            )
    (batch,) = drawn_batches(grid_of(generation), pipeline, 5)
    latents, noise, times, states = batch
    with torch.no_grad():
        pipeline.unet(pipeline.scheduler.add_noise(latents, noise, times), times, states)
    found = next(f for f in models.statistics["bird-real"] if f.kind == "gram")
    assert found.layout.keys() == seen.keys() == lora.weights(pipeline.unet).keys()
    for name, (inputs,) in seen.items():
        rows = inputs.double().flatten(0, -2)
        expected = rows.T @ rows / len(rows)
        matrix = gram.unpack_symmetric(found.tensors[found.layout[name]["key"]]).double()
        torch.testing.assert_close(matrix, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    keys = {found.layout[name]["key"] for name in seen if ".attn2.to_k" in name}
    assert len(keys) == 1, "all cross-attention sees the same text"


def test_a_prompt_counts_by_its_words_only():
    tokens = diffusion.tokenizer(["a real of a owl", "a quickdraw of a penguin"], 12)
    ids = tokens("a quickdraw of a owl").input_ids
    assert len(ids) == 7
    assert tokens.convert_ids_to_tokens(ids[1:-1]) == [
        f"{word}</w>" for word in ("a", "quickdraw", "of", "a", "owl")
    ]


def test_the_objective_is_the_schedulers(adapter):
    pipeline = diffusion.load(adapter.parent / "pipeline")
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 8, 8, generator=generator)
    noise, times = noising.drawn_noise((3, 4, 8, 8), 1000, generator)
    kept = pipeline.scheduler.alphas_cumprod[times].reshape(3, 1, 1, 1)
    expected = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    torch.testing.assert_close(noising.target(pipeline.scheduler, latents, noise, times), expected)
    pipeline.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="use 'epsilon' or 'v_prediction'"):
        noising.target(pipeline.scheduler, latents, noise, times)


def test_what_is_no_adapter_or_no_pipeline_is_refused(models, adapter, tmp_path):
    pipeline = diffusion.load(adapter.parent / "pipeline")
    with pytest.raises(EvaluationError, match="is no adapter of this pipeline's UNet"):
        lora.with_changes(pipeline.unet, tmp_path / "adapter_model.safetensors")
    with pytest.raises(EvaluationError, match=r"has no 'model_index.json'"):
        diffusion.load(tmp_path)


def test_unknown_names_are_refused(generation, adapter):
    with pytest.raises(UnknownName, match="did you mean 'bird-real'"):
        generation.evaluate(adapter, ["bird-reel"], settings=SETTINGS)
    with pytest.raises(UnknownName, match="trimmed"):
        generation.collect("trimmed", adapter, "bird-real", settings=SETTINGS)
    with pytest.raises(UnknownName, match="did you mean 'examples'"):
        generation.collect("gram", adapter, "bird-real", settings=SETTINGS, options={"example": 1})
    with pytest.raises(UnknownName, match="split"):
        generation.fingerprint("bird-real", "training", SETTINGS)


def test_statistics_by_hand_are_those_of_the_build(generation, adapter, models):
    with reproducible(3):
        found = generation.collect(
            "gram", adapter, "bird-real", settings=SETTINGS, options={"examples": 5}
        )
    built = next(f for f in models.statistics["bird-real"] if f.kind == "gram")
    assert all(torch.equal(t, found.tensors[name]) for name, t in built.tensors.items())
