"""What a worker of a cluster does: find the repository on its node, compute candidates, score.

Workers get descriptions (commits, paths, options) and run what is installed there; no function and
no file of a branch reaches them. Everything may be started again from the beginning.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval import __version__
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration
from gitmerge_eval.evaluation.evaluating import FOLDER
from gitmerge_eval.evaluation.resolving import benchmark_of
from gitmerge_eval.evaluation.results import Score
from gitmerge_eval.evaluation.scoring import scores_of
from gitmerge_eval.evaluation.subjects import Model
from gitmerge_eval.evaluation.workspace import Workspace, remove_stale
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.candidates import PassCost
from gitmerge_eval.merging.devices import Resources, available_bytes
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source, open_source
from gitmerge_eval.studies.executor import computed

LEAST_BYTES = 1 << 28
"""What a pass may take in any case."""


@dataclass(frozen=True)
class Site:
    """Where a study's repository and its working folder are, and how another node gets them."""

    directory: str
    folder: str
    """A node that sees this folder works in it, and with the repository itself."""
    remote: str
    """What other nodes clone and fetch from; '' where there is no remote."""
    elsewhere: str
    """Where they have the clone; '' is a folder of the user's cache."""


@dataclass(frozen=True)
class Node:
    """What a node is like."""

    name: str
    version: str
    shares: bool
    """Whether it sees the study's working folder."""
    free_bytes: int


@dataclass(frozen=True)
class Version:
    """One version of the model: what :func:`open_source` is told."""

    commit: str
    path: str
    label: str

    @classmethod
    def of(cls, source: Source) -> Version:
        """The description of an opened one."""
        return cls(source.commit, source.path, source.label)


@dataclass(frozen=True)
class PassOrder:
    """Candidates to compute in one pass."""

    path: str
    method: str
    parameter: str | None
    exact: bool
    base: Version | None
    sources: tuple[Version, ...]
    references: tuple[str, ...]
    """Commits that options name."""
    accumulate: str
    options: tuple[tuple[tuple[str, str], ...], ...]
    """Of each candidate, as text."""
    specs: tuple[str, ...]
    """The digests that the merges must have."""
    device: str
    memory: str
    workers: int


@dataclass(frozen=True)
class Made:
    """A computed pass."""

    node: str
    """Ray's id of the node that has the files."""
    shares: bool
    files: tuple[tuple[str, str], ...]
    """(file, blob) of each candidate."""
    cost: PassCost


@dataclass(frozen=True)
class ScoreOrder:
    """One model to score on one task."""

    declaration: BenchmarkDeclaration
    path: str
    model: Model
    task: str
    split: str
    fingerprint: str
    """Of the task's data; a node that has others must not score."""
    device: str


@dataclass(frozen=True)
class Scored:
    """A score, and what the benchmark kept of it: path -> content."""

    score: Score
    outputs: Mapping[str, bytes]


def look(site: Site, name: str) -> Node:
    """Whether this node can work, and how; errors as of :func:`_opened`."""
    _, folder, shares = _opened(site)
    return Node(name, __version__, shares, shutil.disk_usage(folder).free)


def compute(site: Site, order: PassOrder) -> Made:
    """The candidates' files, in a folder that no other attempt uses.

    Raises what planning and computing raise, and EvaluationError where this node would compute
    another merge.
    """
    repository, folder, shares = _opened(site)
    versions = [v for v in (order.base, *order.sources) if v]
    _get(repository, site, [*(version.commit for version in versions), *order.references])
    plans = list(_plans(repository, order))
    own = Path(tempfile.mkdtemp(dir=folder))
    memory = order.memory
    if memory == "auto":  # others compute on this node at the same time
        share = available_bytes() // 2 * order.workers // (os.cpu_count() or order.workers)
        memory = str(max(share, LEAST_BYTES))
    try:
        files, cost = computed(
            plans,
            order.parameter,
            exact=order.exact,
            repository=repository,
            folder=own,
            resources=Resources(order.device, memory, order.workers),
        )
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise
    node = importlib.import_module("ray").get_runtime_context().get_node_id()
    return Made(node, shares, tuple((os.fspath(f.file), f.blob) for f in files), cost)


def score(site: Site, order: ScoreOrder) -> Scored | None:
    """The score of one model on one task; None where its file has gone with a node.

    Raises what evaluating raises, and EvaluationError where this node has other data.
    """
    repository, folder, _ = _opened(site)
    model = order.model
    if model.file is not None and not model.file.is_file():
        return None
    benchmark = benchmark_of(repository, order.declaration)
    settings = order.declaration.settings
    if benchmark.fingerprint(order.task, order.split, settings=settings) != order.fingerprint:
        raise EvaluationError(
            f"a node of the cluster has other data for the task '{order.task}' ({order.split}) "
            "than this machine; copy the same data to all nodes"
        )
    if model.file is None:
        _get(repository, site, [model.blob, *model.companions.blobs.values()])
    evaluated = folder / "evaluated"
    evaluated.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as kept:
        (found,) = scores_of(
            model,
            (order.task,),
            benchmark,
            settings,
            Workspace(repository, evaluated),
            order.path,
            split=order.split,
            device=order.device,
            outputs={order.task: Path(kept)},
            relay=lambda task, done, total: None,
        ).values()
        return Scored(found, dict(_contents(Path(kept))))


def forget(files: Iterable[str]) -> None:
    """Remove candidates that have been scored."""
    for file in files:
        shutil.rmtree(Path(file).parent, ignore_errors=True)


def leave(site: Site) -> None:
    """Remove what this study has on a node that does not share its folder."""
    shutil.rmtree(_candidates(Repository(_clone_folder(site)), site), ignore_errors=True)


def _opened(site: Site) -> tuple[Repository, Path, bool]:
    """(the repository, a folder for this study, whether it is the study's own) on this node.

    Raises EvaluationError where there is no way to the repository.
    """
    os.environ["GIT_TERMINAL_PROMPT"] = "0"  # nobody would answer
    folder = Path(site.folder)
    if folder.is_dir():
        return Repository(site.directory), folder, True
    clone = _clone_folder(site)
    clone.parent.mkdir(parents=True, exist_ok=True)
    with _locked(clone):
        if not (clone / ".git").exists() and not (clone / "HEAD").exists():
            _make_clone(site, clone)
    repository = Repository(clone)
    own = _candidates(repository, site)
    if not own.is_dir():
        own.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(own.parent)
        own.mkdir(exist_ok=True)
    os.utime(own)
    return repository, own, False


def _clone_folder(site: Site) -> Path:
    if site.elsewhere:
        return Path(site.elsewhere).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(site.remote.encode()).hexdigest()[:16]
    return Path(cache) / FOLDER / "repositories" / name


def _candidates(repository: Repository, site: Site) -> Path:
    return repository.common_directory / FOLDER / "candidates" / Path(site.folder).name


def _make_clone(site: Site, clone: Path) -> None:
    where = f"the node '{os.uname().nodename}' does not see '{site.directory}'"
    if not site.remote:
        raise EvaluationError(
            f"{where}, and the repository has no remote to clone; add one, or put a clone on the "
            "node and name it with --repository-on-nodes"
        )
    # No checkout: a work tree would fetch every model of one branch.
    arguments = ("clone", "--quiet", "--no-checkout", "--", site.remote, os.fspath(clone))
    done = Repository(clone.parent).run(*arguments, check=False)
    if done.status:
        shutil.rmtree(clone, ignore_errors=True)
        raise EvaluationError(
            f"{where}, and '{site.remote}' cannot be cloned there ({done.stderr}); put a clone on "
            "the node and name it with --repository-on-nodes"
        )


@contextmanager
def _locked(clone: Path) -> Iterator[None]:
    """Workers of one node make, and fetch into, one clone after the other."""
    with clone.with_name(f"{clone.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _get(repository: Repository, site: Site, objects: Iterable[str]) -> None:
    """Have Git's objects here; EvaluationError for those that the remote does not have either."""
    if Path(site.folder).is_dir():
        return
    missing = _missing(repository, objects)
    if missing and site.remote:
        with _locked(Path(repository.directory)):
            # All that the remote has: an object may be on any branch of it.
            done = repository.run(
                *("fetch", "--quiet", "--no-tags", site.remote),
                *(f"+refs/{kind}/*:refs/gitmerge-eval/{kind}/*" for kind in ("heads", "tags")),
                check=False,
            )
        missing = _missing(repository, missing)
        if missing:
            reason = f" ({done.stderr})" if done.status else ""
            raise EvaluationError(
                f"the node '{os.uname().nodename}' cannot have the object {missing[0][:10]}: "
                f"'{site.remote}' does not have it{reason}; push the branches that take part"
            )
    if missing:
        raise EvaluationError(
            f"the clone '{repository.directory}' on the node '{os.uname().nodename}' lacks the "
            f"object {missing[0][:10]}; fetch the branches that take part there"
        )


def _missing(repository: Repository, objects: Iterable[str]) -> list[str]:
    return [
        name for name in dict.fromkeys(objects) if not repository.succeeds("cat-file", "-e", name)
    ]


def _plans(repository: Repository, order: PassOrder) -> Iterator[CheckpointPlan]:
    """The plans that the order describes, each checked to be the very merge that is wanted."""
    opened = [
        open_source(repository, one.commit, one.path, one.label) if one else None
        for one in (order.base, *order.sources)
    ]
    base, *sources = opened
    for options, spec in zip(order.options, order.specs, strict=True):
        chosen = merge_options.parse([("method", order.method), *options])
        present = [source for source in sources if source]
        plan = plan_checkpoint(repository, order.path, chosen, base, present, order.accumulate)
        if plan.spec.digest != spec:
            raise EvaluationError(
                f"the node '{os.uname().nodename}' would compute another merge of '{order.path}' "
                f"by '{order.method}'; install there the versions of gitmerge-eval and of its "
                "methods that this machine has"
            )
        yield plan


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes()
