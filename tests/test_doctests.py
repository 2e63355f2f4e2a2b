"""The examples in the docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import gitmerge_eval

PACKAGE = Path(gitmerge_eval.__file__).parent
WITH_EXAMPLES = sorted(p for p in PACKAGE.rglob("*.py") if ">>> " in p.read_text())


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_examples_hold(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
