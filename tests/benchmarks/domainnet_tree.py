"""A folder tree as DomainNet publishes it, with small made-up pictures."""

import numpy as np
from PIL import Image

from gitmerge_eval.benchmarks.domainnet import DOMAINS


def write(folder, classes, *, train=6, test=3, side=24, domains=DOMAINS):
    """Pictures of each class in each domain, and the lists that name them."""
    generator = np.random.default_rng(0)
    for d, domain in enumerate(domains):
        lists = {"train": [], "test": []}
        for number, name in enumerate(sorted(set(classes))):
            (folder / domain / name).mkdir(parents=True, exist_ok=True)
            for index in range(train + test):
                path = f"{domain}/{name}/{domain}_{number:03}_{index:06}.jpg"
                noise = generator.integers(0, 60, (side, side + d, 3))
                noise[..., number % 3] += 40 + (number * 37) % 150
                Image.fromarray(noise.astype(np.uint8)).save(folder / path, quality=90)
                lists["train" if index < train else "test"].append(f"{path} {number}")
        for part, lines in lists.items():
            # The published lists are in no order that a reader may lean on.
            shuffled = [lines[i] for i in generator.permutation(len(lines))]
            (folder / f"{domain}_{part}.txt").write_text("\n".join(shuffled) + "\n")
    return folder
