"""Which files are checkpoints: the attributes that say so, and their work-tree files."""

from __future__ import annotations

import os
import re

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.changes import Changes
from gitmerge_eval.git.repository import Repository

ATTRIBUTES = ("filter=theta", "merge=theta", "diff=theta")
LINE = re.compile(r'^\s*(?P<pattern>"(?:[^"\\]|\\.)*"|[^\s"#]\S*)(?P<attributes>(?:\s.*)?)$')


def track(repository: Repository, pattern: str) -> bool:
    """Make the files that ``pattern`` matches checkpoints, in the top ``.gitattributes``.

    Other attributes of the same pattern stay. The file is staged, as ``git theta track`` does.
    Returns whether anything had to be changed.
    """
    path = repository.directory / ".gitattributes"
    before = path.read_text(errors="surrogateescape") if path.exists() else ""
    after = with_pattern(before, pattern)
    literal = not set(pattern) & set("*?[\\")
    if after != before:
        path.write_text(after, errors="surrogateescape")
    if literal and repository.attribute("filter", [pattern]).get(pattern) != "theta":
        # A later line of the file speaks of this path too, and the last one counts.
        after = f"{after}{_quoted(pattern)} {' '.join(ATTRIBUTES)}\n"
        path.write_text(after, errors="surrogateescape")
    repository.run("add", "--", ".gitattributes")
    return after != before


def merge_by_driver(repository: Repository, path: str) -> bool:
    """Let the merge driver merge ``path``, a text file of ours, where no strategy runs.

    Adds a line to the top ``.gitattributes`` and stages it; returns whether that was needed.
    """
    if repository.attribute("merge", [path]).get(path) == "theta":
        return False
    file = repository.directory / ".gitattributes"
    before = file.read_text(errors="surrogateescape") if file.exists() else ""
    separator = "" if before.endswith("\n") or not before else "\n"
    file.write_text(f"{before}{separator}{_quoted(path)} merge=theta\n", errors="surrogateescape")
    repository.run("add", "--", ".gitattributes")
    return True


def with_pattern(text: str, pattern: str) -> str:
    """The text of a ``.gitattributes`` with ours on ``pattern``'s last line, or on a new one."""
    lines = text.splitlines()
    own = [
        number
        for number, line in enumerate(lines)
        if (match := LINE.match(line)) and match["pattern"] in (pattern, _quoted(pattern))
    ]
    if not own:
        return "\n".join([*lines, f"{_quoted(pattern)} {' '.join(ATTRIBUTES)}", ""])
    match = LINE.match(lines[own[-1]])
    assert match is not None
    given = match["attributes"].split()
    names = {attribute.partition("=")[0] for attribute in ATTRIBUTES}
    if [one for one in given if one.lstrip("-!").partition("=")[0] in names] == list(ATTRIBUTES):
        return text
    others = [one for one in given if one.lstrip("-!").partition("=")[0] not in names]
    lines[own[-1]] = " ".join([match["pattern"], *others, *ATTRIBUTES])
    return "\n".join([*lines, ""])


def _quoted(pattern: str) -> str:
    if not re.search(r'[\s"]', pattern) and not pattern.startswith("#"):
        return pattern
    escaped = pattern.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{escaped}"'


def tracked(repository: Repository) -> dict[str, str]:
    """path -> blob id of every checkpoint in the index."""
    entries = {}
    for line in repository.run("ls-files", "--stage", "-z").fields:
        information, _, path = line.partition("\t")
        mode, blob, stage = information.split()
        if stage == "0" and mode in ("100644", "100755"):
            entries[path] = blob
    if not entries:
        return {}
    filters = repository.attribute("filter", entries)
    return {path: blob for path, blob in entries.items() if filters.get(path) == "theta"}


def ordinary(repository: Repository) -> list[str]:
    """The checkpoints in the index that were added before they were tracked: no metadata."""
    # A tracked checkpoint's blob is JSON, and JSON objects start with a brace.
    paths = tracked(repository)
    starts = (repository.run("cat-file", "blob", blob).stdout[:1] for blob in paths.values())
    return [path for path, start in zip(paths, starts, strict=True) if start != b"{"]


def raw(repository: Repository) -> list[str]:
    """The checkpoints whose work-tree file is the stored metadata itself, byte for byte.

    That is what a clone leaves where no filter was configured yet.
    """
    found = []
    blobs = tracked(repository)
    for path, size in zip(blobs, _sizes(repository, list(blobs.values())), strict=True):
        file = repository.directory / path
        if file.is_symlink() or not file.is_file() or file.stat().st_size != size:
            continue
        # A checkpoint that was committed without the filter is no metadata, and stays.
        content = file.read_bytes()
        if content[:1] == b"{" and content == repository.blob(blobs[path]):
            found.append(path)
    return found


def _sizes(repository: Repository, blobs: list[str]) -> list[int]:
    if not blobs:
        return []
    done = repository.run("cat-file", "--batch-check=%(objectsize)", stdin="\n".join(blobs) + "\n")
    # 'missing' is what a partial clone or a damaged one says.
    return [int(line) if line.isdigit() else -1 for line in done.text.splitlines()]


def check_out_raw(repository: Repository) -> Changes:
    """Check the raw checkpoints out anew through the filter that is configured now.

    Where that fails (the tensors cannot be fetched) their files are put back as they were.
    """
    paths = raw(repository)
    if not paths:
        return Changes()
    contents = {path: (repository.directory / path).read_bytes() for path in paths}
    for path in paths:
        # Git leaves alone what its index calls unchanged, even when told to check it out.
        os.utime(repository.directory / path, (0, 0))
    try:
        repository.run(
            "--literal-pathspecs", "checkout", "--pathspec-from-file=-", "--pathspec-file-nul",
            stdin="\0".join(paths),
        )  # fmt: skip
    except GitError as error:
        for path, content in contents.items():
            file = repository.directory / path
            if not file.exists():
                file.write_bytes(content)
        return Changes(
            notices=(
                f"{_named(paths)} could not be checked out: {error}; when the reason is mended "
                "(is the remote reachable?), run 'gitmerge-eval init' again",
            )
        )
    return Changes(made=(f"checked out {_named(paths)} through the filter",))


def _named(paths: list[str]) -> str:
    shown = ", ".join(f"'{path}'" for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
