"""A small grid, two categories by two domains, trained for a few steps."""

import copy

import pytest

from gitmerge_eval.benchmarks import domainnet_classification_mini as mini
from gitmerge_eval.benchmarks import read_recipe, recipe_folder

SETTINGS = {"seed": 3}


@pytest.fixture(scope="session")
def small_recipe():
    recipe = copy.deepcopy(dict(read_recipe(mini.NAME)))
    recipe["skills"] = {"category": ["bird", "fruit"], "domain": ["quickdraw", "real"]}
    recipe["held_in"] = {"bird": "real", "fruit": "quickdraw"}
    recipe["pictures"] |= {"pretrain": 3, "train": 6, "validation": 2, "test": 5}
    recipe["pretraining"] |= {"steps": 6, "batch": 8, "warm_up": 2, "shuffled_share": 0.5}
    recipe["fine_tuning"] |= {"steps": 4, "batch": 8, "warm_up": 1}
    recipe["multitask"] |= {"steps": 4, "batch": 8, "warm_up": 1}
    return recipe


@pytest.fixture(scope="session")
def small(small_recipe):
    return mini.benchmark(small_recipe, recipe_folder(mini.NAME))


@pytest.fixture(scope="session")
def built(small, tmp_path_factory):
    return small.build(tmp_path_factory.mktemp("built"), settings=SETTINGS)


@pytest.fixture(scope="session")
def bird_real(built):
    return built.constituents["bird-real"]
