"""Evaluation, statistics and building on a small grid, against plain loops."""

import copy
import json
import math

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gitmerge_eval.benchmarks import domainnet_classification_mini as mini
from gitmerge_eval.benchmarks import pictures, recipe_folder
from gitmerge_eval.benchmarks.clip import measuring, training
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip.drawn import DrawnPictures
from gitmerge_eval.benchmarks.learning.loop import reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.errors import EvaluationError, InvalidOption, UnknownName
from gitmerge_eval.statistics import gram

SETTINGS = {"seed": 3}
CONFIGURATION = recipe_folder(mini.NAME) / "domainnet-classification-mini.json"


def fresh(checkpoint):
    """The model made without our code."""
    model = open_clip.CLIP(**json.loads(CONFIGURATION.read_text()))
    model.load_state_dict(load_file(checkpoint))
    return model.eval()


def by_hand(name, domain, split, index):
    """One picture as the model's input, normalised with CLIP's published constants."""
    drawn = pictures.picture(name, domain, index, seed=3, split=split, side=32, jitter_amount=0.4)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    scaled = (drawn / 255 - mean) / deviation
    return torch.tensor(scaled.transpose(2, 0, 1)[None], dtype=torch.float32)


def classifier_by_hand(model):
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    vectors = {}
    for category in ("bird", "fruit"):
        for name in pictures.CATEGORIES[category]:
            texts = [f"a {domain} of a {name}" for domain in ("quickdraw", "real")]
            with torch.no_grad():
                mean = sum(
                    nn.functional.normalize(model.encode_text(tokenizer([t]))[0], dim=0)
                    for t in texts
                )
            vectors[name] = mean / mean.norm()
    return vectors


def test_evaluation_equals_a_plain_loop(small, bird_real):
    model = fresh(bird_real)
    vectors = classifier_by_hand(model)
    right = 0
    for name in pictures.CATEGORIES["bird"]:
        for index in range(5):
            with torch.no_grad():
                feature = model.encode_image(by_hand(name, "real", "test", index))[0]
            right += max(vectors, key=lambda c: float(feature @ vectors[c])) == name
    scores = small.evaluate(bird_real, ["bird-real", "fruit-real"], settings=SETTINGS)
    assert scores["bird-real"] == 100 * right / 20
    assert list(scores) == ["bird-real", "fruit-real"]


def test_evaluation_reports_progress_and_refuses_unknown_tasks(small, bird_real):
    seen = []
    small.evaluate(
        bird_real, ["bird-real"], settings=SETTINGS, split="validation",
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert seen[-1] == ("bird-real", 8, 8)
    with pytest.raises(UnknownName, match="did you mean 'bird-real'"):
        small.evaluate(bird_real, ["bird-reel"], settings=SETTINGS)
    with pytest.raises(UnknownName, match="validation"):
        small.evaluate(bird_real, ["bird-real"], settings=SETTINGS, split="valid")


@pytest.mark.parametrize("settings", [{"sed": 1}, {"seed": "1"}, {"seed": -1}, {"seed": True}])
def test_wrong_settings_are_refused(small, settings):
    with pytest.raises((UnknownName, InvalidOption), match="seed"):
        small.fingerprint("bird-real", "test", settings)


def test_a_file_that_is_no_checkpoint_of_the_model_is_said(small, tmp_path):
    (tmp_path / "garbage").write_bytes(b"not safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other")
    for name, message in (
        ("garbage", "readable"),
        ("missing", "readable"),
        ("other", "architecture|not a checkpoint"),
    ):
        with pytest.raises(EvaluationError, match=message):
            small.evaluate(tmp_path / name, ["bird-real"], settings=SETTINGS)


def test_the_fingerprint_depends_on_the_data(small, small_recipe):
    first = small.fingerprint("bird-real", "test", SETTINGS)
    assert first == small.fingerprint("bird-real", "test", SETTINGS)
    others = [
        small.fingerprint("bird-real", "test", {"seed": 4}),
        small.fingerprint("bird-real", "train", SETTINGS),
        small.fingerprint("bird-quickdraw", "test", SETTINGS),
    ]
    changed = copy.deepcopy(small_recipe)
    changed["prompts"]["template"] = "the {class} as {domain}"
    others.append(
        mini.benchmark(changed, CONFIGURATION.parent).fingerprint("bird-real", "test", SETTINGS)
    )
    assert len({first, *others}) == 5


def test_building_twice_gives_the_same_bytes(small, built, tmp_path):
    threads = torch.get_num_threads()
    torch.manual_seed(99)
    torch.set_num_threads(threads + 1)
    try:
        again = small.build(tmp_path / "again", settings=SETTINGS)
    finally:
        torch.set_num_threads(threads)
    for first, second in zip(
        [built.base, built.multitask, *built.constituents.values()],
        [again.base, again.multitask, *again.constituents.values()],
        strict=True,
    ):
        assert first.read_bytes() == second.read_bytes()
    for task in built.statistics:
        for one, other in zip(built.statistics[task], again.statistics[task], strict=True):
            assert one.kind == other.kind
            assert one.fingerprint == other.fingerprint
            for key in one.tensors:
                assert torch.equal(one.tensors[key], other.tensors[key])


def test_another_seed_gives_another_base(small, built, tmp_path):
    other = small.build(tmp_path, settings={"seed": 4}, tasks=["bird-real"])
    assert other.base.read_bytes() != built.base.read_bytes()
    assert other.settings == {"seed": 4}
    assert list(other.constituents) == ["bird-real"]


def test_training_leaves_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(0):
        torch.rand(7)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == strict
    assert torch.equal(torch.rand(3), expected)


def test_fine_tuning_changes_the_vision_tower_only(built):
    base = load_file(built.base)
    for checkpoint in (*built.constituents.values(), built.multitask):
        tuned = load_file(checkpoint)
        changed = {name for name in base if not torch.equal(base[name], tuned[name])}
        assert changed
        assert changed == {name for name in base if name.startswith("visual.")}


def test_the_checkpoint_is_open_clips_own(built, bird_real):
    fresh(bird_real)
    model = open_clip.CLIP(**json.loads(CONFIGURATION.read_text()))
    assert load_file(built.base).keys() == model.state_dict().keys()


def test_schedule_warms_up_and_ends_near_zero():
    schedule = Schedule(steps=100, batch=1, rate=1.0, weight_decay=0.0, warm_up=10)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert 0 < factors[99] < 0.001


def test_collected_fisher_equals_a_loop(small, bird_real):
    found = small.collect("fisher", bird_real, "bird-real", settings=SETTINGS)
    model = fresh(bird_real)
    vectors = torch.stack(list(classifier_by_hand(model).values())).detach()
    total = {}
    for label, name in enumerate(pictures.CATEGORIES["bird"]):
        for index in range(6):
            model.zero_grad()
            feature = nn.functional.normalize(
                model.encode_image(by_hand(name, "real", "train", index)), dim=-1
            )
            logits = model.logit_scale.exp() * feature @ vectors.T
            nn.functional.cross_entropy(logits, torch.tensor([label])).backward()
            for key, parameter in model.visual.named_parameters(prefix="visual"):
                total[key] = total.get(key, 0) + parameter.grad.double() ** 2 / 24
    assert found.examples == 24
    assert found.tensors.keys() == total.keys() == found.layout.keys()
    for key, expected in total.items():
        torch.testing.assert_close(
            found.tensors[key].double(), expected, rtol=2e-3, atol=1e-6 * float(expected.max())
        )


def test_sampled_fisher_differs_and_is_seeded(small, bird_real):
    def sampled(seed):
        options = {"sampled": True, "sampling_seed": seed}
        file = small.collect("fisher", bird_real, "bird-real", settings=SETTINGS, options=options)
        return file.tensors["visual.proj"]

    assert torch.equal(sampled(0), sampled(0))
    assert not torch.equal(sampled(0), sampled(1))


def vision_inputs(model, image):
    """Every linear map's input in open_clip's vision tower, from its formulas alone."""
    visual = model.visual
    x = visual._embeds(image)
    inputs = {"visual.conv1.weight": nn.functional.unfold(image, 8, stride=8).transpose(1, 2)}
    for i, block in enumerate(visual.transformer.resblocks):
        name = f"visual.transformer.resblocks.{i}"
        z = block.ln_1(x)
        inputs[f"{name}.attn.in_proj_weight"] = z
        q, k, v = (
            t.unflatten(-1, (2, 32)).transpose(1, 2)
            for t in (z @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)
        )
        heads = ((q @ k.transpose(-1, -2)) / 32**0.5).softmax(-1) @ v
        joined = heads.transpose(1, 2).flatten(2)
        inputs[f"{name}.attn.out_proj.weight"] = joined
        x = x + joined @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
        z = block.ln_2(x)
        inputs[f"{name}.mlp.c_fc.weight"] = z
        hidden = nn.functional.gelu(z @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
        inputs[f"{name}.mlp.c_proj.weight"] = hidden
        x = x + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    inputs["visual.proj"] = visual.ln_post(x)[:, 0]
    return inputs


def test_collected_gram_matrices_equal_outer_products(small, bird_real):
    options = {"convolutions": True}
    found = small.collect("gram", bird_real, "bird-real", settings=SETTINGS, options=options)
    model = fresh(bird_real)
    images = torch.cat(
        [
            by_hand(name, "real", "train", i)
            for name in pictures.CATEGORIES["bird"]
            for i in range(6)
        ]
    )
    with torch.no_grad():
        inputs = vision_inputs(model, images)
    assert found.layout.keys() == inputs.keys()
    for name, seen in inputs.items():
        rows = seen.double().reshape(-1, seen.shape[-1]).numpy()
        expected = torch.from_numpy(rows.T @ rows / len(rows))
        matrix = gram.unpack_symmetric(found.tensors[found.layout[name]["key"]]).double()
        torch.testing.assert_close(matrix, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))
        assert found.layout[name]["input_axis"] == (0 if name == "visual.proj" else 1)
    assert found.tokens == 24 * 17


def test_every_linear_layer_of_the_vision_tower_has_a_gram(bird_real):
    model = fresh(bird_real)
    empty = DrawnPictures(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2).long())
    state = measuring.gram_matrices(model, empty)
    parameters = measuring.vision_parameters(model)
    reasons = gram.without_gram(parameters, state)
    matrices = {name for name, p in parameters.items() if p.dim() > 1 and name in reasons}
    assert matrices == {"visual.conv1.weight", "visual.positional_embedding"}
    assert "convolutions" in reasons["visual.conv1.weight"]
    assert len(state.sums) == 4 * 4 + 1


def test_unknown_kinds_and_options_are_refused(small, bird_real):
    with pytest.raises(UnknownName, match="trimmed"):
        small.collect("trimmed", bird_real, "bird-real", settings=SETTINGS)
    with pytest.raises(UnknownName, match="did you mean 'sampled'"):
        small.collect("fisher", bird_real, "bird-real", settings=SETTINGS, options={"sample": 1})


def test_built_statistics_say_what_they_were_made_of(small, built):
    by_kind = {file.kind: file for file in built.statistics["bird-real"]}
    assert set(by_kind) == {"fisher", "gram"}
    for kind in by_kind:
        assert by_kind[kind].data == f"{small.name}/bird-real:train"
        assert by_kind[kind].fingerprint == small.fingerprint("bird-real", "train", SETTINGS)
        assert by_kind[kind].examples == 24


def test_pretraining_exchanges_names_within_their_group_only():
    generator = torch.Generator().manual_seed(0)
    groups = ((0, 1, 2, 3), (4, 5, 6, 7))
    shuffled = training._shuffled(torch.arange(8), groups, 1.0, generator)
    assert sorted(shuffled[:4].tolist()) == [0, 1, 2, 3]
    assert sorted(shuffled[4:].tolist()) == [4, 5, 6, 7]
    assert shuffled.tolist() != list(range(8))
    untouched = training._shuffled(torch.arange(8), groups, 0.0, generator)
    assert untouched.tolist() == list(range(8))


def test_the_tokenizer_needs_no_download(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ids = clip.tokens(["a painting of a floor lamp"], CONFIGURATION)
    assert ids.shape == (1, 12)
    assert ids[0, 0] == 49406
    assert ids.max() == 49407
