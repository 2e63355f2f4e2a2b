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
    licence = "Apache-2.0"                # optional, as is all that follows; 'license' will do
    licence_name = "…"                    # of one that has no identifier, with its link
    licence_link = "https://…"
    description = "category fruit, domain quickdraw"
    authors = ["Ada Lovelace"]
    hub = "ada/fruit-quickdraw"           # this model on the Hugging Face Hub
    base_model = "laion/CLIP-ViT-B-32"    # and the one that it was made from

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
    licence_name: str | None = None
    licence_link: str | None = None
    authors: tuple[str, ...] = ()
    hub: str | None = None
    """This model's identifier on the Hugging Face Hub."""
    base_model: str | None = None
    """The one of the model that it was made from."""

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
            "licence_name": self.licence_name,
            "licence_link": self.licence_link,
            "description": self.description,
            "authors": self.authors or None,
            "hub": self.hub,
            "base_model": self.base_model,
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
        authors=_authors(values, where),
        **_optional(values, where),
    )


_OPTIONAL = ("licence", "licence_name", "licence_link", "description", "hub", "base_model")


def _optional(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """What a constituent may say besides; the Hub's spelling of licences is taken, too."""
    given = dict(values)
    for key in [key for key in values if key.startswith("license")]:
        ours = key.replace("license", "licence", 1)
        if given.setdefault(ours, given.pop(key)) != values[key]:
            raise EvaluationError(
                f"{where} has '{key}' and '{ours}' with different values; leave one of them out"
            )
    return {key: _text(given, key, where) for key in _OPTIONAL if key in given}


def _authors(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    found = values.get("authors", [])
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise EvaluationError(
            f"{where}: 'authors' is no list of names; write authors = [\"Ada Lovelace\"]"
        )
    return tuple(names)


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
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if not isinstance(value, str):
        raise EvaluationError(f"a setting is {value!r}; use text, a number, true or false")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )
