"""Procedural pictures of DomainNet's kind: a class drawn in a domain, the same bytes every time.

Each category is a file with the classes that it draws; ``domains.py`` has the six renderers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from gitmerge_eval.benchmarks.pictures import bird, building, food, fruit, furniture, insect
from gitmerge_eval.benchmarks.pictures.domains import DOMAINS
from gitmerge_eval.benchmarks.pictures.geometry import Part, Variation, jitter

CATEGORIES: dict[str, Mapping[str, Callable[[Variation], list[Part]]]] = {
    "bird": bird.CLASSES,
    "building": building.CLASSES,
    "food": food.CLASSES,
    "fruit": fruit.CLASSES,
    "furniture": furniture.CLASSES,
    "insect": insect.CLASSES,
}
"""category -> class -> what draws it; the names are DomainNet's."""

CLASSES = {name: draw for classes in CATEGORIES.values() for name, draw in classes.items()}
OVERSAMPLING = 2


def picture(
    name: str, domain: str, index: int, *, seed: int, split: str, side: int, jitter_amount: float
) -> npt.NDArray[np.uint8]:
    """Picture ``index`` of a class in a domain and split: RGB, shape (side, side, 3).

    It depends on the arguments alone; pictures of other splits and indices are independent of it.
    """
    key = hashlib.sha256(f"{seed}/{split}/{domain}/{name}/{index}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))
    vary = Variation(generator)
    parts = jitter(CLASSES[name](vary), jitter_amount, vary)
    image = DOMAINS[domain](parts, OVERSAMPLING * side, generator)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))
