"""The notes of two clones made one by the real Git: nothing lost, and still to be read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from gitmerge_eval.errors import GitError
from gitmerge_eval.git import note_union, notes
from gitmerge_eval.git.note_union import Union, unite, united_text
from gitmerge_eval.git.repository import Repository

FETCHED = "refs/notes/origin/gitmerge-eval"


def line(value, kind="evaluation/test", spec="s1"):
    return json.dumps({"kind": kind, "spec": spec, "value": value}, separators=(",", ":"))


def table(records):
    """As an evaluation's is: above, and in an order that is not that of its letters."""
    return "\n".join(
        f"{r['spec']} scored {r.get('value')}\na line for {r['kind']}" for r in records
    )


def note(*lines):
    return "\n".join([table([json.loads(one) for one in lines]), "", *lines])


def put(repository, commit, text):
    notes.put(repository, notes.REF, commit, text)


@pytest.fixture
def clones(repository, commit, tmp_path):
    """Two clones of a repository with a commit: the first fetches notes from the second."""
    commit({"a": "1"})
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", repository.directory, folder], check=True)
    repository.run("remote", "add", "origin", str(folder))
    return repository, Repository(folder)


def fetched(repository):
    repository.run("fetch", "-q", "origin", f"+{notes.REF}:{FETCHED}")
    return FETCHED


def test_gits_own_union_shuffles_the_table_and_this_one_does_not(clones):
    first, second = clones
    mine, theirs = line(1.0), line(2.0, spec="s2")
    put(first, "HEAD", note(mine))
    put(second, "HEAD", note(theirs))
    fetched(first)
    command = ("notes", "--ref=gitmerge-eval", "merge", "-q", "-s", "cat_sort_uniq", FETCHED)
    before = first.text("rev-parse", notes.REF)
    first.run(*command)
    shuffled = first.text("notes", "--ref=gitmerge-eval", "show")
    assert shuffled.index("a line for") < shuffled.index("s1 scored")
    first.run("update-ref", notes.REF, before)

    assert unite(first, FETCHED, table) == Union(received=1, united=1)
    assert notes.read(first, "HEAD") == note(mine, theirs)
    assert note_union.apart(first) == []
    parents = first.text("rev-list", "--all", "--parents", notes.REF)
    assert first.text("rev-parse", FETCHED) in parents


def test_a_result_that_one_side_replaced_does_not_come_back(clones):
    first, second = clones
    old, new, other = line(1.0), line(1.5), line(3.0, kind="evaluation/validation")
    put(first, "HEAD", note(old))
    first.run("push", "-q", "origin", notes.REF)
    put(first, "HEAD", note(new))
    put(second, "HEAD", note(old, other))
    unite(first, fetched(first), table)
    assert set(notes.read(first, "HEAD").splitlines()) == set(note(new, other).splitlines())
    # And the other way round.
    unite(second, _of(first, second), table)
    assert notes.read(second, "HEAD") == notes.read(first, "HEAD")


def _of(first, second):
    second.run("fetch", "-q", str(first.directory), f"+{notes.REF}:{FETCHED}")
    return FETCHED


def test_two_clones_make_the_same_note_of_it_and_are_done(clones):
    first, second = clones
    put(first, "HEAD", note(line(1.0)))
    put(second, "HEAD", note(line(2.0)))
    second.run("fetch", "-q", str(first.directory), f"+{notes.REF}:{FETCHED}")
    unite(first, fetched(first), table)
    unite(second, FETCHED, table)
    assert notes.read(first, "HEAD") == notes.read(second, "HEAD")
    assert unite(first, fetched(first), table).united == 0
    assert note_union.apart(first) == []


def test_a_note_that_only_one_side_has_comes_as_it_is(clones, commit):
    first, second = clones
    put(second, "HEAD", "a note of anybody's\n\n\n#  with odd  spaces  \n")
    elsewhere = second.text("commit-tree", "HEAD^{tree}", "-m", "a commit that is not here")
    put(second, elsewhere, note(line(2.0)))
    assert unite(first, fetched(first), table) == Union(received=2, united=0)
    shown = first.run("notes", "--ref=gitmerge-eval", "show", "HEAD").stdout
    assert shown == second.run("notes", "--ref=gitmerge-eval", "show", "HEAD").stdout
    assert unite(first, FETCHED, table) == Union()


def test_what_people_wrote_and_what_is_broken_stays():
    ours = f"{note(line(1.0))}\nlooks good to me\n{{broken"
    theirs = f"{note(line(2.0, spec='s2'))}\n\ndo not publish\n{{broken"
    found = united_text(ours, theirs, "", table)
    top, _, rest = found.partition("\n\n")
    assert top.splitlines() == [
        *table([json.loads(line(1.0)), json.loads(line(2.0, spec="s2"))]).splitlines(),
        "looks good to me",
        "{broken",
        "do not publish",
    ]
    assert rest.splitlines() == [line(1.0), line(2.0, spec="s2")]
    # One side took it back.
    assert "looks good" not in united_text(note(line(1.0)), theirs, ours, table)


@pytest.mark.parametrize(
    "odd", ['{"kind":"\\ud800","spec":1}', "[" * 100_000, '{"a":' * 5000, '{"kind":null}']
)
def test_a_record_of_anybodys_making_stays_and_breaks_nothing(repository, commit, odd):
    commit({"a": "1"})
    put(repository, "HEAD", f"a table\n\n{odd}\n")
    found = united_text(notes.read(repository, "HEAD"), note(line(1.0)), "", lambda records: "")
    assert odd in found.splitlines()
    put(repository, "HEAD", found)
    notes.write(repository, "HEAD", "a table", {"kind": "k"})
    kept = notes.read(repository, "HEAD")
    assert (odd in kept) == (notes.record(odd) is not None)
    assert line(1.0) in kept


def test_records_are_read_from_fetched_notes_before_they_are_united(clones):
    first, second = clones
    put(second, "HEAD", note(line(2.0)))
    fetched(first)
    assert [r["value"] for r in note_union.records_of(first, "HEAD")] == [2.0]
    put(first, "HEAD", note(line(1.0)))
    assert [r["value"] for r in note_union.records_of(first, "HEAD")] == [1.0, 2.0]
    unite(first, FETCHED, table)
    put(first, "HEAD", note(line(9.0)))
    assert [r["value"] for r in note_union.records_of(first, "HEAD")] == [9.0]


def test_many_notes_are_spread_over_folders_and_unite(clones):
    first, _ = clones
    commits = [
        hashlib.sha1(bytes([one, two])).hexdigest() for one in range(8) for two in range(256)
    ]
    for number, clone in enumerate(clones):
        values = {one: number if one in commits[:2] else 5 for one in commits}
        stream = "".join(
            f"M 100644 inline {one[:2]}/{one[2:]}\ndata <<END\n{note(line(value))}\nEND\n\n"
            for one, value in values.items()
        )
        head = f"commit {notes.REF}\ncommitter A <a@example.org> 1 +0000\ndata 1\nx\n"
        clone.run("fast-import", "--quiet", stdin=head + stream)
    fetched(first)
    assert unite(first, FETCHED, table) == Union(2, 2)
    assert "/" in first.text("ls-tree", "-r", "--name-only", notes.REF)
    for one, expected in ((commits[0], note(line(0), line(1))), (commits[-1], note(line(5)))):
        assert note_union._note(first, notes.REF, one) == expected
        assert first.text("notes", "--ref=gitmerge-eval", "list", one)


def test_writers_beside_a_union_lose_nothing(clones, commit):
    first, second = clones
    commits = [commit({"a": str(number)}) for number in range(4)]
    second.run("fetch", "-q", "origin")
    for one in commits:
        put(second, one, note(line(2.0, spec=one)))
    fetched(first)
    code = (
        "import sys; from gitmerge_eval.git import notes; "
        "from gitmerge_eval.git.repository import Repository; "
        "_, folder, commit = sys.argv; "
        "notes.write(Repository(folder), commit, 'table', {'kind': 'k', 'spec': commit})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(first.directory), one]) for one in commits
    ]
    union = unite(first, FETCHED, table)
    assert [writer.wait() for writer in writers] == [0] * 4
    assert union.received == 4
    for one in commits:
        found = {r["kind"] for r in notes.records(notes.read(first, one))}
        assert found == {"k", "evaluation/test"}


def test_somebody_who_takes_no_lock_is_not_overwritten(clones, monkeypatch):
    """'git notes add' by hand while a union is being put together."""
    first, second = clones
    put(second, "HEAD", note(line(2.0)))
    fetched(first)
    by_hand = iter([True])

    def slow_table(records):
        if next(by_hand, False):
            first.run("notes", "--ref=gitmerge-eval", "append", "-m", "by hand", "HEAD")
        return table(records)

    put(first, "HEAD", note(line(1.0)))
    unite(first, FETCHED, slow_table)
    text = notes.read(first, "HEAD")
    assert "by hand" in text
    assert {r["value"] for r in notes.records(text)} == {1.0, 2.0}
    assert first.text("for-each-ref", note_union.SCRATCH) == ""


def test_what_a_killed_union_left_goes_and_a_remotes_notes_of_that_name_stay(clones):
    first, second = clones
    put(second, "HEAD", note(line(2.0)))
    fetched(first)
    remotes = f"{note_union.SCRATCH}gitmerge-eval"
    for ref in (f"{note_union.SCRATCH}4711", remotes):
        first.run("update-ref", ref, FETCHED)
    unite(first, FETCHED, table)
    assert first.text("for-each-ref", "--format=%(refname)", note_union.SCRATCH) == remotes


def test_what_is_no_notes_is_refused_and_changes_nothing(clones):
    first, _ = clones
    put(first, "HEAD", note(line(1.0)))
    first.run("update-ref", FETCHED, first.write_blob(b"no notes"))
    before = first.text("for-each-ref")
    with pytest.raises(GitError, match="is not a commit"):
        unite(first, FETCHED, table)
    assert first.text("for-each-ref") == before
