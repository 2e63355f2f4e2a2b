"""Licences of merged models: what is known to be allowed, and that nothing else is guessed."""

import pytest

from gitmerge_eval.card.licences import HUB_NAMES, LICENCES, Part, canonical, combined


def outcome(*licences):
    return combined([Part(f"model-{i}", licence) for i, licence in enumerate(licences)])


@pytest.mark.parametrize(
    ("licences", "expression", "fields"),
    [
        (("MIT", "mit"), "MIT", {"license": "mit"}),
        (("CC0-1.0", "MIT", "Unlicense"), "MIT", {"license": "mit"}),
        (("CC0-1.0", "cc0-1.0"), "CC0-1.0", {"license": "cc0-1.0"}),
        (
            ("MIT", "Apache-2.0", "CC-BY-4.0"),
            "Apache-2.0 AND CC-BY-4.0 AND MIT",
            {"license": "other", "license_name": "apache-2.0-and-cc-by-4.0-and-mit"},
        ),
        (("0BSD",), "0BSD", {"license": "other", "license_name": "0bsd"}),
        (("cc-by-nc-4.0", "CC-BY-NC-4.0"), "CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        (("openrail++", "OpenRAIL++"), "openrail++", {"license": "openrail++"}),
        (("llama3.1", "llama3.1"), "llama3.1", {"license": "llama3.1"}),
        (("gpl-3.0", "GPL-3.0-only"), "GPL-3.0-only", {"license": "gpl-3.0"}),
    ],
)
def test_what_is_known_to_be_allowed(licences, expression, fields):
    found = outcome(*licences)
    assert (found.expression, found.problems) == (expression, ())
    assert found.front_matter() == fields


@pytest.mark.parametrize(
    ("licences", "said"),
    [
        (("MIT", None), ["model-1: no licence is declared"]),
        (("MIT", ""), ["model-1: no licence is declared"]),
        (
            ("cc-by-nc-4.0", "mit"),
            ["CC-BY-NC-4.0 (model-0) with MIT (model-1): terms of non-commercial"],
        ),
        (("CC-BY-SA-4.0", "CC-BY-NC-4.0"), ["terms of non-commercial and of share alike"]),
        (("llama3.1", "gemma"), ["gemma (model-1) with llama3.1 (model-0)"]),
        (("CC0-1.0", "openrail++"), ["CC0-1.0 (model-0) with openrail++ (model-1)"]),
        (("cc-by-nd-4.0", "cc-by-nd-4.0"), ["does not let adaptations be shared"]),
        (("MIT OR Apache-2.0",), ["what 'MIT OR Apache-2.0' allows is not known"]),
        (("bsd", "bsd"), ["what 'bsd' allows is not known here"]),
        (("my own", "MIT"), ["what 'my own' allows is not known here"]),
        (("GPL-2.0-only",), ["what 'GPL-2.0-only' allows is not known"]),
        ((), []),
        (
            ("gemma", "MIT", "gemma", "cc-by-nc-4.0"),
            [
                "CC-BY-NC-4.0 (model-3) with MIT (model-1)",
                "CC-BY-NC-4.0 (model-3) with gemma (model-0, model-2)",
                "MIT (model-1) with gemma (model-0, model-2)",
            ],
        ),
    ],
)
def test_what_is_not_known_is_said_and_not_guessed(licences, said):
    found = outcome(*licences)
    assert not found.is_known
    assert found.front_matter() == {"license": "unknown"}
    assert len(found.problems) == len(said)
    for problem, words in zip(sorted(found.problems), sorted(said), strict=True):
        assert words in problem


def test_every_duty_has_its_source_and_its_models():
    found = outcome("MIT", "Apache-2.0", "MIT")
    assert len(found.duties) == 2
    assert found.duties[0].startswith("Apache-2.0 (model-1): give its text")
    assert found.duties[1].startswith("MIT (model-0, model-2): keep its copyright notice")
    assert all("https://" in duty for duty in found.duties)


def test_the_table_is_spelt_as_spdx_or_the_hub_spells():
    for name, licence in LICENCES.items():
        assert canonical(name.upper()) == canonical(name.lower()) == name
        assert licence.source.startswith("https://")
        assert bool(licence.duty) == (licence.kind != "public domain")
    assert all(name == name.lower() for name in HUB_NAMES)
