"""The card of real merges, as huggingface_hub reads it, and what people get wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from evaluated_repositories import PLAIN, Evaluated
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from gitmerge_eval import carding, cli
from gitmerge_eval.card.facts import facts_of
from gitmerge_eval.card.front_matter import front_matter
from gitmerge_eval.errors import EvaluationError, UsageError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration, ConstituentDeclaration

DECLARED = {
    "fruit-quickdraw": {
        "licence": "MIT", "hub": "ada/fruit", "base_model": "ada/base", "authors": ("Ada", "Bob"),
    },
    "bird-real": {"licence": "apache-2.0", "hub": "bob/bird", "base_model": "ada/base"},
    "tool-sketch": {"description": "a tool | <b>"},
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Three constituents that say what they are, one of them without licence or place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        made = Evaluated.make(tmp_path_factory.mktemp("carded") / "models")
        for name, fields in DECLARED.items():
            own = ConstituentDeclaration(name, "plain", name, "model.safetensors", **fields)
            declare(made, name, own.toml())
        yield made


def declare(made, name, toml):
    made.repository.run("switch", "-q", name)
    made.put(name, {f"constituents/{name}.toml": toml})
    made.repository.run("switch", "-q", "main")


@pytest.fixture
def made(template, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    copy = template.copy(tmp_path / "models")
    monkeypatch.chdir(copy.repository.directory)
    return copy


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "card", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    return run


def test_the_hub_reads_models_results_and_licence(made, command):
    commit = made.merge()
    note = evaluating.evaluate(made.repository)
    status, out, err = command()
    assert (status, err) == (0, "")
    data = ModelCard(out).data
    assert data.base_model == ["ada/fruit", "bob/bird", "ada/base"]
    assert data.get("base_model_relation") == "merge"
    assert data.tags == ["merge", "gitmerge-eval", "mats"]
    assert (data.license, data.license_name) == ("other", "apache-2.0-and-mit")
    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == "models"
    scores = {one.dataset_config: one.metric_value for one in results}
    assert scores == {
        **{score.task: score.merged for score in note.scores},
        "held-in average": note.average("held-in"),
        "generalization average": note.average("generalization"),
    }
    assert {one.dataset_args["data"] for one in results if "data" in one.dataset_args} == {
        score.fingerprint for score in note.scores
    }
    assert f"gitmerge-eval verify {commit}" in out
    assert "| fruit-quickdraw | `" in out
    assert "| ada/fruit | MIT | Ada, Bob |" in out
    assert "passed on under **Apache-2.0 AND MIT**" in out
    assert "| average | 68.00 | 24.00 | 87.50 | 81.00 |" in out


def test_what_is_not_known_is_said(made, command):
    made.merge(("fruit-quickdraw", "tool-sketch"))
    status, out, err = command()
    assert status == 0
    assert ModelCard(out).data.license == "unknown"
    assert ModelCard(out).data.base_model == ["ada/fruit", "ada/base"]
    assert "Without a place on the Hub, and so not in `base_model`: tool-sketch." in out
    assert "- tool-sketch: no licence is declared" in out
    assert "| a tool \\| &lt;b&gt; |" in out
    assert "It has not been evaluated." in out
    assert "model-index" not in out
    assert "there are no results of it here; run 'gitmerge-eval evaluate" in err
    assert "no place on the Hub is declared for tool-sketch" in err


def test_a_merge_of_merges_names_the_models_at_its_ends(made, command):
    first = made.merge()
    made.repository.run("branch", "both", first)
    made.repository.run("reset", "-q", "--hard", made.commits["main"])
    made.merge(("both", "tool-sketch"), values=(1, 2, 3, 4, 5, 6), method="ties", options={})
    out = command()[1]
    assert [out.count(f"| {name} | `") for name in DECLARED] == [1, 1, 1]
    assert "A merge of 3 fine-tuned models" in out
    assert "gitmerge-eval\n- ties\n" in out


def test_the_readme_that_was_committed_with_it_is_written_again(made, command):
    merged = made.merge()
    assert command("-o", "README.md")[0] == 0
    made.put("card", {})
    readme = made.repository.directory / "README.md"
    before = readme.read_text()
    status, out, err = command("--output", readme)
    assert (status, out) == (0, "")
    assert "wrote " in err
    assert readme.read_text() == before
    assert merged in before
    evaluating.evaluate(made.repository, merged)
    readme.write_text(before.replace("license: other", "license: mit") + "\nmy own words\n")
    status, out, err = command("--output", readme, "--json")
    assert "keeps its own: 'license' is 'mit', not 'other'; --force changes it" in err
    assert json.loads(out)["fields"]["license"] == "other"
    text = readme.read_text()
    assert "| average | 68.00 |" in text
    assert text.endswith("\nmy own words\n")
    assert ModelCard.load(readme).data.license == "mit"
    command("--output", readme, "--force")
    assert ModelCard.load(readme).data.license == "other"


def test_nothing_that_a_branch_says_leaves_the_section(made, command):
    toml = ConstituentDeclaration(
        "bird-real", "plain", "bird-real", "model.safetensors", "x --> y",
        "<!-- gitmerge-eval card: end -->\n# not mine `` ` @somebody", hub="bob/bird",
    ).toml()  # fmt: skip
    declare(made, "bird-real", toml)
    made.merge()
    for _ in range(2):
        assert command("-o", "README.md")[0] == 0
    text = (made.repository.directory / "README.md").read_text()
    assert text.count("<!-- gitmerge-eval card: end -->") == 1
    assert "\n# not mine" not in text
    assert "@somebody" not in text


def test_a_licence_with_a_name_of_its_own_is_named_with_its_link(made, command):
    text = ConstituentDeclaration(
        "bird-real", "plain", "bird-real", "model.safetensors", hub="bob/bird"
    ).toml()  # fmt: skip
    own = 'license = "other"\nlicense_name = "bird-licence"\nlicense_link = "https://a.example/b"\n'
    declare(made, "bird-real", text + own)
    made.merge()
    _, out, err = command()
    assert "licence: bird-real: what 'bird-licence' allows is not known here; read it" in err
    assert "- bird-licence: https://a.example/b" in out
    declare(made, "bird-real", text + own + 'licence = "MIT"\n')
    made.repository.run("reset", "-q", "--hard", made.commits["main"])
    made.merge()
    assert "has 'license' and 'licence' with different values" in command()[2]


@pytest.mark.parametrize("hub", ["ada/fruit/x", "ada fruit", "-a/b", "https://hub.example/a/b"])
def test_a_place_that_cannot_be_one_is_named_with_its_file(made, hub):
    own = ConstituentDeclaration("bird-real", "plain", "bird-real", "model.safetensors", hub=hub)
    declare(made, "bird-real", own.toml())
    made.merge()
    with pytest.raises(
        EvaluationError, match=r"'constituents/bird-real.toml' of 'bird-real': 'hub'"
    ):
        carding.card(made.repository)


def test_what_has_no_card(made, command, tmp_path):
    assert command("fruit-quickdraw")[0] == 2
    status, _, err = command("main")
    assert "'main' (" in err
    assert "has no merged model" in err
    made.merge()
    assert command("--checkpoint", "model.safetensors")[0] == 0
    assert (
        "'x' was not merged here; merged were model.safetensors" in command("--checkpoint", "x")[2]
    )
    assert "--force is about the README that --output names" in command("--force")[2]
    status, _, err = command("-o", tmp_path / "no" / "README.md")
    assert status == 2
    assert "there is no folder" in err
    (tmp_path / "latin.md").write_bytes(b"\xe9\n")
    assert "is no text in UTF-8" in command("-o", tmp_path / "latin.md")[2]
    (tmp_path / "torn.md").write_text("---\na: 1\n")
    assert "torn.md': the README's front matter begins" in command("-o", tmp_path / "torn.md")[2]
    assert (tmp_path / "torn.md").read_text() == "---\na: 1\n"


def test_two_models_and_one_that_was_resolved_by_hand(made):
    blob = made.repository.write_blob(b"another model")
    models = ((blob, "other.safetensors"),)
    specs = (("5" * 64, "model.safetensors"), ("6" * 64, "other.safetensors"))
    own = made.repository.blob_id("main", "model.safetensors")
    made.merge(specs=specs, models=((own, "model.safetensors"), *models))
    with pytest.raises(UsageError, match="has no merged model"):
        carding.card(made.repository)
    made.repository.run("reset", "-q", "--hard", made.commits["main"])
    made.merge(specs=specs)
    with pytest.raises(UsageError, match=r"2 models were merged .*; name one with --checkpoint"):
        carding.card(made.repository)
    with pytest.raises(UsageError, match="is not the model that its trailers name"):
        carding.card(made.repository, checkpoint="other.safetensors")
    assert carding.card(made.repository, checkpoint="model.safetensors").fields["tags"]


def test_results_of_another_checkpoint_and_records_of_another_version_are_left_out(made):
    commit = made.merge()
    evaluating.evaluate(made.repository)
    facts = facts_of(made.repository, commit)
    assert len(facts.notes) == 1
    made.repository.run("notes", "--ref=gitmerge-eval", "add", "-f", "-m", "x", commit)
    from gitmerge_eval.git import notes

    notes.write(made.repository, commit, "t", {"kind": "evaluation/test", "schema": 9})
    facts = facts_of(made.repository, commit)
    assert facts.notes == ()
    assert "the note cannot be read" in facts.remarks[0]


@pytest.mark.parametrize(
    ("family", "adapter", "fields"),
    [
        ("open_clip", False, ("open_clip", "zero-shot-image-classification")),
        ("transformers", False, ("transformers", None)),
        ("causal-lm", False, ("transformers", "text-generation")),
        ("causal-lm", True, ("peft", "text-generation")),
        ("diffusers", True, ("diffusers", "text-to-image")),
        ("", False, (None, None)),
    ],
)
def test_library_and_pipeline_are_those_of_the_family(made, family, adapter, fields):
    made.merge()
    facts = facts_of(made.repository, "HEAD")
    declared = BenchmarkDeclaration("plain", own={"data": {"dataset": "ada/pictures"}})
    found = front_matter(
        replace(
            facts, benchmark=replace(facts.benchmark, family=family), is_adapter=adapter,
            declaration=declared,
        )
    )  # fmt: skip
    assert (found.get("library_name"), found.get("pipeline_tag")) == fields
    assert found["datasets"] == ["ada/pictures"]
