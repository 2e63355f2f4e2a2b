"""Names and contents by one process, and the command that answers where it cannot."""

import hashlib
import os
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.objects import NoAnswer, ObjectReader
from gitmerge_eval.git.repository import Repository

CONTENTS = {
    "empty": b"",
    "text": b"one\ntwo",
    "lines": b"\n\n" + b"0" * 40 + b" blob 3\nabc\n",
    "bytes": bytes(range(256)) * 500,
    "a folder/with spaces  ": b"inside",
    "missing": b"is here",
    "\xe4\xf6": b"not ASCII",
}


@pytest.fixture
def filled(repository, commit):
    return commit(CONTENTS)


@pytest.fixture
def reader(repository):
    return ObjectReader(repository.directory, os.environ)


def plain(repository, name):
    """What ``git rev-parse`` says."""
    done = repository.run("rev-parse", "--verify", "--quiet", name, check=False)
    return done.text if done.status == 0 else None


def test_ids_and_contents_are_those_of_the_commands(repository, filled, reader):
    for path, content in CONTENTS.items():
        identity = reader.identify(f"{filled}:{path}")
        assert identity == plain(repository, f"{filled}:{path}")
        assert reader.blob(identity) == content
    for name in (f"{filled}^{{commit}}", f"{filled}^{{tree}}", f"{filled}:a folder", "HEAD"):
        assert reader.identify(name) == plain(repository, name)


@pytest.mark.parametrize("name", ["absent", "HEAD:absent", "1" * 40, "HEAD~5", "", " ", "HEAD "])
def test_what_is_not_there_has_no_id(repository, filled, reader, name):
    assert reader.identify(name) is None
    assert name == "1" * 40 or plain(repository, name) is None


def test_an_ambiguous_name_has_no_id(repository, filled, reader):
    """Of many blobs two have ids with the same first four digits."""
    texts = [str(number) for number in range(1500)]
    stream = "".join(f"blob\ndata {len(text)}\n{text}\n" for text in texts)
    repository.run("fast-import", "--quiet", stdin=stream)
    starts = Counter(hashlib.sha1(f"blob {len(t)}\0{t}".encode()).hexdigest()[:4] for t in texts)
    twice = [start for start, count in starts.items() if count > 1]
    assert twice
    assert reader.identify(twice[0]) is None


def test_objects_and_branches_that_come_later_are_seen(repository, filled, reader, commit):
    assert reader.identify("HEAD") == filled
    later = commit({"text": "changed"}, "later")
    assert reader.identify("HEAD") == later
    assert reader.blob(reader.identify(f"{later}:text")) == b"changed"
    repository.run("gc", "--quiet")
    packed = commit({"text": "again"}, "after gc")
    repository.run("repack", "-adq")
    assert reader.blob(reader.identify(f"{packed}:text")) == b"again"


@pytest.mark.parametrize("name", ["{commit}", "{commit}:a folder", "1" * 40])
def test_what_is_no_blob_is_left_to_the_command(repository, filled, reader, name):
    with pytest.raises(NoAnswer):
        reader.blob(name.format(commit=filled))
    assert reader.identify("HEAD") == filled  # and the next answer is to the next question


def test_many_threads_get_their_own_answers(repository, filled, reader):
    ids = {path: reader.identify(f"{filled}:{path}") for path in CONTENTS}
    paths = list(CONTENTS) * 40
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: reader.blob(ids[path]), paths))
    assert found == [CONTENTS[path] for path in paths]


def test_where_the_process_has_ended_commands_answer(repository, filled, monkeypatch):
    started = []

    class Traced(ObjectReader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append(self._process)

    monkeypatch.setattr("gitmerge_eval.git.repository.ObjectReader", Traced)
    identity = repository.blob_id(filled, "text")
    started[0].send_signal(signal.SIGKILL)
    started[0].wait()
    assert repository.blob(identity) == CONTENTS["text"]
    assert repository.blob_id(filled, "text") == identity
    assert repository.blob_id(filled, "absent") is None
    assert repository.has_commit(filled)
    assert repository.commits([filled, "HEAD", "absent"]) == [filled, filled, None]
    with pytest.raises(GitError, match=r"'git cat-file blob 1+' failed"):
        repository.blob("1" * 40)
    assert len(started) == 1


def test_a_path_of_two_lines_is_found(repository, commit):
    there = commit({"two\nlines": "1"})
    assert repository.blob_id(there, "two\nlines") == plain(repository, "HEAD:two\nlines")
    assert repository.blob_id(there, "two\nother") is None


def test_the_index_is_read_each_time(repository, commit):
    commit({"a": "1"})
    assert repository.blob_id("", "b") is None
    (repository.directory / "b").write_text("2")
    repository.run("add", "b")
    assert repository.blob(repository.blob_id("", "b")) == b"2"


def test_another_process_asks_a_reader_of_its_own(repository, filled, monkeypatch):
    assert repository.has_commit(filled)
    first = repository._reader
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: first.started_by + 1)
        assert repository.has_commit(filled)
        assert repository._reader is not first
        repository._reader = None
    assert first.identify("HEAD") == filled


def test_the_process_ends_with_its_reader(repository, filled):
    reader = ObjectReader(repository.directory, os.environ)
    process = reader._process
    assert process.poll() is None
    del reader
    assert process.returncode == 0


def test_no_git_is_an_error_that_says_so(repository, filled, monkeypatch):
    def absent(*arguments, **settings):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(subprocess, "Popen", absent)
    with pytest.raises(GitError, match="install Git, or put it on PATH"):
        Repository(repository.directory).blob("1" * 40)


def test_as_committed_sees_through_replacements(repository, commit):
    first, second = commit({"a": "1"}, "one"), commit({"a": "2"}, "two")
    repository.run("replace", second, first)
    fresh = Repository(repository.directory)
    assert fresh.blob(fresh.blob_id(second, "a")) == b"1"
    assert fresh.as_committed().blob(fresh.as_committed().blob_id(second, "a")) == b"2"
