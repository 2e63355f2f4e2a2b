"""What ``gitmerge-eval doctor`` says: what is missing, overridden or left over, and the remedy."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gitmerge_eval import __version__
from gitmerge_eval.errors import GitMergeEvalError
from gitmerge_eval.git import configuration, hooks, note_union, notes, programs, tracking, trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trees import entries
from gitmerge_eval.merging import options

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"
INIT = "run: gitmerge-eval init"
PACKAGES = (
    "torch",
    "numpy",
    "llvmlite",
    "numcodecs",
    "safetensors",
    "git-theta",
    "open_clip_torch",
)
JOURNAL = "gitmerge-eval/journal"
EVALUATION_MODES = ("sync", "background", "off")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: str
    """ok, warning (works, but not as one may expect) or problem."""
    what: str
    remedy: str = ""


def diagnose(repository: Repository | None, *, gpu: bool = False) -> list[Finding]:
    """Everything that matters, from the outside in; without a repository only the machine.

    With ``gpu`` torch is imported and asked whether it can compute on the GPU.
    """
    findings = [*_tools(), *_packages(), _graphics(gpu)]
    if repository is not None and findings[0].status != PROBLEM:
        if configuration.is_installed(repository):
            findings += [*_settings(repository), *_filter(repository), *_hooks(repository)]
        else:
            findings.append(Finding("init", PROBLEM, "this clone has not been set up", INIT))
        findings += [
            *_merge_options(repository),
            *_notes(repository),
            *_work_tree(repository),
            *_leftovers(repository),
        ]
    return findings


def _tools() -> Iterator[Finding]:
    git = programs.version_of("git", "version")
    wanted = programs.dotted(programs.OLDEST_GIT)
    remedy = programs.installation("git")
    if git is None:
        yield Finding("git", PROBLEM, "Git is not on PATH", remedy)
    elif git < programs.OLDEST_GIT:
        what = f"version {programs.dotted(git)} is too old, {wanted} is needed"
        yield Finding("git", PROBLEM, what, remedy)
    else:
        yield Finding("git", OK, f"version {programs.dotted(git)}")
    lfs = programs.version_of("git", "lfs", "version")
    if lfs is None:
        what = "not installed: tensors can be neither fetched nor pushed"
        yield Finding("git-lfs", PROBLEM, what, programs.installation("git-lfs"))
    else:
        yield Finding("git-lfs", OK, f"version {programs.dotted(lfs)}")
    notice = programs.strategy_notice()
    if notice:
        what, _, remedy = notice.partition("; ")
        yield Finding("strategy", PROBLEM, what, remedy)
    else:
        yield from _strategy()


def _strategy() -> Iterator[Finding]:
    found = shutil.which(programs.STRATEGY) or ""
    own = programs.scripts_folder() / programs.STRATEGY
    if own.exists() and Path(found).resolve() != own.resolve():
        what = f"Git will start '{found}', which belongs to another installation than '{own}'"
        yield Finding("strategy", WARNING, what, f"put '{own.parent}' first on PATH")
    else:
        yield Finding("strategy", OK, f"Git finds '{found}'")


def _packages() -> Iterator[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("gitmerge-eval", OK, f"version {__version__} on Python {python}")
    for name in PACKAGES:
        try:
            yield Finding(name, OK, f"version {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            remedy = f"'{sys.executable}' -m pip install {name}"
            yield Finding(name, PROBLEM, "the Python package is not installed", remedy)


def _graphics(ask_torch: bool) -> Finding:
    name = "gpu"
    program = shutil.which("nvidia-smi")
    listed = ""
    if program:
        query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        listed = "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""
    if not ask_torch:
        return Finding(name, OK, listed or "none seen: merges are computed on the CPU")
    import torch

    if torch.cuda.is_available():
        return Finding(name, OK, f"torch computes on {torch.cuda.get_device_name()}")
    if listed:
        what = f"there is {listed}, but this torch ({torch.__version__}) cannot use it"
        return Finding(name, WARNING, what, "install a torch built for the driver's CUDA version")
    return Finding(name, OK, "none: merges are computed on the CPU")


def _settings(repository: Repository) -> Iterator[Finding]:
    wrong = 0
    for setting in configuration.settings(repository):
        finding = _setting(repository, setting)
        if finding is not None:
            wrong += 1
            yield finding
    if not wrong:
        yield Finding("configuration", OK, "all values are as they should be")
    mode = repository.setting(configuration.EVALUATE)
    if mode not in (None, *EVALUATION_MODES):
        what = f"'{mode}' is none of {', '.join(EVALUATION_MODES)}"
        yield Finding(
            configuration.EVALUATE, PROBLEM, what, f"git config {configuration.EVALUATE} sync"
        )
    try:
        options.parse([], options.settings(repository))
    except GitMergeEvalError as error:
        what = f"a plain 'git merge' of models fails: {error}"
        yield Finding("merge-eval", PROBLEM, what, "git config --get-regexp '^merge-eval' lists it")


def _setting(repository: Repository, setting: configuration.Setting) -> Finding | None:
    """What is wrong with a setting, or None."""
    local = configuration.local_values(repository, setting.key)
    missing = [value for value in setting.values if value not in local]
    if missing or (setting.alone and local != setting.values):
        now = " and ".join(local) or "not set"
        what = f"is {now} and should be {' and '.join(setting.values)}"
        return Finding(setting.key, PROBLEM, what, INIT)
    scope, value = _effective(repository, setting.key)
    if setting.alone and value != setting.values[-1]:
        return Finding(
            setting.key,
            PROBLEM,
            f"is set to '{value}' by the {scope} configuration, which overrides the clone's",
            f"unset it there ('git config --show-origin --get-all {setting.key}' names the place)",
        )
    return None


def _effective(repository: Repository, key: str) -> tuple[str, str]:
    """Scope and value that count for a key: the last ones Git reads."""
    fields = os.fsdecode(
        repository.run("config", "--show-scope", "-z", "--get-all", key, check=False).stdout
    ).split("\0")
    return (fields[-3], fields[-2]) if len(fields) > 2 else ("", "")


def _filter(repository: Repository) -> Iterator[Finding]:
    process = repository.setting("filter.theta.process")
    clean = repository.setting("filter.theta.clean") or ""
    if process == "":
        what = "is empty, which makes every 'git add' of a checkpoint fail"
        yield Finding("filter", PROBLEM, what, INIT)
    elif "git-theta-filter" in clean:
        what = "checkpoints go through git-theta's own filter, which cannot push merges"
        yield Finding("filter", PROBLEM, what, INIT)
    for key in ("filter.theta.process", "merge.theta.driver"):
        command = repository.setting(key)
        if command and not shutil.which(shlex.split(command.replace("%%", "%"))[0]):
            what = f"the program of '{command}' is not there"
            yield Finding(key, PROBLEM, what, INIT)


def _merge_options(repository: Repository) -> Iterator[Finding]:
    """Branches whose own merge options take the strategy or an explicit method out of play."""
    lines = repository.run(
        "config", "-z", "--get-regexp", r"^branch\..*\.mergeoptions$", check=False
    )
    for line in lines.fields:
        key, _, value = line.partition("\n")
        words = value.split()
        if any(
            word in ("--ff", "--ff-only") or word.startswith(("-s", "--strategy="))
            for word in words
        ):
            what = f"is '{value}', which can keep 'git merge' from merging checkpoints on it"
            yield Finding(key, WARNING, what, f"git config --unset {shlex.quote(key)}")


def _hooks(repository: Repository) -> Iterator[Finding]:
    states = {event: hooks.state(repository, event) for event in hooks.EVENTS}
    folder = hooks.folder(repository)
    alien = [event for event in hooks.EVENTS if hooks.is_git_theta(folder / event)]
    missing = [event for event in states if states[event] == "absent" and event not in alien]
    outdated = [event for event in states if states[event] == "outdated"]
    if alien:
        what = f"git-theta's own {_listed(alien)} is back; it refuses to push merges"
        yield Finding("hooks", PROBLEM, what, INIT)
    if missing:
        what = f"{_listed(missing)} missing or overwritten by another program"
        yield Finding("hooks", PROBLEM, what, INIT)
    if outdated:
        what = f"{_listed(outdated)} of another version or installation"
        yield Finding("hooks", WARNING, what, INIT)
    if not (alien or missing or outdated):
        yield Finding("hooks", OK, f"{_listed(hooks.EVENTS)} are in place")
    path = repository.setting("core.hooksPath")
    if path:
        what = f"core.hooksPath is '{path}': Git looks for hooks there and nowhere else"
        yield Finding("core.hooksPath", OK, what)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names)


def _notes(repository: Repository) -> Iterator[Finding]:
    for key, spec in configuration.overwriting(repository):
        yield Finding(
            key,
            WARNING,
            f"'{spec}' makes 'git fetch' throw away the results that are only in this clone",
            f"git config --unset --fixed-value {shlex.quote(key)} {shlex.quote(spec)}",
        )
    for ref in note_union.apart(repository):
        name = ref.removeprefix("refs/notes/")
        yield Finding(
            "notes",
            WARNING,
            f"results fetched as '{name}' are not united with this clone's",
            f"run: gitmerge-eval notes sync {name.removesuffix(f'/{notes.NAME}')}",
        )


def _work_tree(repository: Repository) -> Iterator[Finding]:
    models = tracking.tracked(repository)
    raw = tracking.raw(repository)
    if raw:
        what = f"{len(raw)} of {len(models)} checkpoints are raw metadata in the work tree"
        yield Finding("checkpoints", PROBLEM, what, INIT)
    elif models:
        yield Finding("checkpoints", OK, f"{len(models)} tracked")
        yield from _objects(repository, models)
        yield from _parts(repository, models)
        yield from _shown_as_text(repository, models)
    else:
        yield Finding(
            "checkpoints",
            OK,
            "none is tracked; 'gitmerge-eval track model.safetensors' makes a file one",
        )
    if repository.git_directory != repository.common_directory:
        what = f"a linked work tree of '{repository.common_directory}'"
        yield Finding("work tree", OK, what)


def _shown_as_text(repository: Repository, models: Mapping[str, str]) -> Iterator[Finding]:
    """The checkpoints that 'git diff' shows as the JSON that Git stores."""
    drivers = repository.attribute("diff", models)
    plain = [path for path in models if drivers.get(path) != "theta"]
    if plain:
        more = f" and {len(plain) - 1} more" if len(plain) > 1 else ""
        yield Finding(
            "diff",
            WARNING,
            f"'git diff' shows '{plain[0]}'{more} as JSON: without the attribute diff=theta",
            f"run: gitmerge-eval track {shlex.quote(plain[0])}",
        )


def _objects(repository: Repository, models: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the tensors of the checkpoints in the index are in this clone."""
    from gitmerge_eval.checkpoints.lfs import ObjectStore
    from gitmerge_eval.checkpoints.metadata import Metadata, is_metadata

    store = ObjectStore(repository)
    for path, blob in models.items():
        content = repository.blob(blob)
        if not is_metadata(content):
            yield Finding(
                path,
                PROBLEM,
                "was committed as an ordinary file, before it was tracked",
                f"git add --renormalize {shlex.quote(path)} && git commit",
            )
            continue
        groups = Metadata.parse(content).groups.values()
        absent = store.missing(record.object_id for record in groups)
        if absent:
            yield Finding(
                path,
                WARNING,
                f"{len(absent)} of its {len(groups)} tensors are not in this clone "
                "('git lfs prune' deletes what it does not know)",
                "they are fetched when they are needed, if the remote has them",
            )


def _parts(repository: Repository, models: Mapping[str, str]) -> Iterator[Finding]:
    """Whether shards fit their index in HEAD, and adapters their configuration."""
    from gitmerge_eval.checkpoints.metadata import is_metadata
    from gitmerge_eval.checkpoints.sharded import is_index
    from gitmerge_eval.checkpoints.statistics_index import is_statistic
    from gitmerge_eval.merging.models import Models
    from gitmerge_eval.merging.sources import open_source

    if not repository.succeeds("rev-parse", "--verify", "--quiet", "HEAD"):
        return
    files = entries(repository, "HEAD")
    paths = {path for path in models if path in files and not is_statistic(path)}
    remedy = "bring its files to what was saved together, and commit them"
    try:
        grouped = Models(repository).group(paths, [files])
    except GitMergeEvalError as error:
        yield Finding("checkpoints", PROBLEM, str(error), remedy)
        return
    for model in sorted(grouped):
        if is_index(model) or is_metadata(repository.blob(files[model].object_id)):
            try:
                open_source(repository, "HEAD", model, "HEAD")
            except GitMergeEvalError as error:
                yield Finding(model, PROBLEM, str(error), remedy)


def _leftovers(repository: Repository) -> Iterator[Finding]:
    journal = repository.path(JOURNAL)
    if journal.exists():
        yield Finding(
            "interrupted merge",
            PROBLEM,
            f"a merge (process {_process(journal)}) was killed while it wrote to the work tree",
            "start the merge again: it first undoes what was left ('git status' shows it); where "
            "Git refuses because of unmerged files, run 'git reset --merge' before",
        )
    heads = trailers.merge_heads(repository)
    parents = repository.run("rev-parse", "HEAD^@", check=False).text.split()
    if heads and set(heads) <= set(parents):
        yield Finding(
            "finished merge",
            PROBLEM,
            "the merge is committed, but Git believes that it is under way (an interrupted hook "
            "does that), and 'git commit' would commit it twice",
            "run: git merge --quit",
        )
        return
    state = trailers.read_state(repository)
    if state is not None and not trailers.is_current(repository, state):
        if heads or state.squash:
            return
        what = "the record of a merge that was given up is still there"
        yield Finding("merge state", OK, f"{what}; the next commit removes it")
    elif state is not None:
        yield Finding(
            "merge state",
            WARNING,
            "a merge of checkpoints waits to be committed",
            "conclude it with 'git commit', or give it up with 'git merge --abort'",
        )


def _process(journal: Path) -> str:
    try:
        return str(json.loads(journal.read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
