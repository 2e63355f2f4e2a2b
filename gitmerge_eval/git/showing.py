"""Whether Git converts a checkpoint only to show how it differs: then our program gets metadata.

For ``git diff`` and the like Git writes each side of a checkpoint into a temporary file, as a
checkout would, and starts the configured program with it. Ours needs no tensors. That the content
goes to it, and to nobody else, is known where all of this holds, and otherwise the content is the
whole file:

- the request names no branch or tree, as those of a checkout or an archive do, and is not one that
  may be delayed, which only checkouts offer;
- the process that asks is ``git diff``, ``git show`` or ``git log``: their only conversions to a
  work-tree file are for such programs;
- both programs of the driver ``theta`` are ours, the path has this driver, and no other program is
  configured for paths without one, which may get the other side of a rename.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property

from gitmerge_eval.git.process import calling_git
from gitmerge_eval.git.repository import Repository

DRIVER = "theta"
COMMAND = f"diff.{DRIVER}.command"
TEXTCONV = f"diff.{DRIVER}.textconv"
_SHOWING = frozenset({"diff", "show", "log"})
_WITH_A_VALUE = frozenset({"-C", "-c"})
_PLAIN = re.compile(r"--(no-pager|paginate|no-optional-locks|literal-pathspecs|no-replace-objects)")
_ALONE = frozenset({"-p", "-P"})
_OURS = re.compile(r"""(?:^|[/'" ])gitmerge-eval['"]? differ \w+$""")


class Showing:
    """What one filter process finds out about the Git that started it."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._drivers: dict[str, str] = {}

    def wants(self, request: Mapping[str, str]) -> bool:
        """Whether the answer to a smudge request is only shown, by our own program."""
        if request.keys() & {"ref", "treeish", "can-delay"} or not self._by_our_programs:
            return False
        path = request.get("pathname", "")
        if path not in self._drivers:
            self._drivers |= self.repository.attribute("diff", [path])
        return self._drivers.get(path) == DRIVER

    @cached_property
    def _by_our_programs(self) -> bool:
        if subcommand(calling_git()) not in _SHOWING or os.environ.get("GIT_EXTERNAL_DIFF"):
            return False
        found = self.repository.run(
            "config", "-z", "--get-regexp", rf"^diff\.({DRIVER}\.(command|textconv)|external)$",
            check=False,
        )  # fmt: skip
        # Later values count; Git writes the names of keys in lower case.
        values = dict(field.partition("\n")[::2] for field in found.fields)
        ours = (values.get(COMMAND, ""), values.get(TEXTCONV, ""))
        return all(map(_OURS.search, ours)) and "diff.external" not in values


def subcommand(command: list[str]) -> str:
    """What a ``git`` is to do; '' where its command line is not understood.

    >>> subcommand(["git", "-C", "/tmp", "--no-pager", "log", "-p"])
    'log'
    >>> subcommand(["git", "--strange", "log"])
    ''
    """
    words = iter(command[1:])
    for word in words:
        if word in _WITH_A_VALUE:
            next(words, None)
        elif re.match(r"--(git-dir|work-tree|namespace|exec-path|config-env|attr-source)=", word):
            continue
        elif word not in _ALONE and not _PLAIN.fullmatch(word):
            return "" if word.startswith("-") else word
    return ""
