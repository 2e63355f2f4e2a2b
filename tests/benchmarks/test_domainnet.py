"""DomainNet as data: categories, cells, and pictures on a tree of the published shape."""

import sys
from collections import Counter
from pathlib import Path

import domainnet_tree
import numpy as np
import pytest
from PIL import Image

from gitmerge_eval.benchmarks.domainnet import DOMAINS
from gitmerge_eval.benchmarks.domainnet.categories import categories, classes_of, tasks_of
from gitmerge_eval.benchmarks.domainnet.reading import SPLITS, DomainNet, opened
from gitmerge_eval.errors import EvaluationError, InvalidOption, UnknownName

CLASSES = ("owl", "swan", "wine_glass")
HELD_IN = {
    "clipart": {"cloth", "furniture", "mammal", "tool"},
    "infograph": {"building", "electricity", "human_body", "office"},
    "painting": {"cold_blooded", "food", "nature", "road_transportation"},
    "quickdraw": {"fruit", "music", "sport", "tree"},
    "real": {"bird", "kitchen", "shape", "vegetable"},
    "sketch": {"insect", "others", "sky_transportation", "water_transportation"},
}
"""Section 4 of the paper."""


def test_the_categories_are_the_papers():
    known = categories()
    assert len(known) == 24
    entries = [name for category in known for name in category.classes]
    assert len(entries) == 347
    assert len(classes_of(known)) == 345
    twice = {name for name, count in Counter(entries).items() if count > 1}
    assert twice == {"bandage", "nail"}
    for name in twice:
        assert {c.name for c in known if name in c.classes} == {"tool", "office"}
    for domain, names in HELD_IN.items():
        assert {c.name for c in known if c.held_in == domain} == names


def test_the_grid_has_24_held_in_and_120_generalization_cells():
    tasks = tasks_of(categories())
    assert Counter(task.status for task in tasks) == {"held-in": 24, "generalization": 120}
    assert len({task.name for task in tasks}) == 144
    fruit = {t.skills["domain"]: t.status for t in tasks if t.skills["category"] == "fruit"}
    assert fruit == {d: "held-in" if d == "quickdraw" else "generalization" for d in DOMAINS}


def test_categories_can_be_overridden_by_a_file_or_a_table(tmp_path):
    text = '[bird]\nheld_in = "sketch"\nclasses = ["owl", "emu"]\n'
    (tmp_path / "mine.toml").write_text(text)
    table = {"bird": {"held_in": "sketch", "classes": ["owl", "emu"]}}
    assert categories(tmp_path / "mine.toml") == categories(table)
    assert categories(table)[0].classes == ("owl", "emu")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bird": {"held_in": "reel", "classes": ["owl"]}}, "did you mean 'real'"),
        ({"bird": {"held_in": "real"}}, "no list 'classes'"),
        ({"bird": {"held_in": "real", "classes": ["../owl"]}}, "no list 'classes'"),
        ({}, "has no category"),
    ],
)
def test_wrong_categories_are_said(table, message):
    with pytest.raises((EvaluationError, UnknownName), match=message):
        categories(table)
    with pytest.raises(EvaluationError, match="cannot be read"):
        categories(Path("no-such.toml"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domainnet")
    return domainnet_tree.write(folder, CLASSES, train=20, test=3)


def test_the_validation_split_is_a_seeded_tenth_of_the_training_list(tree):
    seen = {}
    for seed in (0, 1):
        source = DomainNet(tree, seed)
        parts = {s: {p.path for p in source.pictures("real", CLASSES, s)} for s in SPLITS}
        listed = {
            part: {line.split()[0] for line in (tree / f"real_{part}.txt").read_text().splitlines()}
            for part in ("train", "test")
        }
        assert parts["test"] == listed["test"]
        assert parts["train"] | parts["validation"] == listed["train"]
        assert not parts["train"] & parts["validation"]
        by_class = Counter(p.name for p in source.pictures("real", CLASSES, "validation"))
        assert by_class == dict.fromkeys(CLASSES, 2)
        seen[seed] = parts["validation"]
    assert seen[0] != seen[1]
    assert DomainNet(tree, 1).pictures("real", ("owl",), "validation") == tuple(
        p for p in DomainNet(tree, 1).pictures("real", CLASSES, "validation") if p.name == "owl"
    )


def test_the_data_set_has_the_pictures_and_their_labels(tree):
    source = DomainNet(tree)
    data = source.dataset("sketch", ("swan", "wine_glass"), "test", labels=CLASSES)
    assert data["label"][:] == [1, 1, 1, 2, 2, 2]
    for row, picture in zip(
        data, source.pictures("sketch", ("swan", "wine_glass"), "test"), strict=True
    ):
        assert row["image"].mode == "RGB"
        with Image.open(tree / picture.path) as expected:
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(expected))


def test_a_missing_package_is_said(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EvaluationError, match=r"gitmerge-eval\[pictures\]"):
        DomainNet(tree).dataset("real", CLASSES, "test", CLASSES)


def test_a_class_may_be_missing_in_a_split_but_not_all(tree):
    found = DomainNet(tree).pictures("real", ("owl", "t-shirt"), "train")
    assert {p.name for p in found} == {"owl"}
    with pytest.raises(EvaluationError, match="no picture of t-shirt in the test split of real"):
        DomainNet(tree).pictures("real", ("t-shirt",), "test")


def test_the_fingerprint_depends_on_split_seed_and_pictures(tree, tmp_path):
    def of(split, seed=0, domain="real"):
        return DomainNet(tree, seed).fingerprint(domain, CLASSES, split)

    assert of("test") == of("test", seed=1)
    assert len({of("test"), of("train"), of("train", seed=1), of("test", domain="sketch")}) == 4
    other = domainnet_tree.write(tmp_path, CLASSES, train=20, test=3, side=25, domains=["real"])
    assert DomainNet(other).fingerprint("real", CLASSES, "test") != of("test")


def test_what_is_missing_is_said_in_one_line_with_the_remedy(tmp_path, monkeypatch):
    def message(function):
        with pytest.raises(EvaluationError) as caught:
            function()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.delenv("GITMERGE_EVAL_DOMAINNET", raising=False)
    assert "ai.bu.edu/M3SDA" in message(lambda: opened({}, validation=0.1))
    gone = str(tmp_path / "gone")
    assert "gone" in message(lambda: opened({"data": gone}, validation=0.1))
    monkeypatch.setenv("GITMERGE_EVAL_DOMAINNET", gone)
    assert "gone" in message(lambda: opened({"data": str(tmp_path)}, validation=0.1))
    source = DomainNet(domainnet_tree.write(tmp_path, CLASSES, domains=["real"]))
    assert "sketch_test.txt" in message(lambda: source.pictures("sketch", CLASSES, "test"))
    lost = source.pictures("real", ("swan",), "test")[0].path
    (tmp_path / lost).unlink()
    said = message(lambda: source.dataset("real", CLASSES, "test", CLASSES))
    assert lost in said
    assert "1 of 9 are missing" in said
    assert "real.zip" in said


@pytest.mark.parametrize(
    "line",
    ["real/owl.jpg 1", "sketch/owl/a.jpg 1", "real/../a.jpg 1", "real/owl/a.jpg", "real/owl/a b"],
)
def test_a_list_of_another_form_is_named_with_its_line(tmp_path, line):
    (tmp_path / "real_test.txt").write_text(f"real/owl/b.jpg 1\n{line}\n")
    with pytest.raises(EvaluationError, match="line 2"):
        DomainNet(tmp_path).pictures("real", CLASSES, "test")


def test_unknown_domains_splits_and_shares_are_refused(tree):
    with pytest.raises(UnknownName, match="did you mean 'sketch'"):
        DomainNet(tree).pictures("sketsh", CLASSES, "test")
    with pytest.raises(UnknownName, match="did you mean 'validation'"):
        DomainNet(tree).pictures("real", CLASSES, "valid")
    with pytest.raises(InvalidOption, match="validation share"):
        DomainNet(tree, validation=1.0)
