"""Index entries with real stat data and the known blob, whatever the file is called."""

import os
import subprocess
from pathlib import Path

import pytest

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.entering import enter
from gitmerge_eval.git.repository import Repository

NAMES = (
    "model.bin",
    "a [1].bin",
    "*x",
    'q"uo',
    "back\\slash",
    "d d/é.bin",
    "#h",
    "!n",
    " s ",
    "o'",
)


def git(directory, *arguments, **options):
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True, **options
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path):
    """A repository whose filter 'theta' writes down every file that it is asked to clean."""
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "-q")
    git(directory, "config", "filter.theta.clean", f"echo %f >> '{tmp_path}/cleaned'; cat")
    (directory / ".gitattributes").write_text("* filter=theta\n.gitattributes !filter\n")
    git(directory, "add", "--renormalize", ".gitattributes")
    git(directory, "add", ".gitattributes")
    return Repository(directory)


def entered(repository: Repository, tmp_path: Path, names):
    """The names entered into a copy of the index, with blobs 'known <name>'."""
    blobs = {}
    for number, name in enumerate(names):
        file = repository.directory / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(os.urandom(1000))
        os.utime(file, (1_000_000_000, 1_000_000_000))
        blobs[name] = tmp_path / f"blob{number}"
        blobs[name].write_text(f"known {name}")
    index = tmp_path / "index"
    index.write_bytes((repository.git_directory / "index").read_bytes())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    enter(repository, blobs, index, scratch)
    return index


def test_the_blob_is_the_known_one_and_no_filter_of_the_repository_runs(repository, tmp_path):
    index = entered(repository, tmp_path, NAMES)
    index.replace(repository.git_directory / "index")
    listed = git(repository.directory, "ls-files", "-s", "-z").split("\0")
    found = {line.split("\t", 1)[1]: line.split()[1] for line in listed if line}
    assert found.keys() == {".gitattributes", *NAMES}
    for name in NAMES:
        assert git(repository.directory, "cat-file", "blob", found[name]) == f"known {name}"
    assert git(repository.directory, "diff-files", "--name-only") == ""
    assert not (tmp_path / "cleaned").exists()


def test_a_shared_index_is_read_and_the_result_stands_alone(repository, tmp_path):
    git(repository.directory, "config", "core.splitIndex", "true")
    git(repository.directory, "update-index", "--split-index")
    assert list(repository.git_directory.glob("sharedindex.*"))
    index = entered(repository, tmp_path, ["model.bin"])
    environment = {**os.environ, "GIT_INDEX_FILE": str(index)}
    listed = git(repository.directory, "ls-files", env=environment).splitlines()
    assert listed == [".gitattributes", "model.bin"]


def test_a_file_as_young_as_the_index_is_cleaned_by_our_filter_in_the_real_repository(
    repository, tmp_path
):
    young = repository.directory / "young"
    young.write_text("young")
    os.utime(young, (4_000_000_000, 4_000_000_000))
    git(repository.directory, "add", "young")
    noting = tmp_path / "noting"
    noting.write_text(f"echo $GIT_DIR >> '{tmp_path}/directory'; false")
    command = f"sh '{noting}'"
    git(repository.directory, "config", "filter.theta.process", command)
    with pytest.raises(GitError):  # the filter does not speak the protocol
        entered(repository, tmp_path, ["model.bin"])
    noted = (tmp_path / "directory").read_text().split()
    assert set(noted) == {str(repository.git_directory)}
