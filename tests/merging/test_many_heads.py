"""What deciding a merge costs does not grow by a process for each head."""

from __future__ import annotations

import subprocess

import pytest
from models import ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import opened

from gitmerge_eval.git.heads import resolve
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.textmerge import merge_text
from gitmerge_eval.merging import deciding, options
from gitmerge_eval.merging.expansion import Expansion, Part

MANY = [f"b{number}" for number in range(8)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    base = base_model()
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", base)
    for number, name in enumerate(MANY):
        made.branch(name, fine_tuned(base, number), statistics_for(base, number))
    return made


def test_processes_do_not_grow_with_heads(repository, monkeypatch):
    started = []

    class Counted(subprocess.Popen):
        def __init__(self, command, *arguments, **settings):
            started.append(command)
            super().__init__(command, *arguments, **settings)

    deciding_takes, texts_take = set(), set()
    for names in (MANY[:2], MANY):
        git = Repository(repository.folder)
        heads, chosen = resolve(git, names), options.parse([("method", "average")])
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", Counted)
            started.clear()
            tensors = deciding.decide(git, heads, chosen, deciding.touched(git, heads))
            deciding_takes.add(len(started))
            started.clear()
            merge_text(git, heads, tensors.paths)  # each branch has a line in .gitattributes
            texts_take.add(len(started) - 2 * len(names))
        (plan,) = tensors.plans
        assert {source.label for source in plan.constituents} == set(names)
    assert len(deciding_takes) == len(texts_take) == 1
    assert max(deciding_takes) < 20


def test_a_merge_among_models_is_found_by_asking_for_all(repository, tmp_path):
    repository.run("switch", "--quiet", "--create", "merged", MANY[0])
    repository.merge("-Xmethod=average", MANY[1])
    expansion = Expansion(opened(repository.folder).git)
    git = expansion.repository
    parts = [Part(git.commit(name), name, "model.safetensors") for name in ("merged", *MANY)]
    expansion.look_up(parts)
    found = {part.name: expansion.composite(part.commit, part.path) for part in parts}
    assert found["merged"].commit == git.commit("merged")
    assert not any(found[name] for name in MANY)
    simple = Expansion(git)
    simple.look_up(parts[1:])
    assert not any(simple.composite(part.commit, part.path) for part in parts[1:])
    assert simple.composite(parts[0].commit, parts[0].path) is not None
