"""The provenance of a merge: the state that the strategy leaves, and the trailers of the commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gitmerge_eval import __version__
from gitmerge_eval.git import scratch
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import canonical_json

METHOD = "Merge-Method"
OPTIONS = "Merge-Options"
BASE = "Merge-Base"
CONSTITUENT = "Merge-Constituent"
MODEL = "Merge-Model"
SPEC = "Merge-Spec"
RESOLUTION = "Merge-Resolution"
PARTS = "Merge-Parts"
LEAF = "Merge-Leaf"
SWEEP = "Merge-Sweep"
TOOL = "Merge-Tool"
KEYS = (METHOD, OPTIONS, BASE, CONSTITUENT, MODEL, SPEC, RESOLUTION, PARTS, LEAF, SWEEP, TOOL)

SWEEP_VARIABLE = "GITMERGE_EVAL_SWEEP"
"""Where ``gitmerge-eval sweep --merge`` tells the strategy what to write into that trailer."""
_SWEEP = re.compile(r"[0-9a-f]{64} [a-z-]+ [-+.\w]+ of [0-9]+ candidates?")

STATE = "gitmerge-eval/state"
"""Where the state is, below the work tree's git directory."""


Costs = Mapping[str, Mapping[str, Any]]
"""Digest of a MergeSpec -> what computing it took, for the note of the merge."""


@dataclass(frozen=True)
class NamedCommit:
    """A constituent as the user named it."""

    commit: str
    name: str


@dataclass(frozen=True)
class MergedModel:
    """A model that the strategy merged."""

    path: str
    """Of one of its files."""
    blob: str
    """Object id of that file's blob."""
    digest: str
    """Digest of the MergeSpec."""
    model: str = ""
    """The path that the model goes by, where it has several files."""


@dataclass(frozen=True)
class Parts:
    """What one model was merged from, where that is not simply what all trailers together say.

    >>> Parts.parse("1:1x2,3", "model.safetensors")
    Parts(path='model.safetensors', base=1, constituents=((1, 2), (3, 1)))
    >>> Parts("model.safetensors", None, ((2, 1),)).value
    '0:2'
    """

    path: str
    base: int | None
    """The position of its base among the bases, from 1; None: it has none."""
    constituents: tuple[tuple[int, int], ...]
    """(position among the constituents, number of models that it stands for), in their order."""

    @property
    def value(self) -> str:
        """As it stands in the trailer, before the path."""
        listed = (f"{n}x{models}" if models > 1 else f"{n}" for n, models in self.constituents)
        return f"{self.base or 0}:{','.join(listed)}"

    @classmethod
    def parse(cls, value: str, path: str) -> Parts:
        """The inverse of :attr:`value`; ValueError for anything else."""
        match = re.fullmatch(r"(\d+):(\d+(?:x\d+)?(?:,\d+(?:x\d+)?)*)", value, re.ASCII)
        if match is None:
            raise ValueError(f"{value!r} lists no constituents")
        pairs = (item.partition("x") for item in match[2].split(","))
        listed = tuple((int(n), int(models or 1)) for n, _, models in pairs)
        if min(min(pair) for pair in listed) < 1:
            raise ValueError(f"{value!r} counts from 0")
        return cls(path, int(match[1]) or None, listed)


@dataclass(frozen=True)
class MergeTrailers:
    """What the trailers of a merge commit say."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    constituents: tuple[tuple[str, str], ...] = ()
    """(commit, name), in the order of the heads."""
    models: tuple[tuple[str, str], ...] = ()
    """(blob, path)."""
    specs: tuple[tuple[str, str], ...] = ()
    """(digest, path)."""
    resolutions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """(commit, path, groups): groups in conflict that are as the model at ``path`` has them in that
    commit, or deleted where it has none."""
    parts: tuple[Parts, ...] = ()
    """Of models that were not merged from all of the bases and constituents, each once."""
    leaves: tuple[tuple[str, str], ...] = ()
    """(commit, name) of what constituents stand for that are merges themselves."""
    sweep: str = ""
    """``<digest> <criterion> <score> of <n> candidates`` where a sweep chose method and options."""
    tool: str = f"gitmerge-eval {__version__}"

    def lines(self) -> tuple[str, ...]:
        """The trailers as lines ``Key: value``, ready for a MergeState."""
        return (
            f"{METHOD}: {self.method}",
            f"{OPTIONS}: {canonical_json(self.options)}",
            *(f"{BASE}: {commit}" for commit in self.bases),
            *(f"{CONSTITUENT}: {commit} {quoted(name)}" for commit, name in self.constituents),
            *(f"{MODEL}: {blob} {quoted(path)}" for blob, path in self.models),
            *(f"{SPEC}: {digest} {quoted(path)}" for digest, path in self.specs),
            *(
                f"{RESOLUTION}: {commit} {canonical_json({path: sorted(groups)})}"
                for commit, path, groups in self.resolutions
            ),
            *(f"{PARTS}: {part.value} {quoted(part.path)}" for part in self.parts),
            *(f"{LEAF}: {commit} {quoted(name)}" for commit, name in self.leaves),
            *([f"{SWEEP}: {self.sweep}"] if self.sweep else []),
            f"{TOOL}: {self.tool}",
        )

    @classmethod
    def of(cls, pairs: list[tuple[str, str]]) -> MergeTrailers | None:
        """The record that the pairs spell, or None where they name no method or are torn."""

        def values(key: str) -> list[str]:
            return [value for name, value in pairs if name.lower() == key.lower()]

        def named(key: str) -> tuple[tuple[str, str], ...]:
            parts = (value.partition(" ") for value in values(key))
            return tuple((first, unquoted(rest)) for first, _, rest in parts)

        method = values(METHOD)
        if not method:
            return None
        try:
            options = json.loads((values(OPTIONS) or ["{}"])[-1])
            if not isinstance(options, dict):
                return None
            bases, constituents = tuple(values(BASE)), named(CONSTITUENT)
            parts = tuple(Parts.parse(value, path) for value, path in named(PARTS))
            if any(
                (one.base or 0) > len(bases) or max(one.constituents)[0] > len(constituents)
                for one in parts
            ):
                return None
            return cls(
                method=method[-1],
                options=options,
                bases=bases,
                constituents=constituents,
                models=named(MODEL),
                specs=named(SPEC),
                resolutions=tuple(
                    (commit, path, tuple(map(str, groups)))
                    for commit, text in (value.split(" ", 1) for value in values(RESOLUTION))
                    for path, groups in json.loads(text).items()
                ),
                parts=parts,
                leaves=named(LEAF),
                sweep=(values(SWEEP) or [""])[-1],
                tool=(values(TOOL) or [""])[-1],
            )
        except (ValueError, AttributeError, TypeError):
            return None


@dataclass(frozen=True)
class MergeState:
    """What the strategy leaves for the hooks: which merge is under way and what it was made of."""

    head: str
    remotes: tuple[str, ...]
    """The other heads, in the order of MERGE_HEAD."""
    trailers: tuple[str, ...]
    """Lines ``Key: value``."""
    constituents: tuple[NamedCommit, ...] = ()
    models: tuple[MergedModel, ...] = ()
    squash: bool = False
    """Set by post-merge: a strategy cannot see ``--squash``."""
    costs: Costs = field(default_factory=dict)


def sweep_from_environment() -> str:
    """What the sweep that started this merge says of itself; '' where none did."""
    found = os.environ.get(SWEEP_VARIABLE, "")
    return found if _SWEEP.fullmatch(found) else ""


def quoted(name: str) -> str:
    """``name`` as it stands in a trailer: as it is, or as a JSON string where it would tear one."""
    plain = name.isprintable() and name == name.strip() and not name.startswith('"') and name != ""
    return name if plain else json.dumps(name)


def unquoted(text: str) -> str:
    """The name that :func:`quoted` wrote; ValueError for a broken JSON string."""
    if not text.startswith('"'):
        return text
    name = json.loads(text)
    if not isinstance(name, str):
        raise ValueError(f"{text!r} is not a name")
    return name


def write_state(repository: Repository, state: MergeState) -> None:
    """Store the state for the hooks, whole or not at all."""
    scratch.write_state(repository.path(STATE), canonical_json(asdict(state)) + "\n")


def read_state(repository: Repository) -> MergeState | None:
    """The state of the merge under way, or None where there is none or it is unreadable."""
    try:
        text = repository.path(STATE).read_text(encoding="utf-8", errors="surrogateescape")
        fields = json.loads(text)
        return MergeState(
            head=fields["head"],
            remotes=tuple(fields["remotes"]),
            trailers=tuple(fields["trailers"]),
            constituents=tuple(NamedCommit(**item) for item in fields["constituents"]),
            models=tuple(MergedModel(**item) for item in fields["models"]),
            squash=fields["squash"],
            costs=fields.get("costs", {}),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_state(repository: Repository) -> None:
    """Forget the merge under way."""
    repository.path(STATE).unlink(missing_ok=True)


def mark_squash(repository: Repository, state: MergeState) -> None:
    """Remember that the merge is to become a squashed commit."""
    write_state(repository, replace(state, squash=True))


def merge_heads(repository: Repository) -> tuple[str, ...]:
    """The commits in MERGE_HEAD, none where no merge waits to be committed."""
    try:
        return tuple(repository.path("MERGE_HEAD").read_text().split())
    except FileNotFoundError:
        return ()


def is_current(repository: Repository, state: MergeState) -> bool:
    """Whether the commit that is being made is the merge that ``state`` describes."""
    if repository.run("rev-parse", "--verify", "HEAD", check=False).text != state.head:
        return False
    heads = merge_heads(repository)
    if heads:
        return heads == state.remotes
    return state.squash and repository.path("SQUASH_MSG").exists()


def apply_trailers(
    message_file: str | os.PathLike[str], state: MergeState, repository: Repository
) -> bool:
    """Put the state's trailers into a commit message, in the place of older ones.

    A model that is in the index with other content than the strategy gave it (the user resolved
    it by hand) loses its lines; where no model is left the message stays as it is. Returns
    whether trailers were written.
    """
    lines = _true_lines(state, repository)
    if not lines:
        return False
    path = Path(message_file)
    # Latin-1 is reversible for any bytes: a message may be in any encoding.
    text = _without_record(path.read_bytes().decode("latin-1"))
    if text and not text.endswith("\n"):
        # Without it Git 2.39 glues the first trailer to the title.
        text += "\n"
    path.write_bytes(text.encode("latin-1"))
    repository.run(
        "interpret-trailers",
        "--in-place",
        "--no-divider",
        "--where=end",
        "--if-exists=addIfDifferent",
        "--if-missing=add",
        *(argument for line in lines for argument in ("--trailer", line)),
        os.fspath(path.absolute()),
    )
    return True


def drop_copied(message_file: str | os.PathLike[str], repository: Repository) -> bool:
    """Take the record of a merge out of a message that came with another commit's changes, as of
    ``git cherry-pick -m 1`` or a rebase, unless the models to be committed are those of the record.

    Returns whether anything was left out.
    """
    path = Path(message_file)
    text = path.read_bytes().decode("latin-1")
    named = [line.partition(": ")[2] for line in text.split("\n") if line.startswith(f"{MODEL}: ")]
    if not named:
        return False  # the usual commit: not a byte of its message is touched
    try:
        models = [(blob, unquoted(model)) for blob, _, model in (n.partition(" ") for n in named)]
    except ValueError:
        models = []
    if models and all(repository.blob_id("", model) == blob for blob, model in models):
        return False
    path.write_bytes((_without_record(text).rstrip("\n") + "\n").encode("latin-1"))
    return True


def _without_record(text: str) -> str:
    kept = [line for line in text.split("\n") if not line.startswith(tuple(f"{k}:" for k in KEYS))]
    return "\n".join(kept)


def _true_lines(state: MergeState, repository: Repository) -> list[str]:
    torn = {m.model or m.path for m in state.models if repository.blob_id("", m.path) != m.blob}
    replaced = torn | {m.path for m in state.models if (m.model or m.path) in torn}
    if state.models and replaced >= {m.path for m in state.models}:
        return []
    lines = []
    for line in state.trailers:
        key, _, value = line.partition(": ")
        rest = value.partition(" ")[2]
        if key in (MODEL, SPEC, PARTS) and unquoted(rest) in replaced:
            continue
        if key == RESOLUTION and replaced & set(json.loads(rest)):
            continue
        lines.append(line)
    return lines


def parse(repository: Repository, commit: str) -> list[tuple[str, str]]:
    """The (key, value) pairs of a commit's trailers, in order; GitError for an unknown commit."""
    done = repository.run(
        "log", "-1", "--no-show-signature", "--encoding=UTF-8",
        "--format=%(trailers:only=true,unfold=true,separator=%x00)", commit, "--",
    )  # fmt: skip
    return pairs_of(done.fields)


def pairs_of(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(key, value) of each unfolded line ``Key: value``."""
    pairs = []
    for line in lines:
        key, found, value = line.rstrip("\n").partition(":")
        if found:
            pairs.append((key.strip(), value.strip()))
    return pairs


def read(repository: Repository, commit: str) -> MergeTrailers | None:
    """What a commit says about the model merge that it is, or None where it is none."""
    return MergeTrailers.of(parse(repository, commit))


def merge_of_ours(repository: Repository, commit: str) -> MergeTrailers | None:
    """The trailers of a merge whose recorded model is the one in its tree, else None."""
    merge = read(repository, commit)
    if merge is None:
        return None
    true = any(repository.blob_id(commit, path) == blob for blob, path in merge.models)
    return merge if true else None
