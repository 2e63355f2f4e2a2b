"""Files that the user asked for: whole or not at all, and a clear word where it cannot be."""

import os
import stat

import pytest

from gitmerge_eval.errors import UsageError
from gitmerge_eval.whole_file import write_whole


def test_it_is_written_as_it_is_and_keeps_mode_and_link(tmp_path):
    file, link = tmp_path / "a.md", tmp_path / "link.md"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, "ünïcode\r\nline\n")
    assert file.read_bytes() == "ünïcode\r\nline\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.md", "link.md"]


def test_a_missing_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder '.*/no/such'; make it, or name"):
        write_whole(tmp_path / "no" / "such" / "report.html", "text")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="it is a folder; name a file in it"):
        write_whole(tmp_path, "text")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="make room or make it writable"):
        write_whole(tmp_path / "a", "text")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.md"
    file.write_text("before")
    monkeypatch.setattr(type(file), "replace", _full)
    with pytest.raises(UsageError, match="No space left"):
        write_whole(file, "after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def _full(self, target):
    raise OSError(28, "No space left on device")
