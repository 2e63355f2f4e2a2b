"""domainnet-generation-mini on a small grid, trained for a few steps: every line of it runs."""

import copy
from dataclasses import replace

from gitmerge_eval.benchmarks import domainnet_generation_mini as mini
from gitmerge_eval.benchmarks import read_recipe, recipe_folder


def small_recipe():
    recipe = copy.deepcopy(dict(read_recipe(mini.NAME)))
    recipe["skills"] = {"category": ["bird", "fruit"], "domain": ["quickdraw", "real"]}
    recipe["held_in"] = {"bird": "real", "fruit": "quickdraw"}
    recipe["pictures"] |= {"train": 3, "validation": 1, "test": 3}
    recipe["judge"]["training"] |= {"steps": 3, "batch": 8, "warm_up": 0}
    recipe["autoencoder"] |= {"steps": 2, "batch": 4, "warm_up": 0}
    recipe["pretraining"] |= {"steps": 4, "batch": 4, "warm_up": 1}
    for section in ("fine_tuning", "multitask"):
        recipe[section] |= {"steps": 3, "batch": 4, "warm_up": 0}
    recipe["sampling"] |= {"steps": 2, "held-in": 2, "generalization": 1}
    recipe["statistics"] = {"split": "train", "fisher": {"examples": 5}, "gram": {"examples": 5}}
    return recipe


BENCHMARK = replace(
    mini.benchmark(small_recipe(), recipe_folder(mini.NAME)), name="small-generation"
)
