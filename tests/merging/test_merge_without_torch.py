"""Elementwise merges on the CPU, by the real ``git merge``, where importing torch fails."""

from __future__ import annotations

import os

import pytest
from models import ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, settle, without_heavy_imports

from gitmerge_eval import methods

HEADS = ("b0", "b1", "b2")
ELEMENTWISE = [name for name, method in methods.load().items() if method.elementwise]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    base = base_model()
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", base)
    for number, name in enumerate(HEADS):
        made.branch(name, fine_tuned(base, number), statistics_for(base, number))
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path, monkeypatch):
    """A copy of the template, where programs that import torch fail."""
    for name, value in without_heavy_imports(tmp_path / "broken").items():
        before = os.environ.get(name)
        monkeypatch.setenv(name, f"{value}{os.pathsep}{before}" if before else value)
    return copied(template, tmp_path / "model")


@pytest.mark.parametrize("method", ELEMENTWISE)
def test_strategy(repository, method):
    repository.merge(f"-Xmethod={method}", *HEADS)
    assert repository.run("status", "--porcelain").stdout == ""


def test_methods_that_need_torch_do_not_pass(repository):
    options = ("-Xmethod=mats", "-Xsystem=fisher", *HEADS)
    assert "torch was imported" in repository.merge(*options, status=None).stderr


def test_driver(repository):
    repository.run("cherry-pick", "b0")
    repository.run("cherry-pick", "b1")
    assert repository.run("status", "--porcelain").stdout == ""
