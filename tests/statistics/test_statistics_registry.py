"""The registry of statistics."""

import subprocess
import sys

import pytest

from gitmerge_eval import statistics
from gitmerge_eval.errors import UnknownName


def test_every_statistic_is_found_under_its_own_name():
    loaded = statistics.load()
    assert {"fisher", "gram", "trimmed"} <= set(loaded)
    assert all(statistic.name == name for name, statistic in loaded.items())
    assert {s.name: s.combine_exact_for for s in loaded.values()} == {
        "fisher": ("fisher",),
        "gram": ("regmean",),
        "trimmed": (),
    }


def test_an_unknown_name_suggests_the_near_one():
    with pytest.raises(UnknownName, match="did you mean 'fisher'"):
        statistics.get("fischer")


def test_names_import_no_torch():
    code = (
        "import sys; from gitmerge_eval import statistics; statistics.names(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
