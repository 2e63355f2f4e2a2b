"""Made-up checkpoints with the names and shapes of real ones, and fine-tuned versions of them.

The same seed gives the same bytes. Only NumPy is used, and never more than one group at a time.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.errors import UsageError

Array = NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
NOISES = ("dense", "sparse")
_STEP = 1e-3
_SPARSE_SHARE = 0.1
_DEVIATION = 0.02
_BLOCK = 1 << 22


def vision_tower(width: int = 768, layers: int = 12) -> dict[str, tuple[int, ...]]:
    """The groups of open_clip's visual tower; width 768 and 12 layers are ViT-B/32.

    >>> total_bytes(vision_tower())
    351396864
    """
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (50, width),
        "visual.proj": (width, width * 2 // 3),
        "visual.conv1.weight": (width, 3, 32, 32),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{norm}.weight": (width,), f"visual.{norm}.bias": (width,)}
    for layer in range(layers):
        block = f"visual.transformer.resblocks.{layer}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        for name, outputs, inputs in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            shapes |= {
                f"{block}.{name}weight": (outputs, inputs),
                f"{block}.{name}bias": (outputs,),
            }
    return shapes


def tower_of(size_bytes: int) -> dict[str, tuple[int, ...]]:
    """The float32 tower of twelve layers whose size is nearest to ``size_bytes``.

    Raises UsageError where even the smallest (width 24) is more than half as large again.
    """
    best = min(range(24, 8193, 24), key=lambda w: abs(total_bytes(vision_tower(w)) - size_bytes))
    shapes = vision_tower(best)
    if total_bytes(shapes) > 1.5 * size_bytes:
        raise UsageError(
            f"a checkpoint of {size_bytes} bytes is too small for the benchmark; "
            f"the smallest has {total_bytes(shapes)}"
        )
    return shapes


def language_model(size_bytes: int) -> dict[str, tuple[int, ...]]:
    """A Llama-like model of about ``size_bytes`` in bfloat16 with an embedding of 32,000 × 4,096.

    Raises UsageError where it has no room for one layer.
    """
    width, hidden = 4096, 11008
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, width)}
    layer: Shapes = {
        **{f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"},
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    layers = round((size_bytes - total_bytes(shapes, 2)) / total_bytes(layer, 2))
    if layers < 1:
        least = total_bytes(shapes, 2) + total_bytes(layer, 2)
        raise UsageError(
            f"a sharded checkpoint has at least {least} bytes (embedding and one layer), and "
            f"{size_bytes} were asked for"
        )
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (width,)
    return shapes


def total_bytes(shapes: Shapes, itemsize: int = 4) -> int:
    """The size of all groups together."""
    return sum(int(np.prod(shape)) for shape in shapes.values()) * itemsize


def largest_group_bytes(shapes: Shapes, itemsize: int) -> int:
    """The size of the largest group."""
    return max(int(np.prod(shape)) for shape in shapes.values()) * itemsize


class Float32Model:
    """A base (normal, deviation 0.02) and fine-tuned versions of it, group by group."""

    def __init__(self, shapes: Shapes, *, seed: int = 0, noise: str = "dense") -> None:
        self.shapes = dict(sorted(shapes.items()))
        self._seed, self._noise = seed, noise

    @property
    def bytes(self) -> int:
        """The size of its tensors."""
        return total_bytes(self.shapes)

    def base(self, name: str) -> Array:
        """The pretrained group."""
        values = self._normal(name, 0)
        values *= _DEVIATION
        return values

    def tuned(self, name: str, model: int) -> Array:
        """The group as constituent ``model`` (1, 2, …) has it: all elements moved, or a tenth."""
        step = self._normal(name, model)
        step *= _STEP
        if self._noise == "sparse":
            step *= self._random(name, -model).random(step.shape, np.float32) < _SPARSE_SHARE
        step += self.base(name)
        return step

    def _random(self, name: str, stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode()), stream & 0xFFFF])

    def _normal(self, name: str, stream: int) -> Array:
        return self._random(name, stream).standard_normal(self.shapes[name], np.float32)

    def write(self, path: Path, model: int = 0, *, only: frozenset[str] | None = None) -> None:
        """The base (0) or a constituent as one file; with ``only``, other groups are the base's."""
        with path.open("wb") as file:
            _write_header(file, self.shapes, "F32", 4)
            for name in self.shapes:
                tuned = model and (only is None or name in only)
                (self.tuned(name, model) if tuned else self.base(name)).tofile(file)


def write_sharded(folder: Path, shapes: Shapes, shard_bytes: int, *, model: int) -> None:
    """A bfloat16 checkpoint in shards with its index; model 0 is all zeros and needs no room.

    Random bits below a narrow range of exponents: magnitudes from 2^-11 to 2^-7.
    """
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and total_bytes(shards[-1], 2) + total_bytes({name: shape}, 2) > shard_bytes:
            shards.append({})
        shards[-1][name] = shape
    files = {
        f"model-{number:05}-of-{len(shards):05}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }
    for file_name, shard in files.items():
        with (folder / file_name).open("wb") as file:
            _write_header(file, shard, "BF16", 2)
            for name, shape in shard.items():
                for block in _bfloat16_blocks(name, int(np.prod(shape)), model):
                    block.tofile(file)
    index = {
        "metadata": {"total_size": total_bytes(shapes, 2)},
        "weight_map": {name: file for file, shard in files.items() for name in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _bfloat16_blocks(name: str, count: int, model: int) -> Iterator[Array]:
    random = np.random.default_rng([zlib.crc32(name.encode()), model])
    for start in range(0, count, _BLOCK):
        length = min(_BLOCK, count - start)
        if model == 0:
            yield np.zeros(length, np.uint16)
            continue
        bits = np.frombuffer(random.bytes(2 * length), np.uint16)
        # The sign, two bits of the exponent and the mantissa are random.
        yield (bits & np.uint16(0x81FF)) | np.uint16(0x3A00)


def _write_header(file: BinaryIO, shapes: Shapes, dtype: str, itemsize: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + int(np.prod(shape)) * itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def fishers(model: Float32Model, number: int) -> dict[str, Array]:
    """A made-up Fisher diagonal of a constituent, by group: squares of normal numbers."""
    return {
        name: np.square(
            np.random.default_rng([zlib.crc32(name.encode()), number, 7]).standard_normal(
                shape, np.float32
            )
        )
        for name, shape in model.shapes.items()
    }


def gram(inputs: int, seed: int) -> Array:
    """A made-up Gram matrix (d×d, float32): a falling spectrum and sixteen strong directions."""
    random = np.random.default_rng(seed)
    directions = random.standard_normal((inputs, 16), np.float32)
    matrix: Array = directions @ directions.T
    matrix[np.diag_indices(inputs)] += 10.0 / np.arange(1, inputs + 1, dtype=np.float32) + 0.01
    return matrix


def grams(model: Float32Model, number: int) -> dict[str, Array]:
    """A made-up Gram matrix for each linear layer of the tower."""
    return {
        name: gram(shape[1], zlib.crc32(name.encode()) + number)
        for name, shape in model.shapes.items()
        if len(shape) == 2 and name.endswith("weight")
    }
