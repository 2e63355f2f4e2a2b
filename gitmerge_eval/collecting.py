"""Computes statistics of the checkpoint in the work tree and stores them beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gitmerge_eval import benchmarks, statistics
from gitmerge_eval.checkpoints import bridge, statistics_index
from gitmerge_eval.checkpoints.checkpoint import Checkpoint, clean
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsWriter
from gitmerge_eval.checkpoints.sharded import ShardIndex, is_index, unite
from gitmerge_eval.checkpoints.statistics_index import Index, StatisticEntry
from gitmerge_eval.errors import (
    EvaluationError,
    GitMergeEvalError,
    InvalidOption,
    MergeRefused,
    MissingBase,
    UnknownName,
    UsageError,
)
from gitmerge_eval.evaluation.declarations import (
    CONSTITUENTS_FOLDER,
    BenchmarkDeclaration,
    ConstituentDeclaration,
    benchmark_in,
    constituents_in,
)
from gitmerge_eval.evaluation.evaluating import resolved_device
from gitmerge_eval.evaluation.resolving import benchmark_of
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.tracking import merge_by_driver, track, tracked
from gitmerge_eval.git.trees import Entry, identities_of_files
from gitmerge_eval.merging.models import Models, shard_paths
from gitmerge_eval.merging.sources import Source, open_source
from gitmerge_eval.records import Benchmark, StatisticFile

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Collected:
    """The statistics written for one checkpoint."""

    checkpoint: str
    blob: str
    files: tuple[str, ...]
    """Paths that belong into the next commit."""


def collect(
    repository: Repository,
    kinds: Sequence[str],
    *,
    constituent: str | None = None,
    base: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Progress = lambda what, done, total: None,
) -> Collected:
    """Compute ``kinds`` for the work tree's checkpoint, bound to that very checkpoint.

    fisher and gram run the constituent's benchmark on its training data; trimmed needs the base's
    checkpoint (``base``, ``merge-eval.base``, or the merge base with the default branch). Each
    kind takes those of ``options`` that it knows. Raises UnknownName, InvalidOption, UsageError,
    MissingBase, CheckpointError or EvaluationError; nothing is written unless all kinds could be
    computed.
    """
    chosen = _options_by_kind(kinds, options or {})
    declared = statistics.load()
    needs_data = any(declared[kind].needs_data for kind in kinds)
    declaration = _declaration(repository, constituent, needed=needs_data)
    path = declaration.checkpoint if declaration else _only_checkpoint(repository)
    store = ObjectStore(repository)
    blob = checkpoint_blob(repository, store, path)
    found = [
        # First: it is the quick one, and the one whose base may be missing.
        trimmed(repository, store, path, blob, _base(repository, base), **chosen[kind])
        for kind in kinds
        if not declared[kind].needs_data
    ]
    benchmark = _benchmark(repository, declaration) if declaration and needs_data else None
    # Before they are used: what changes meanwhile was not what the statistics are of.
    companions = companions_of(repository, path, benchmark) if benchmark else {}
    for kind in kinds:
        if declaration and benchmark and declared[kind].needs_data:
            found.append(
                _measured(
                    benchmark,
                    kind,
                    repository.directory / path,
                    declaration.task,
                    options=chosen[kind],
                    settings=_settings(repository).settings,
                    device=resolved_device(repository, device),
                    progress=partial(progress, f"{kind} of {path}"),
                )
            )
    return Collected(path, blob, write_statistics(repository, path, blob, found, companions))


def companions_of(repository: Repository, path: str, benchmark: Benchmark) -> dict[str, str]:
    """What the benchmark needs beside the checkpoint ``path``, as the work tree has it: path from
    the checkpoint's folder -> Git object id, '' where it is missing."""
    folder = PurePosixPath(path).parent
    names = {str(folder / name): name for name in benchmark.companions}
    return {
        names[where]: identity for where, identity in identities_of_files(repository, names).items()
    }


def _benchmark(repository: Repository, constituent: ConstituentDeclaration) -> Benchmark:
    declaration = _settings(repository)
    if declaration.own and declaration.name == constituent.benchmark:
        return benchmark_of(repository, declaration)
    return benchmarks.get(constituent.benchmark)


def _measured(benchmark: Benchmark, kind: str, *arguments: Any, **how: Any) -> StatisticFile:
    """What the benchmark gives, or an EvaluationError in a line: it may raise anything."""
    try:
        return benchmark.collect(kind, *arguments, **how)
    except GitMergeEvalError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"benchmark '{benchmark.name}' could not compute '{kind}': "
            f"{type(error).__name__}: {error}"
        ) from error


def _options_by_kind(kinds: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    declared = statistics.load()
    for kind in kinds:
        if kind not in declared:
            raise UnknownName.among("statistic", kind, declared)
    known = {name for kind in kinds for name in declared[kind].options}
    for name in options:
        if name not in known:
            raise UnknownName.among(f"option of {', '.join(kinds)}", name, known)
    return {
        kind: {name: value for name, value in options.items() if name in declared[kind].options}
        for kind in kinds
    }


def checkpoint_blob(repository: Repository, store: ObjectStore, path: str) -> str:
    """The object id that the work tree's checkpoint gets when it is added, computed now."""
    if not (repository.directory / path).is_file():
        raise UsageError(f"there is no checkpoint '{path}' in the work tree; save the model there")
    if not is_index(path):
        return repository.write_blob(_cleaned(repository, store, path))
    index = ShardIndex.parse((repository.directory / path).read_bytes(), path)
    parts = {
        PurePosixPath(shard).name: Metadata.parse(_cleaned(repository, store, shard))
        for shard in shard_paths(path, index)
        if (repository.directory / shard).is_file()
    }
    return repository.write_blob(unite(index, parts).serialize())


def _cleaned(repository: Repository, store: ObjectStore, path: str) -> bytes:
    known = [repository.blob_id(revision, path) for revision in ("", "HEAD")]
    previous = [Metadata.parse(repository.blob(b)) for b in dict.fromkeys(known) if b]
    return clean(repository.directory / path, store, previous)


def trimmed(
    repository: Repository,
    store: ObjectStore,
    path: str,
    blob: str,
    base: str,
    density: float = 0.2,
) -> StatisticFile:
    """The task vector against ``base:path``, cut to the largest ``density`` of its elements.

    Raises MissingBase where ``base`` has no such checkpoint, or the very same one, and
    InvalidOption for a density outside (0, 1].
    """
    from gitmerge_eval.statistics.trimmed import trim

    if not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise InvalidOption(f"option 'density' is '{density}', which is not a number in (0, 1]")
    source = _fine_tuned_from(repository, path, blob, base)
    base_blob = source.blob
    own = Checkpoint(Metadata.parse(repository.blob(blob)), store)
    original = Checkpoint(source.metadata, store)
    changed = [
        name
        for name, record in own.groups.items()
        if (known := original.groups.get(name))
        and (known.shape, known.dtype) == (record.shape, record.dtype)
        and known.object_id != record.object_id
    ]

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        for name in changed:
            yield name, bridge.to_torch(original.read(name)), bridge.to_torch(own.read(name))

    vectors = trim(pairs, float(density))
    return StatisticFile(
        "trimmed",
        vectors,
        {name: {"key": name} for name in vectors},
        examples=0,
        tokens=0,
        data=f"task vector from {repository.commit(base)[:10]}",
        fingerprint=base_blob,
        options={"density": float(density), "base": base_blob},
    )


def _fine_tuned_from(repository: Repository, path: str, blob: str, base: str) -> Source:
    try:
        source = open_source(repository, base, path, base[:10])
    except MergeRefused:
        raise MissingBase(
            f"'{base}' has no '{path}'; name the base with --base=<revision>"
        ) from None
    if source.adapter:
        raise UsageError(
            f"'{path}' is an adapter, whose changes are few already: TIES needs no 'trimmed'"
        )
    if source.blob == blob:
        raise MissingBase(
            f"'{path}' is the same as in '{base[:10]}', so that there is no task vector; name the "
            "model that it was fine-tuned from with --base=<revision>"
        )
    return source


def write_statistics(
    repository: Repository,
    path: str,
    blob: str,
    files: Sequence[StatisticFile],
    companions: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Write the statistics of the checkpoint ``path`` (object ``blob``) and their index.

    Those that were measured on data are bound to the ``companions``, too.
    The files are ordinary tracked safetensors files; the paths returned are to be committed.
    """
    folder = repository.directory / PurePosixPath(path).parent / statistics_index.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    index_file = repository.directory / statistics_index.index_path(path)
    index: Index = statistics_index.parse(index_file.read_bytes()) if index_file.exists() else {}
    entries = index.setdefault(PurePosixPath(path).name, {})
    written = []
    for file in files:
        target = statistics_index.statistic_path(path, file.kind)
        _write_tensors(repository.directory / target, file)
        entries[file.kind] = StatisticEntry(
            path=PurePosixPath(target).name,
            checkpoint=blob,
            data=file.data,
            fingerprint=file.fingerprint,
            examples=file.examples,
            tokens=file.tokens,
            options=dict(file.options),
            layout={group: dict(layout) for group, layout in file.layout.items()},
            version=file.version,
            companions=dict(companions or {}) if statistics.get(file.kind).needs_data else {},
        )
        written.append(target)
    index_file.write_bytes(statistics_index.serialize(index))
    pattern = str(PurePosixPath(path).parent / statistics_index.FOLDER / "*.safetensors")
    if any(value != "theta" for value in repository.attribute("filter", written).values()):
        track(repository, pattern)
    merge_by_driver(repository, statistics_index.index_path(path))
    return (*written, statistics_index.index_path(path), ".gitattributes")


def _write_tensors(target: Path, file: StatisticFile) -> None:
    arrays = {key: bridge.to_numpy(tensor.cpu()) for key, tensor in file.tensors.items()}
    layout = {key: (array.shape, str(array.dtype)) for key, array in arrays.items()}
    with SafetensorsWriter(target, layout, {}) as writer:
        for key, array in arrays.items():
            writer.write(key, array)


def _declaration(
    repository: Repository, name: str | None, *, needed: bool
) -> ConstituentDeclaration | None:
    """Whose statistics these are: as named, the branch's own, or the only one there is."""
    found = {d.name: d for d in constituents_in(repository.directory).values()}
    if name is not None:
        if name not in found:
            raise UnknownName.among("constituent", name, found)
        return found[name]
    branch = repository.run("symbolic-ref", "--short", "--quiet", "HEAD", check=False).text
    if branch in found or len(found) == 1:
        return found.get(branch) or next(iter(found.values()))
    if not needed:
        return None
    if not found:
        raise UsageError(
            f"there is no {CONSTITUENTS_FOLDER}/<name>.toml, so it is not known which data this "
            "model was trained on; write one with name, benchmark, task and checkpoint"
        )
    raise UsageError(
        f"there are several constituents ({', '.join(sorted(found))}); choose one with "
        "--constituent=<name>"
    )


def _only_checkpoint(repository: Repository) -> str:
    known = tracked(repository)
    files = {path: Entry("100644", blob) for path, blob in known.items()}
    for line in repository.run("ls-files", "--stage", "-z", "--", "*.json").fields:
        meta, path = line.split("\t", 1)
        files[path] = Entry(*meta.split()[:2])
    own = [path for path in known if not statistics_index.is_statistic(path)]
    paths = sorted(Models(repository).group(own, [files]))
    if len(paths) != 1:
        raise UsageError(
            f"there are {len(paths)} tracked checkpoints; say which one is meant by a file "
            f"{CONSTITUENTS_FOLDER}/<name>.toml with name, benchmark, task and checkpoint"
        )
    return paths[0]


def _settings(repository: Repository) -> BenchmarkDeclaration:
    declaration = benchmark_in(repository.directory)
    if declaration is None:
        raise UsageError("there is no benchmark.toml in the work tree; write one")
    return declaration


def _base(repository: Repository, revision: str | None) -> str:
    named = revision or repository.setting("merge-eval.base")
    if named:
        return repository.commit(named)
    for branch in ("origin/HEAD", "main", "master", "origin/main", "origin/master"):
        found = repository.run("merge-base", "HEAD", branch, check=False)
        if found.status == 0:
            return found.text
    raise MissingBase("no base is known for the task vector; name it with --base=<revision>")
