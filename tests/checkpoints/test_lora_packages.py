"""Merged adapters load in PEFT and in diffusers, and change the weights as the formula says."""

import json
from pathlib import Path

import diffusers
import numpy as np
import peft
import pytest
import safetensors.torch
import torch

from gitmerge_eval.checkpoints import lora, lora_configuration, lora_factors, lora_result
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsFile


def opened(path: Path, configuration: Path | None = None):
    """(adapter, tensors, header) of a file as the package wrote it."""
    tensors = safetensors.torch.load_file(path)
    file = SafetensorsFile(path)
    records = {
        name: GroupRecord(name, shape, dtype, (), "0" * 64, 0)
        for name, (shape, dtype) in file.layout.items()
    }
    settings = lora_configuration.parse(configuration.read_bytes()) if configuration else None
    adapter = lora.read_adapter(records, file.header, settings, lambda n: float(tensors[n]))
    return adapter, tensors, file.header


def deltas(adapter, tensors):
    return {
        weight: lora_factors.product(
            tensors[pair.down], tensors[pair.up], pair.scale, embedding=pair.embedding
        )
        for weight, pair in adapter.pairs.items()
    }


def average(path: Path, *opened_files, rank=None):
    """The average of the adapters written to ``path``; ΔW zero where one has no factors.

    Returns the merged ΔW and the configuration.
    """
    adapters = [adapter for adapter, _, _ in opened_files]
    plan = lora_result.outline(
        None,
        [(f"branch {i}", adapter) for i, adapter in enumerate(adapters)],
        opened_files[0][2],
    )
    assert not plan.differences
    parts = [deltas(adapter, tensors) for adapter, tensors, _ in opened_files]
    merged, written, ranks = {}, {}, {}
    for weight, pair in plan.pairs.items():
        total = sum(part[weight] for part in parts if weight in part)
        merged[weight] = total / len(parts)
        found = lora_factors.factor(
            merged[weight],
            rank,
            pair.dtype,
            scale=lambda r, weight=weight: plan.pair(weight, r).scale,
            embedding=pair.embedding,
            spans=[t[a.pairs[weight].up] for a, t, _ in opened_files if weight in a.pairs],
        )
        done = plan.pair(weight, found.rank)
        written |= {done.down: found.down.contiguous(), done.up: found.up.contiguous()}
        if done.alpha:
            written[done.alpha] = torch.tensor(done.alpha_value)
        ranks[weight] = found.rank
    for name in adapters[0].plain:
        written[name] = sum(tensors[name] for _, tensors, _ in opened_files) / len(parts)
    header, configuration = plan.finish(ranks, {})
    safetensors.torch.save_file(written, path, header)
    return merged, configuration


class Small(torch.nn.Module):
    """One layer of each kind that PEFT adapts."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(11, 6)
        self.first = torch.nn.Linear(6, 8)
        self.block = torch.nn.ModuleDict({"first": torch.nn.Linear(8, 8, bias=False)})
        self.conv = torch.nn.Conv2d(2, 5, 3)
        self.point = torch.nn.Conv2d(5, 3, 1)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.block["first"](self.first(self.tokens(x))))


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def trained(folder: Path, seed: int, **settings) -> Path:
    """An adapter of the small model with made-up numbers, saved by PEFT."""
    chosen = {"target_modules": ["tokens", "first", "conv", "point"], **settings}
    model = peft.get_peft_model(small(), peft.LoraConfig(**chosen))
    torch.manual_seed(100 + seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_()
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def saved(folder: Path):
    return opened(folder / "adapter_model.safetensors", folder / "adapter_config.json")


CASES = {
    "ranks differ": ({"r": 2, "lora_alpha": 4}, {"r": 3, "lora_alpha": 3}),
    "patterns": (
        {"r": 2, "rank_pattern": {"^first": 4}, "alpha_pattern": {"block.first": 5, "conv": 1}},
        {"r": 2, "lora_alpha": 16, "rank_pattern": {r"(tokens|point)": 1}},
    ),
    "rank-stabilised": ({"r": 2, "use_rslora": True}, {"r": 3, "use_rslora": True}),
    "one rank-stabilised": ({"r": 2, "use_rslora": True}, {"r": 3}),
    "a head of their own": (
        {"r": 2, "modules_to_save": ["head"]},
        {"r": 2, "modules_to_save": ["head"]},
    ),
    "other targets": ({"target_modules": ["block.first", "conv"]}, {"target_modules": ["conv"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_peft_adds_the_average_of_the_changes(case, tmp_path):
    files = [
        saved(trained(tmp_path / str(i), i, **settings)) for i, settings in enumerate(CASES[case])
    ]
    target = tmp_path / "merged"
    target.mkdir()
    merged, configuration = average(target / "adapter_model.safetensors", *files)
    (target / "adapter_config.json").write_bytes(configuration)

    # The oracle: PEFT's own merged weights of each adapter.
    plain = small().state_dict()
    whole = []
    for i in range(2):
        model = peft.PeftModel.from_pretrained(small(), tmp_path / str(i))
        whole.append(model.merge_and_unload().state_dict())
    loaded = peft.PeftModel.from_pretrained(small(), target).merge_and_unload().state_dict()
    assert loaded.keys() == plain.keys()
    for name, tensor in loaded.items():
        expected = sum(weights[name].double() for weights in whole) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=2e-5, atol=2e-6)
        if name in merged:
            change = tensor.double() - plain[name].double()
            torch.testing.assert_close(change, merged[name], rtol=2e-5, atol=2e-6)
    assert set(merged) == {n for n in loaded if not torch.equal(loaded[n], plain[n])} - {
        "head.weight",
        "head.bias",
    }
    settings = json.loads(configuration)
    assert settings["use_rslora"] is bool(CASES[case][0].get("use_rslora"))
    assert settings["r"] == settings["lora_alpha"]


def test_a_module_whose_name_ends_another_keeps_its_rank(tmp_path):
    targets = {"target_modules": ["first", "block.first"], "modules_to_save": None}
    one = saved(trained(tmp_path / "a", 1, r=2, rank_pattern={"block.first": 4}, **targets))
    two = saved(trained(tmp_path / "b", 2, r=3, rank_pattern={"block.first": 1}, **targets))
    (tmp_path / "merged").mkdir()
    _, configuration = average(tmp_path / "merged/adapter_model.safetensors", one, two)
    (tmp_path / "merged/adapter_config.json").write_bytes(configuration)
    loaded = peft.PeftModel.from_pretrained(small(), tmp_path / "merged")
    ranks = {n: m.r["default"] for n, m in loaded.named_modules() if hasattr(m, "lora_A")}
    assert ranks == {
        "base_model.model.first": 5,
        "base_model.model.block.first": 5,
    }


def test_a_cut_rank_is_the_best_of_its_rank(tmp_path):
    files = [saved(trained(tmp_path / str(i), i, r=3)) for i in range(3)]
    path = tmp_path / "adapter_model.safetensors"
    merged, _ = average(path, *files, rank=4)
    tensors = safetensors.torch.load_file(path)
    for weight in ("first.weight", "conv.weight"):
        stem = f"base_model.model.{weight.removesuffix('.weight')}"
        a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
        assert (a.shape[0], b.shape[1]) == (4, 4), weight
        matrix = merged[weight].flatten(1).numpy()
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        best = (left[:, :4] * values[:4]) @ right[:4]
        product = (b.double().flatten(1) @ a.double().flatten(1)).numpy()
        np.testing.assert_allclose(product, best, rtol=1e-4, atol=1e-5)


# --- diffusers -----------------------------------------------------------------------------------


def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        cross_attention_dim=6,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def fused(path: Path, prefix: str | None = "unet") -> dict[str, torch.Tensor]:
    """The tiny UNet's weights with the adapter fused in, by diffusers itself."""
    model = unet()
    loader = diffusers.StableDiffusionPipeline
    state, alphas, metadata = loader.lora_state_dict(
        str(path), unet_config=model.config, return_lora_metadata=True
    )
    loader.load_lora_into_unet(state, alphas, model, adapter_name="it", metadata=metadata)
    model.fuse_lora(adapter_names=["it"])
    model.unload_lora()
    return model.state_dict()


def written_by_diffusers(folder: Path, seed: int, metadata: bool, **settings) -> Path:
    model = unet()
    torch.manual_seed(100 + seed)
    chosen = {"target_modules": ["to_q", "to_v", "conv1", "to_out.0"], **settings}
    configuration = peft.LoraConfig(**chosen)
    model.add_adapter(configuration, "it")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    layers = peft.utils.get_peft_model_state_dict(model, adapter_name="it")
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers,
        unet_lora_adapter_metadata=model.peft_config["it"].to_dict() if metadata else None,
    )
    return folder / "pytorch_lora_weights.safetensors"


def respelt(path: Path, spelling: str, seed: int) -> Path:
    """The adapter in one of the older spellings; kohya's with an α for each module."""
    tensors = safetensors.torch.load_file(path)
    found = {}
    for name, tensor in tensors.items():
        if spelling == "old":
            new = name.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
            for layer in ("to_q", "to_v", "to_out.0"):
                part = layer.removesuffix(".0")
                new = new.replace(f".{layer}.lora.", f".processor.{part}_lora.")
        else:
            stem, _, factor = name.removeprefix("unet.").partition(".lora_")
            stem = f"lora_unet_{stem.replace('.', '_')}"
            new = f"{stem}.lora_{'down' if factor[0] == 'A' else 'up'}.weight"
            found[f"{stem}.alpha"] = torch.tensor(3.0 + seed)
        found[new] = tensor
    target = path.with_name(f"{spelling}.safetensors")
    safetensors.torch.save_file(found, target, {"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("header", "header"),
        ("plain", "plain"),
        ("old", "old"),
        ("kohya", "kohya"),
        ("old", "plain"),
    ],
)
def test_diffusers_adds_the_average_of_the_changes(first, second, tmp_path):
    paths = []
    for i, kind in enumerate((first, second)):
        settings = {"r": 2 + i, "lora_alpha": 3} if kind == "header" else {"r": 2 + i}
        path = written_by_diffusers(tmp_path / str(i), i, kind == "header", **settings)
        paths.append(respelt(path, kind, i) if kind in ("old", "kohya") else path)
    target = tmp_path / "pytorch_lora_weights.safetensors"
    average(target, *(opened(path) for path in paths))
    whole = [fused(path) for path in paths]
    loaded, plain = fused(target), unet().state_dict()
    changed = 0
    for name, tensor in loaded.items():
        expected = sum(weights[name].double() for weights in whole) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-5)
        changed += not torch.equal(tensor, plain[name])
    assert changed >= 8
