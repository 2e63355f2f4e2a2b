"""Two ready clones of one remote, and evaluations that their notes hold."""

from __future__ import annotations

import subprocess

import pytest
from test_reporting import NOTE

from gitmerge_eval.evaluation import reporting
from gitmerge_eval.git import configuration, note_union, notes
from gitmerge_eval.git.repository import Repository

MERGE = "a merge of models"


def evaluated(clone, note=NOTE, commit="HEAD"):
    """As ``gitmerge-eval evaluate`` leaves it."""
    notes.write(clone, commit, reporting.note_table(note), reporting.note_record(note))


def measured(clone, commit="HEAD"):
    """(seconds, first score) of each evaluation in this clone's own note."""
    found = notes.records(notes.read(clone, commit) or "")
    return sorted((r["seconds"], r["tasks"][0]["merged"]) for r in found)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two ready clones of a bare repository with one commit."""
    folder = tmp_path_factory.mktemp("clones")
    subprocess.run(["git", "init", "-q", "--bare", folder / "bare"], check=True)
    for name in ("one", "two"):
        subprocess.run(["git", "clone", "-q", folder / "bare", folder / name], check=True)
        clone = Repository(folder / name)
        configuration.install(clone)
        if name == "one":
            clone.run("commit", "-q", "--allow-empty", "-m", MERGE)
            clone.run("push", "-q", "-u", "origin", "main")
    return folder


@pytest.fixture
def clones(template, tmp_path):
    """The two clones, and the remote."""
    subprocess.run(["cp", "-a", template, tmp_path / "clones"], check=True)
    folder = tmp_path / "clones"
    found = [Repository(folder / name) for name in ("one", "two", "bare")]
    for clone in found[:2]:
        clone.run("config", "remote.origin.url", str(folder / "bare"))
    return found


def commit(clone, message="another"):
    clone.run("commit", "-q", "--allow-empty", "-m", message)
    return clone.text("rev-parse", "HEAD")


def git(clone, *arguments):
    """(status, what it said) of a git command, as a user runs it."""
    done = subprocess.run(
        ["git", *arguments], cwd=clone.directory, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def remote_notes(bare):
    return note_union.tip(bare, notes.REF)
