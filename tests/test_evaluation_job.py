"""What happens after a real 'git merge': evaluated, watched, left alone, interrupted."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluated_repositories import MODELS, PLAIN, Evaluated, score

from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git import trailers

HEADS = ("fruit-quickdraw", "bird-real")
SECONDS = 60.0
"""How long anything may take before a test gives up on it."""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A repository whose merges get trailers and end in our post-merge hook."""
    made = Evaluated.make(tmp_path_factory.mktemp("template") / "repository")
    hooks = made.repository.directory / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    lines = made.trailers(HEADS).lines()
    (made.repository.directory.parent / "trailers").write_text("\n\n" + "\n".join(lines) + "\n")
    (hooks / "prepare-commit-msg").write_text(
        '#!/bin/sh\n[ "$2" = merge ] && cat "$TRAILERS" >>"$1"\nexit 0\n'
    )
    (hooks / "post-merge").write_text('#!/bin/sh\ngitmerge-eval hook post-merge "$@"\nexit 0\n')
    for hook in hooks.iterdir():
        hook.chmod(0o755)
    made.repository.run("config", "merge-eval.device", "cpu")
    return made


@pytest.fixture
def evaluated(template, tmp_path, monkeypatch):
    found = template.copy(tmp_path / "repository")
    monkeypatch.setenv("TRAILERS", str(template.repository.directory.parent / "trailers"))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    monkeypatch.setenv("PLAIN_LOG", str(found.log))
    return found


def merging(evaluated, **how):
    """'git merge' in a process group of its own; the strategy keeps main's model."""
    command = ["git", "merge", "-q", "--no-ff", "-s", "ours", "--no-edit", *HEADS]
    how.setdefault("stderr", subprocess.PIPE)
    return subprocess.Popen(
        command,
        cwd=evaluated.repository.directory,
        start_new_session=True,
        text=True,
        # A shell's background job, as the tests may be, ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **how,
    )


def merge(evaluated):
    process = merging(evaluated)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, error
    return error


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def jobs(evaluated):
    """The states of all jobs."""
    folder = evaluated.repository.directory / ".git" / "gitmerge-eval" / "jobs"
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def computing(evaluated):
    """The state of the job, once it has scored something."""
    return next((job for job in jobs(evaluated) if "completed" in job), None)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def assert_merge_is_over(evaluated):
    repository = evaluated.repository
    assert trailers.merge_heads(repository) == ()
    assert not repository.path("MERGE_MSG").exists()
    assert len(repository.text("rev-parse", "HEAD^@").split()) == 3
    assert repository.text("status", "--porcelain", "--untracked-files=no") == ""
    assert "still merging" not in repository.text("status")


def test_a_merge_is_evaluated_before_git_returns(evaluated):
    error = merge(evaluated)
    assert "held-in 24.00 (0.274 of individual)" in error
    (note,) = evaluating.show(evaluated.repository)
    assert note.scores[0].merged == score(MODELS["main"], "fruit-quickdraw")
    assert note.scores[0].individual == 85.0
    assert_merge_is_over(evaluated)
    assert jobs(evaluated) == []


def test_a_terminal_gets_a_progress_bar(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_SECONDS", "0.2")
    monkeypatch.setenv("TERM", "xterm")
    above, below = pty.openpty()
    process = merging(evaluated, stderr=below)
    os.close(below)
    shown = b""
    while True:
        try:
            part = os.read(above, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(above)
    assert process.wait(SECONDS) == 0
    assert b"evaluating" in shown
    assert b"merged on " in shown
    assert b"%" in shown


def test_in_the_background_git_returns_at_once(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_SECONDS", "0.3")
    evaluated.repository.run("config", "merge-eval.evaluate", "background")
    error = merge(evaluated)
    assert "in the background" in error
    assert evaluating.show(evaluated.repository) == ()
    assert_merge_is_over(evaluated)
    until(lambda: evaluating.show(evaluated.repository))
    (job,) = until(lambda: [job for job in jobs(evaluated) if "summary" in job])
    assert job["commit"] == evaluated.repository.commit("HEAD")


@pytest.mark.parametrize("value", ["off", "sometimes"])
def test_nothing_is_evaluated_when_it_is_not_wanted(evaluated, value):
    evaluated.repository.run("config", "merge-eval.evaluate", value)
    error = merge(evaluated)
    if value == "off":
        assert error == ""
    else:
        assert "'sometimes'; use one of sync, background, off" in error
    assert evaluated.computed == []
    assert evaluating.show(evaluated.repository) == ()


def test_a_setting_of_one_command_reaches_the_job(evaluated, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "merge-eval.multitask")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "tool-sketch")
    merge(evaluated)
    (note,) = evaluating.show(evaluated.repository)
    assert note.scores[0].multitask == score(MODELS["tool-sketch"], "fruit-quickdraw")


def test_without_a_benchmark_nothing_is_said(evaluated):
    evaluated.repository.run("rm", "-q", "benchmark.toml")
    evaluated.repository.run("commit", "-q", "-m", "no benchmark")
    assert merge(evaluated) == ""
    assert jobs(evaluated) == []


def test_a_failing_evaluation_is_one_line_and_no_failed_merge(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_FAIL", "out of data")
    error = merge(evaluated)
    assert len(error.splitlines()) == 1
    assert "the merge is complete, but its evaluation failed: RuntimeError: out of data" in error
    assert "run 'gitmerge-eval evaluate HEAD'" in error
    assert_merge_is_over(evaluated)
    log = Path(error.rsplit("log: ", 1)[1].strip().rstrip(")"))
    assert "Traceback" in log.read_text()


def test_a_constituent_without_a_declaration_is_said(evaluated, monkeypatch):
    evaluated.repository.run("config", "merge-eval.evaluate", "sync")
    path = evaluated.repository.directory / "constituents" / "fruit-quickdraw.toml"
    evaluated.repository.run("switch", "-q", "fruit-quickdraw")
    path.unlink()
    evaluated.put("bare", {})
    trailers_file = evaluated.repository.directory.parent / "trailers"
    evaluated.repository.run("switch", "-q", "main")
    trailers_file.write_text("\n\n" + "\n".join(evaluated.trailers(HEADS).lines()) + "\n")
    monkeypatch.setenv("TRAILERS", str(trailers_file))
    assert "declares no task; commit a file constituents/<name>.toml" in merge(evaluated)


def test_a_fast_forward_to_anothers_merge_is_not_evaluated(evaluated, tmp_path):
    evaluated.repository.run("config", "merge-eval.evaluate", "off")
    start = evaluated.repository.commit("HEAD")
    merge(evaluated)
    merged = evaluated.repository.commit("HEAD")
    evaluated.repository.run("config", "merge-eval.evaluate", "sync")
    evaluated.repository.run("reset", "-q", "--hard", start)
    evaluated.repository.run("merge", "-q", "--ff-only", merged)
    assert evaluated.repository.commit("HEAD") == merged
    assert evaluated.computed == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_job_and_ends_the_merge(evaluated, monkeypatch, number):
    monkeypatch.setenv("PLAIN_SECONDS", "1")
    process = merging(evaluated)
    job = until(lambda: computing(evaluated))
    assert trailers.merge_heads(evaluated.repository) != ()
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == -number
    assert "evaluation cancelled; the merge is complete" in error
    until(lambda: trailers.merge_heads(evaluated.repository) == ())
    assert_merge_is_over(evaluated)
    assert not is_running(job["pid"])
    left = evaluated.repository.common_directory / "gitmerge-eval" / "evaluated"
    assert list(left.iterdir()) == []
    assert evaluating.show(evaluated.repository) == ()
    found = evaluated.repository.run("commit", "-m", "a second commit", check=False)
    assert found.status == 1
    assert "nothing to commit" in found.text or "nothing added to commit" in found.text


def test_an_interrupt_saves_what_was_stashed_for_the_merge(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_SECONDS", "1")
    evaluated.put("file", {"file": "text"})
    (evaluated.repository.directory / "file").write_text("not committed yet")
    evaluated.repository.run("config", "merge.autoStash", "true")
    process = merging(evaluated)
    until(lambda: computing(evaluated))
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=SECONDS)
    assert "'git stash pop' brings them back" in error
    assert_merge_is_over(evaluated)
    evaluated.repository.run("stash", "pop")
    assert (evaluated.repository.directory / "file").read_text() == "not committed yet"


def test_a_closed_terminal_leaves_the_job_at_work(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_SECONDS", "0.3")
    process = merging(evaluated)
    until(lambda: computing(evaluated))
    os.killpg(process.pid, signal.SIGHUP)
    process.communicate(timeout=SECONDS)
    until(lambda: trailers.merge_heads(evaluated.repository) == ())
    assert_merge_is_over(evaluated)
    until(lambda: evaluating.show(evaluated.repository))


def test_when_only_the_hook_is_interrupted_git_ends_its_merge(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_SECONDS", "1")
    process = merging(evaluated)
    job = until(lambda: computing(evaluated))
    stat = Path(f"/proc/{job['pid']}/stat").read_text()
    hook = int(stat.rsplit(")", 1)[1].split()[1])
    os.kill(hook, signal.SIGINT)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "evaluation cancelled" in error
    assert_merge_is_over(evaluated)
    assert not is_running(job["pid"])


def test_nothing_of_a_branch_is_imported_or_run(evaluated, tmp_path):
    trap = f"open({str(tmp_path / 'sprung')!r}, 'a').write(__name__)\n"
    names = ("json", "torch", "git", "sqlite3", "numpy", "plain_benchmark", "sitecustomize")
    evaluated.repository.run("switch", "-q", "main")
    files = {f"{name}.py": trap for name in names}
    evaluated.put("trap", {**files, "gitmerge_eval/__init__.py": trap, "usercustomize.py": trap})
    merge(evaluated)
    assert not (tmp_path / "sprung").exists()
    assert len(evaluating.show(evaluated.repository)) == 1


def test_a_merge_in_a_linked_worktree_is_evaluated(evaluated, tmp_path):
    tree = tmp_path / "a worktree ü"
    evaluated.repository.run("worktree", "add", "-q", "-b", "other", str(tree), "main")
    command = ["git", "merge", "-q", "--no-ff", "-s", "ours", "--no-edit", *HEADS]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(evaluating.show(evaluated.repository, "other")) == 1


def test_old_logs_are_forgotten(evaluated):
    folder = evaluated.repository.directory / ".git" / "gitmerge-eval" / "jobs"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"20200101-0000{number:02}-old.log").write_text("")
        (folder / f"20200101-0000{number:02}-old.json").write_text("{}")
    merge(evaluated)
    assert len(list(folder.glob("*.log"))) == 20
    assert len(list(folder.glob("*.json"))) == 20


def test_the_hook_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from gitmerge_eval.evaluation import job as evaluation_job; "
        "print([m for m in ('torch', 'numpy', 'git_theta', 'rich', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
