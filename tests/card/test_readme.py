"""A card in somebody's README: their words and fields stay, ours are written anew."""

import pytest
import yaml
from huggingface_hub import ModelCard

from gitmerge_eval.card.readme import BEGIN, END, readme
from gitmerge_eval.errors import UsageError

RESULT = {
    "task": {"type": "other"},
    "dataset": {"name": "plain: a", "type": "plain", "args": {"by": "gitmerge-eval 0.2.0"}},
    "metrics": [{"type": "accuracy", "value": 50.0}],
}
FIELDS = {
    "license": "mit",
    "base_model": ["ada/a", "ada/b"],
    "tags": ["merge", "gitmerge-eval", "ties"],
    "pipeline_tag": "text-generation",
    "model-index": [{"name": "models", "results": [RESULT]}],
}
BODY = "A merge.\n\n### Lineage\n\n--> a text with -- and > in it"
THEIRS = """---
# my own remark
language:
- en   # and why
license: apache-2.0

tags:
- mine
extra: {a: 1}
---

# My model

Words of mine.
"""


def fields_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def write(existing, fields=FIELDS, body=BODY, **options):
    done = readme(existing, "models", fields, body, **options)
    assert readme(done.text, "models", fields, body, **options).text == done.text
    return done


@pytest.mark.parametrize("existing", [None, "", "\n"])
def test_a_new_one(existing):
    done = write(existing)
    assert fields_of(done.text) == FIELDS
    assert done.text.index("# models") < done.text.index(BEGIN) < done.text.index(BODY)
    assert done.text.endswith(f"{END}\n")
    card = ModelCard(done.text)
    assert card.data.to_dict() == FIELDS
    assert BODY in card.text


def test_their_words_comments_and_fields_stay():
    done = write(THEIRS)
    found = fields_of(done.text)
    assert found == {
        **FIELDS, "language": ["en"], "license": "apache-2.0", "extra": {"a": 1},
        "tags": ["merge", "gitmerge-eval", "ties", "mine"],
    }  # fmt: skip
    assert done.kept == ("'license' is 'apache-2.0', not 'mit'",)
    for line in ("# my own remark", "- en   # and why", "license: apache-2.0", "extra: {a: 1}"):
        assert f"{line}\n" in done.text
    assert "# My model\n\nWords of mine.\n\n<!-- gitmerge-eval card" in done.text
    assert "# models" not in done.text


def test_without_the_markers_a_second_card_would_be_lost_in_the_first():
    """What the markers are for: huggingface_hub's own way writes the whole text anew."""
    card = ModelCard(THEIRS)
    card.text = BODY
    assert "Words of mine" not in str(card)
    assert "# my own remark" not in str(card)
    first = write(THEIRS).text
    second = write(first.replace("Words of mine", "Other words"), body="Another merge.").text
    assert "Other words of mine" not in second
    assert "Other words" in second
    assert BODY not in second
    assert second.count(BEGIN) == 1


def test_force_takes_the_place_of_their_fields_and_of_nothing_else():
    done = write(THEIRS, force=True)
    assert done.kept == ()
    assert fields_of(done.text)["license"] == "mit"
    assert "mine" in fields_of(done.text)["tags"]
    assert "Words of mine." in done.text


def test_what_was_ours_changes_and_goes_with_the_card():
    first = write(THEIRS, {**FIELDS, "license_name": "x"}).text
    later = {
        "tags": ["merge", "dare"],
        "base_model": ["ada/c"],
        "model-index": [{"name": "models", "results": [{**RESULT, "metrics": []}]}],
    }
    found = fields_of(write(first, later).text)
    assert found == {
        "language": ["en"], "license": "apache-2.0", "tags": ["merge", "dare", "mine"],
        "extra": {"a": 1}, **{key: later[key] for key in ("base_model", "model-index")},
    }  # fmt: skip
    assert "model-index" not in fields_of(write(first, {"tags": ["merge"]}).text)


def test_what_somebody_changed_since_is_theirs():
    first = write(None).text
    changed = first.replace("license: mit", "license: other\nlicense_name: reviewed", 1)
    changed = changed.replace("- ada/b", "- ada/b\n- bob/c", 1)
    done = write(changed, {**FIELDS, "base_model": ["ada/a"]})
    found = fields_of(done.text)
    assert (found["license"], found["license_name"]) == ("other", "reviewed")
    assert found["base_model"] == ["ada/a", "bob/c"]
    assert done.kept == ("'license' is 'other', not 'mit'",)


def test_their_results_stay_beside_ours():
    other = {
        **RESULT,
        "dataset": {"name": "x", "type": "x"},
        "metrics": [{"type": "f1", "value": 1}],
    }
    there = {"model-index": [{"name": "theirs", "results": [other]}, "odd"]}
    done = write(f"---\n{yaml.safe_dump(there)}---\ntext\n")
    assert fields_of(done.text)["model-index"] == [
        {"name": "theirs", "results": [RESULT, other]}, "odd"
    ]  # fmt: skip
    gone = write(done.text, {"tags": ["merge"]})
    assert fields_of(gone.text)["model-index"] == there["model-index"]


def test_line_endings_and_a_byte_order_mark_stay():
    done = write("\ufeff" + THEIRS.replace("\n", "\r\n"))
    assert done.text.startswith("\ufeff---\r\n")
    assert "\n" not in done.text.replace("\r\n", "")
    assert ModelCard(done.text.removeprefix("\ufeff")).data.language == ["en"]


@pytest.mark.parametrize(
    "front",
    ["{language: en, license: apache-2.0}\n", "a: &x [1]\nb: *x\n'tags': 'one'\n", "# none\n"],
)
def test_front_matter_in_another_style_is_understood(front):
    there = yaml.safe_load(front) or {}
    found = fields_of(write(f"---\n{front}---\ntext\n").text)
    assert {key: found[key] for key in there if key != "tags"} == {
        key: value for key, value in there.items() if key != "tags"
    }
    assert found["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\na: 1\n", "begins with '---' and does not end"),
        ("---\na: [1\n---\n", "is not YAML"),
        ("---\n- a\n---\n", "is no list of fields"),
        (f"{BEGIN}{{}} -->\n", "has 1 begins and 0 ends"),
        (f"{END}\n{BEGIN}{{}} -->\n", "or the end first"),
        (f"{BEGIN}{{}} -->\n{END}\n{BEGIN}{{}} -->\n{END}\n", "has 2 begins"),
        (f"{BEGIN}{{\n{END}\n", "has been changed and cannot be read"),
        (f"{BEGIN}[] -->\n{END}\n", "has been changed and cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        readme(text, "models", FIELDS, BODY)
