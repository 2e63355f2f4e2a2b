"""Finding methods, by file and by entry point, and declaring them without torch."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import gitmerge_eval.methods as methods
from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.records import LayerShape, MergeMethod

NAMES = [
    "average", "slerp", "task-arithmetic", "dare", "ties", "dare-ties", "fisher", "regmean", "mats",
]  # fmt: skip


class FakeEntry:
    def __init__(self, name, value):
        self.name, self._value, self.value = name, value, f"package.module:{name}"

    def load(self):
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


@pytest.fixture
def entry_points(monkeypatch):
    def install(*entries):
        methods.load.cache_clear()
        monkeypatch.setattr(methods, "entry_points", lambda *, group: list(entries))

    yield install
    methods.load.cache_clear()


def test_methods_come_in_the_papers_order():
    assert list(methods.load()) == NAMES


def test_load_is_cached():
    assert methods.load() is methods.load()


def test_unknown_method_names_the_near_one():
    with pytest.raises(UnknownName, match=r"unknown merge method 'tise'; did you mean 'ties'\?"):
        methods.get("tise")


def test_declarations_options_and_costs_leave_torch_unloaded():
    code = """
import sys
from gitmerge_eval import methods
from gitmerge_eval.records import LayerShape
for method in methods.load().values():
    options = method.options({}, models=3)
    method.scalars(options, 3), method.statistics(options), method.needs_base(options)
    method.references(options)
    method.merging_flops(LayerShape(8, 8, 3), options)
    method.statistics_flops(LayerShape(8, 8, 3), 5, options)
print('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_third_party_methods_come_last(entry_points):
    foreign = MergeMethod(name="aaa", title="", kernel=lambda group: group, reference="")
    entry_points(FakeEntry("aaa", foreign))
    assert list(methods.load()) == [*NAMES, "aaa"]
    assert methods.get("aaa") is foreign


def test_third_party_method_may_not_take_a_name(entry_points):
    entry_points(FakeEntry("x", MergeMethod(name="ties", title="", kernel=min, reference="")))
    with pytest.raises(UsageError, match="'ties', which there is already"):
        methods.load()


@pytest.mark.parametrize(
    ("value", "message"),
    [(ImportError("no such thing"), "cannot be loaded .no such thing."), (7, "is a int")],
)
def test_broken_entry_points_are_named(entry_points, value, message):
    entry_points(FakeEntry("odd", value))
    with pytest.raises(UsageError, match=f"'odd'.*{message}"):
        methods.load()


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(methods.__path__)])
def test_doctests(module):
    found = importlib.import_module(f"gitmerge_eval.methods.{module}")
    assert doctest.testmod(found).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_declarations_are_complete(name):
    method = methods.get(name)
    assert method.title
    assert "arXiv" in method.reference
    assert method.flops_formula
    assert method.kernel.__doc__
    assert isinstance(method.merging_flops(LayerShape(4, 3, 2), method.options({})), int)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_and_sweeps_are_in_range(name):
    for parameter in methods.get(name).hyperparameters:
        values = [*parameter.sweep, *([] if parameter.default is None else [parameter.default])]
        for value in values:
            assert parameter.parse(str(value)) == value
        assert parameter.help


def test_the_papers_sweeps():
    sweeps = {(m.name, p.name): p.sweep for m in methods.load().values() for p in m.hyperparameters}
    tenths = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert sweeps["task-arithmetic", "scale"] == sweeps["ties", "scale"] == tenths
    assert sweeps["dare", "drop_rate"] == (0.0, *tenths[:-1])
    assert sweeps["regmean", "off_diagonal"] == (0.0, *tenths)
    assert sweeps["mats", "iterations"] == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def test_needs_by_options():
    needs = {name: methods.get(name).needs_base(methods.get(name).options({})) for name in NAMES}
    assert {name for name, needed in needs.items() if needed} == {
        "task-arithmetic", "dare", "ties", "dare-ties", "mats",
    }  # fmt: skip
    mats = methods.get("mats")
    assert not mats.needs_base(mats.options({"init": "average"}))
    assert not mats.needs_base(mats.options({"init": "v1"}))
    assert mats.references(mats.options({"init": "v1"})) == {"init": "v1"}
    assert mats.references(mats.options({"init": "average"})) == {}
    assert mats.statistics(mats.options({})) == ("gram",)
    assert mats.statistics(mats.options({"system": "fisher"})) == ("fisher",)
    assert methods.get("fisher").statistics({}) == ("fisher",)
    assert methods.get("regmean").statistics({}) == ("gram",)
    assert methods.get("ties").statistics({}) == ()


def test_scalars_by_options():
    def names(method, **given):
        found = methods.get(method)
        options = found.options({k: str(v) for k, v in given.items()})
        scalars = found.scalars(options, 3)
        return [scalar.name + " of each group" * scalar.per_group for scalar in scalars]

    assert names("slerp") == ["inner_products of each group"]
    assert names("slerp", scope="model") == ["inner_products"]
    assert names("ties") == ["trim_threshold", "majority_sign of each group"]
    assert names("ties", density=1) == ["majority_sign of each group"]
    assert names("ties", scope="model") == ["trim_threshold", "majority_sign"]
    assert names("dare-ties") == ["majority_sign of each group"]
    assert names("dare-ties", density=0.5, scope="model") == ["trim_threshold", "majority_sign"]
