"""Studies on a Ray cluster: the results of this process, whatever dies on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from evaluated_repositories import PLAIN
from test_sweeping import HEADS, command, sweep, template  # noqa: F401

from gitmerge_eval import scaling
from gitmerge_eval.errors import EvaluationError, InvalidOption, MissingObject
from gitmerge_eval.merging.candidates import compute_candidates
from gitmerge_eval.merging.devices import Resources
from gitmerge_eval.studies import cluster, connecting, on_node
from gitmerge_eval.studies.executor import Where
from gitmerge_eval.studies.planner import Planner

ray = pytest.importorskip("ray")
pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own: sockets, forks, deprecations
RAY = Where("ray")
METHODS = ("average", "task-arithmetic", "dare")
FEW = {
    "methods": METHODS[:2],
    "grid": ("task-arithmetic.scale=0.2,0.4,0.6,0.8",),
}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster of two nodes, each with one CPU, on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        patch.setenv("PYTHONPATH", str(PLAIN))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PLAIN_SECONDS", "0.05")
        # A dead node is noticed after 5 s instead of 15.
        noticing = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
        quiet = {"num_cpus": 1, "include_dashboard": False, "_system_config": noticing}
        made = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=quiet)
        made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def evaluated(template, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    found = template.copy(tmp_path / "repository")
    monkeypatch.setenv("PLAIN_LOG", str(found.log))
    return found


def comparable(found):
    """All but what was measured by a clock."""
    text = json.dumps(found.as_dict(), sort_keys=True)
    measured = r'"(seconds|evaluation_seconds|peak_memory_bytes|recorded)": ("[^"]*"|[0-9.e-]+)'
    return json.loads(re.sub(measured, r'"\1": 0', text))


@pytest.fixture(scope="module")
def few(template, tmp_path_factory):  # noqa: F811
    """The sweep of a few candidates in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        return sweep(template.copy(tmp_path_factory.mktemp("here") / "repository"), **FEW)


def left_behind(evaluated):
    folder = evaluated.repository.common_directory / "gitmerge-eval"
    return list(folder.glob("run-*"))


def test_a_sweep_is_the_same_on_a_cluster(evaluated, two_workers, tmp_path):
    other = evaluated.copy(tmp_path / "other")
    seen = []
    grid = (*FEW["grid"], "dare.drop-rate=0.1,0.5")
    ours = sweep(evaluated, methods=METHODS, grid=grid, where=RAY, watch=seen.append)
    assert comparable(ours) == comparable(sweep(other, methods=METHODS, grid=grid))
    assert ours.computed == 7
    assert {step.method for step in seen} == {"", *METHODS}
    assert [step.done for step in seen if step.run] == list(range(1, 8))
    assert seen[-1].remaining_seconds is not None
    assert left_behind(evaluated) == []
    again = sweep(evaluated, methods=METHODS, grid=grid, where=RAY)
    assert again.computed == 0


def test_a_scaling_is_the_same_on_a_cluster(evaluated, two_workers, tmp_path):
    other = evaluated.copy(tmp_path / "other")
    heads, settings = (*HEADS, "tool-sketch"), {"methods": ("average",), "samples": 3}

    def scale(which, **more):
        return scaling.scale(
            which.repository, heads, scaling.Settings(device="cpu", **settings, **more)
        )

    ours, theirs = scale(evaluated, where=RAY), scale(other)
    assert comparable(ours) == comparable(theirs)


def test_candidates_have_the_bytes_of_this_process(evaluated, two_workers, tmp_path, monkeypatch):
    real, ours = cluster.Cluster._send, {}

    def send(self, model, task, scorer, node=None):
        if model.file is not None:
            ours[model.identity.removeprefix("merge:")] = model.file.read_bytes()
        return real(self, model, task, scorer, node)

    monkeypatch.setattr(cluster.Cluster, "_send", send)
    sweep(evaluated, **FEW, where=RAY)
    planner = Planner(evaluated.repository, HEADS)
    values = ("0.2", "0.4", "0.6", "0.8")
    plans = [planner.plan("task-arithmetic", {"scale": value}) for value in values]
    files, _ = compute_candidates(plans, "scale", evaluated.repository, tmp_path)
    for plan, found in zip(plans, files, strict=True):
        assert ours[plan.spec.digest] == found.file.read_bytes()


def workers(name):
    """The processes of our cluster that run the function of this name."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(status[1])
            if (folder / "cmdline").read_bytes().startswith(f"ray::{name}".encode()):
                found.append(int(folder.name))
        except OSError:
            continue

    def is_ours(pid):
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    # A worker's git has the worker's name for a moment, until it is git.
    return [pid for pid in found if is_ours(pid) and parents[pid] not in found]


@pytest.mark.parametrize("name", ["score", "compute"])
def test_a_worker_that_is_killed_changes_nothing(evaluated, two_workers, few, name):
    killed = []

    def kill_two():
        deadline = time.monotonic() + 30
        while len(killed) < 2 and time.monotonic() < deadline:
            for pid in set(workers(name)) - set(killed):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
            time.sleep(0.001)

    killer = threading.Thread(target=kill_two)
    killer.start()
    ours = sweep(evaluated, **FEW, where=RAY)
    killer.join()
    assert len(killed) == 2
    assert comparable(ours) == comparable(few)
    assert left_behind(evaluated) == []


def published(evaluated, tmp_path, *branches):
    """A remote with the branches, or all, and their objects."""
    remote = tmp_path / "remote.git"
    repository = evaluated.repository
    repository.run("init", "--quiet", "--bare", str(remote))
    repository.run("remote", "add", "origin", str(remote))
    repository.run("push", "-q", "origin", *(branches or ["--all"]))
    repository.run("lfs", "push", "--all", "origin")
    return remote


def apart(monkeypatch):
    """Let the nodes be other machines: none sees the study's folder."""
    real = connecting.site

    def site(repository, folder, clone):
        found = real(repository, folder, clone)
        unseen = Path("nowhere") / Path(found.folder).name
        return on_node.Site(found.directory, str(unseen), found.remote, clone)

    monkeypatch.setattr(connecting, "site", site)


def test_other_nodes_get_a_clone_and_keep_their_candidates(
    evaluated, two_workers, few, tmp_path, monkeypatch
):
    published(evaluated, tmp_path)
    apart(monkeypatch)
    clone = tmp_path / "node" / "clone"
    ours = sweep(evaluated, **FEW, where=Where("ray", repository=str(clone)))
    assert comparable(ours) == comparable(few)
    assert list((clone / ".git" / "gitmerge-eval" / "candidates").iterdir()) == []
    assert list((clone / ".git" / "lfs" / "objects").rglob("*"))  # fetched by git-lfs


def test_a_candidate_that_went_with_its_node_is_computed_again(
    evaluated, two_workers, few, monkeypatch
):
    lost, real = [], cluster.Cluster._send

    def send(self, model, task, scorer, node=None):
        if model.file is not None and len(lost) < 2 and model.file not in lost:
            lost.append(model.file)
            model.file.unlink()
        return real(self, model, task, scorer, node)

    monkeypatch.setattr(cluster.Cluster, "_send", send)
    ours = sweep(evaluated, **FEW, where=RAY)
    assert len(lost) == 2
    assert ours.winner.spec == few.winner.spec
    assert ours.computed == few.computed == 5


def test_what_a_node_lacks_is_said_in_a_line(evaluated, two_workers, tmp_path, monkeypatch):
    apart(monkeypatch)
    with pytest.raises(EvaluationError, match=r"no remote to clone.*--repository-on-nodes"):
        sweep(evaluated, **FEW, where=RAY)
    remote = published(evaluated, tmp_path, "main", "fruit-quickdraw")
    clone = str(tmp_path / "clone")
    with pytest.raises(EvaluationError, match="does not have it; push the branches"):
        sweep(evaluated, **FEW, where=Where("ray", repository=clone))
    remote.rename(tmp_path / "gone")
    with pytest.raises(EvaluationError, match="cannot be cloned there"):
        sweep(evaluated, **FEW, where=Where("ray", repository=f"{clone}2"))


def test_errors_of_workers_are_those_of_this_process(evaluated, two_workers):
    with pytest.raises(InvalidOption, match="no GPU"):
        sweep(evaluated, **FEW, where=RAY, resources=Resources("cuda"))
    with pytest.raises(InvalidOption, match="Ray chooses the GPU"):
        sweep(evaluated, **FEW, where=RAY, resources=Resources("cuda:1"))
    objects = evaluated.repository.common_directory / "lfs" / "objects"
    for file in [path for path in objects.rglob("*") if path.is_file()]:
        file.unlink()
    with pytest.raises(MissingObject, match="has no remote"):
        sweep(evaluated, **FEW, where=RAY)


def test_the_command_joins_a_cluster_by_its_address(evaluated, two_workers, few):
    done = command(
        evaluated, "sweep", "--json", "--executor", "ray", "--ray-address", two_workers.address,
        "--methods", ",".join(FEW["methods"]), "--grid", *FEW["grid"], *HEADS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["winner"]["spec"] == few.winner.spec


def test_a_node_that_dies_takes_candidates_with_it_and_changes_nothing(
    evaluated, two_workers, few, tmp_path, monkeypatch
):
    published(evaluated, tmp_path)
    apart(monkeypatch)
    (worker,) = two_workers.worker_nodes
    dead, real = [], cluster.Cluster._call

    def call(self, name, *arguments, node=None, **claims):
        if name == "compute" and not dead:
            node = worker.node_id
        if name == "score" and node is not None and not dead:
            assert node == worker.node_id
            dead.append(node)
            two_workers.remove_node(worker, allow_graceful=False)
        return real(self, name, *arguments, node=node, **claims)

    monkeypatch.setattr(cluster.Cluster, "_call", call)
    where = Where("ray", repository=str(tmp_path / "clone"))
    ours = sweep(evaluated, **FEW, where=where)
    assert dead
    assert ours.computed == 5
    assert [r.scores for r in ours.candidates] == [r.scores for r in few.candidates]
    assert ours.winner.spec == few.winner.spec


def test_the_command_starts_a_cluster_that_imports_nothing_of_the_work_tree(evaluated, few):
    trap = evaluated.repository.directory.parent / "imported"
    for name in ("torch", "numpy", "msgpack", "plain_too"):
        text = f"open({str(trap)!r}, 'a').close()\n"
        (evaluated.repository.directory / f"{name}.py").write_text(text)
    script = Path(sys.executable).parent / "gitmerge-eval"
    arguments = ["sweep", "--json", "--executor", "ray", "--methods", ",".join(FEW["methods"])]
    done = subprocess.run(
        [str(script), *arguments, "--grid", *FEW["grid"], *HEADS],
        cwd=evaluated.repository.directory,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert all(line.startswith("gitmerge-eval: sweep: ") for line in said), done.stderr
    assert json.loads(done.stdout)["winner"]["spec"] == few.winner.spec
    assert not trap.exists()


def test_a_cluster_that_is_not_there(evaluated):
    done = command(
        evaluated, "sweep", "--executor", "ray", "--ray-address", "127.0.0.1:1",
        "--methods", "average", *HEADS,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no Ray cluster" in done.stderr
    assert "needs RAY_AUTH_MODE=token" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_extra_is_named_where_it_is_missing(evaluated, tmp_path):
    (tmp_path / "without" / "ray").mkdir(parents=True)
    (tmp_path / "without" / "ray" / "__init__.py").write_text("raise ModuleNotFoundError('ray')\n")
    path = f"{tmp_path / 'without'}{os.pathsep}{PLAIN}"
    done = command(
        evaluated, "sweep", "--executor", "ray", "--methods", "average", *HEADS, PYTHONPATH=path
    )
    assert done.returncode == 2
    assert "pip install 'gitmerge-eval[ray]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_options_of_the_cluster_need_the_executor(evaluated):
    done = command(evaluated, "sweep", "--ray-address", "auto", *HEADS)
    assert "need --executor ray" in done.stderr
    with pytest.raises(InvalidOption, match="local, ray"):
        sweep(evaluated, **FEW, where=Where("dask"))
