"""What a repository says of itself: its benchmark, and which task each constituent is for.

``benchmark.toml``::

    name = "domainnet-classification-mini"
    [settings]                            # given to the benchmark's functions
    seed = 0

With a ``family`` the file declares a benchmark of the user's own (``docs/guide.md``).

``constituents/<name>.toml`` on a constituent's branch, one file each so that they never conflict::

    name = "fruit-quickdraw"
    benchmark = "domainnet-classification-mini"
    task = "fruit-quickdraw"
    checkpoint = "model.safetensors"
    licence = "Apache-2.0"                # optional, as is description

These files are data: names are looked up among the installed benchmarks, and nothing that a branch
holds is imported or run.
"""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.git.repository import Repository

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BENCHMARK_FILE = "benchmark.toml"
CONSTITUENTS_FOLDER = "constituents"


@dataclass(frozen=True)
class BenchmarkDeclaration:
    """A repository's benchmark: its name and the settings for its functions."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    """All that the file says, where it declares a benchmark of its own by a 'family'; else empty.
    It is checked by :mod:`gitmerge_eval.benchmarks.declared`."""
    where: str = field(default=BENCHMARK_FILE, compare=False)
    """The file, as messages name it."""

    def toml(self) -> str:
        """The text of ``benchmark.toml``; settings are text, numbers or booleans."""
        lines = [f"name = {_literal(self.name)}"]
        if self.settings:
            lines += ["", "[settings]"]
            lines += [f"{key} = {_literal(value)}" for key, value in self.settings.items()]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class ConstituentDeclaration:
    """One fine-tuned model: the task that it was trained for, and where its checkpoint is."""

    name: str
    benchmark: str
    task: str
    checkpoint: str
    licence: str | None = None
    description: str | None = None

    @property
    def path(self) -> str:
        """``constituents/<name>.toml``."""
        return f"{CONSTITUENTS_FOLDER}/{self.name}.toml"

    def toml(self) -> str:
        """The text of the file at :attr:`path`."""
        values = {
            "name": self.name,
            "benchmark": self.benchmark,
            "task": self.task,
            "checkpoint": self.checkpoint,
            "licence": self.licence,
            "description": self.description,
        }
        return "".join(f"{k} = {_literal(v)}\n" for k, v in values.items() if v is not None)


def benchmark_at(repository: Repository, revision: str) -> BenchmarkDeclaration | None:
    """What ``benchmark.toml`` says at ``revision``, or None where it has no such file.

    Raises EvaluationError where the file is malformed.
    """
    blob = repository.blob_id(revision, BENCHMARK_FILE)
    if blob is None:
        return None
    return _benchmark(repository.blob(blob), f"'{BENCHMARK_FILE}' at {revision}")


def benchmark_in(directory: Path) -> BenchmarkDeclaration | None:
    """What ``benchmark.toml`` says in the work tree; else as :func:`benchmark_at`."""
    file = directory / BENCHMARK_FILE
    return _benchmark(file.read_bytes(), f"'{file}'") if file.is_file() else None


def constituents_at(repository: Repository, revision: str) -> dict[str, ConstituentDeclaration]:
    """path -> what each ``constituents/*.toml`` in the tree of ``revision`` says.

    Raises EvaluationError where a file is malformed.
    """
    return {
        path: constituent(repository.blob(blob), f"'{path}' at {revision}")
        for path, blob in constituent_blobs(repository, revision).items()
    }


def constituents_in(directory: Path) -> dict[str, ConstituentDeclaration]:
    """path -> what each ``constituents/*.toml`` in the work tree says; else as above."""
    return {
        file.relative_to(directory).as_posix(): constituent(file.read_bytes(), f"'{file}'")
        for file in sorted((directory / CONSTITUENTS_FOLDER).glob("*.toml"))
        if file.is_file()
    }


def constituent_blobs(repository: Repository, revision: str) -> dict[str, str]:
    """path -> blob id of each ``constituents/*.toml`` in the tree of ``revision``."""
    listing = repository.run("ls-tree", "-z", "--full-tree", revision, f"{CONSTITUENTS_FOLDER}/")
    found = {}
    for line in listing.fields:
        entry, path = line.split("\t", 1)
        _, kind, blob = entry.split()
        if kind == "blob" and path.endswith(".toml"):
            found[path] = blob
    return found


def constituent(text: bytes, where: str) -> ConstituentDeclaration:
    """The declaration in ``text``; ``where`` names its file in messages."""
    values = _parsed(text, where)
    checkpoint = posixpath.normpath(_text(values, "checkpoint", where))
    if checkpoint.startswith(("/", "../")) or checkpoint in (".", ".."):
        raise EvaluationError(
            f"{where}: 'checkpoint' is '{checkpoint}'; give a path from the top of the repository"
        )
    return ConstituentDeclaration(
        name=_text(values, "name", where),
        benchmark=_text(values, "benchmark", where),
        task=_text(values, "task", where),
        checkpoint=checkpoint,
        licence=_text(values, "licence", where) if "licence" in values else None,
        description=_text(values, "description", where) if "description" in values else None,
    )


def _benchmark(text: bytes, where: str) -> BenchmarkDeclaration:
    values = _parsed(text, where)
    settings = values.get("settings", {})
    if not isinstance(settings, dict):
        raise EvaluationError(f"{where}: 'settings' is not a table; write it as '[settings]'")
    name = _text(values, "name", where)
    if "family" in values:
        return BenchmarkDeclaration(name, settings, values, where)
    for key in values:
        if key not in ("name", "settings"):
            raise EvaluationError(
                f"{where} has '{key}' and no 'family'; add 'family = \"open_clip\"', "
                "'\"transformers\"' or '\"causal-lm\"' to declare a benchmark of your own, or "
                "leave it out"
            )
    return BenchmarkDeclaration(name, settings)


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = tomllib.loads(text.decode())
    except ValueError as error:
        raise EvaluationError(f"{where} is not TOML: {error}; correct it and commit it") from error
    return values


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise EvaluationError(f"{where} has no '{key}'; add '{key} = \"…\"' and commit it")
    return value


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if not isinstance(value, str):
        raise EvaluationError(f"a setting is {value!r}; use text, a number, true or false")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )
