"""docs/tutorial.md, executed exactly as it is printed; and who decides how a merge is judged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.declarations import benchmark_at
from gitmerge_eval.git.repository import Repository

ROOT = Path(__file__).parents[1]


def printed():
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder after all commands, and what the last of them printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
    }  # fmt: skip
    script = "set -e\n" + "".join(printed())
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "shapes", done.stdout


def test_the_tutorial_ends_with_a_merge_and_its_note(followed):
    directory, shown = followed
    assert "Merge-Method: regmean" in shown
    assert "shapes, test split, accuracy: regmean" in shown
    (note,) = evaluating.show(Repository(directory))
    assert [(task.task, task.status) for task in note.scores] == [
        ("round-dark", "held-in"),
        ("angular-light", "held-in"),
        ("round-light", "generalization"),
        ("angular-dark", "generalization"),
    ]
    # 'round' has two classes in each paper, 12 pictures of each are tested: scores are of 24.
    assert all(
        abs(task.merged - 100 * round(task.merged * 0.24) / 24) < 1e-3 for task in note.scores
    )


def test_a_merged_branch_cannot_change_how_it_is_judged(followed):
    repository = Repository(followed[0])
    repository.run("config", "user.name", "A")
    repository.run("config", "user.email", "a@example.org")
    repository.run("config", "merge-eval.evaluate", "off")
    repository.run("switch", "--quiet", "--force-create", "judge", "main^")
    repository.run("switch", "--quiet", "--force-create", "cheat", "round-dark")
    file = repository.directory / "benchmark.toml"
    file.write_text(file.read_text().replace("test = 0.3", "test = 0.05"))
    repository.run("commit", "--quiet", "--all", "--message=easier")
    repository.run("switch", "--quiet", "judge")
    status = repository.run_attached(
        "merge", "--quiet", "--strategy-option=method=average", "cheat", "angular-light",
        environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert status == 0
    assert "test = 0.05" in file.read_text()
    subject = evaluating.subject_at(repository, "HEAD")
    assert subject.declaration == benchmark_at(repository, "main")
    _, remarks = evaluating.models_of(repository, subject)
    assert any("a merged branch changes benchmark.toml" in remark for remark in remarks)
