"""Every error this package raises on purpose.

    GitMergeEvalError
    ├── UsageError              the command line or configuration asks for what is not there
    │   ├── UnknownName         an unknown method, option, statistic or benchmark ('did you mean')
    │   └── InvalidOption       a known option with a value of the wrong type or out of its range
    ├── PrerequisiteError       what a method needs is missing
    │   ├── MissingStatistic    a branch lacks a statistic
    │   ├── StaleStatistic      a statistic was computed on another checkpoint
    │   └── MissingBase         the method needs a merge base and there is none
    ├── CheckpointError         a checkpoint cannot be read
    │   ├── MalformedCheckpoint not a readable safetensors file or not git-theta metadata
    │   ├── MissingObject       an LFS object is neither here nor on the remote
    │   ├── CorruptObject       an LFS object's bytes do not have its hash
    │   └── NonFiniteValue      NaN or infinity in a constituent
    ├── MergeRefused            the repository is not in a state in which a merge is safe
    ├── PruningRefused          the repository is not in a state in which gc is safe
    ├── NumericalError          a kernel cannot give a meaningful result
    │   └── SingularGram        a sum of Gram matrices is singular beyond repair
    ├── EvaluationError         a benchmark cannot be run
    └── GitError                a git command failed that should not have

A message says what is wrong, where, and the remedy. Inner code raises the cause; outer code adds
branch, file and group with :meth:`GitMergeEvalError.within`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GitMergeEvalError(Exception):
    """The root of the tree; ``exit_code`` is what a command ends with."""

    exit_code = 2

    def within(self, where: str) -> GitMergeEvalError:
        """The same error with its place put in front of the message."""
        return type(self)(f"{where}: {self}")


class UsageError(GitMergeEvalError):
    """The command line or the configuration asks for something that is not there."""


class UnknownName(UsageError):
    """An unknown name; build it with :meth:`among` so that it suggests the near ones."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """``unknown method 'tise'; did you mean 'ties'? (known: average, …)``"""
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return cls(f"unknown {kind} '{name}'{hint} (known: {', '.join(choices) or 'none'})")


class InvalidOption(UsageError):
    """A known option with a value of the wrong type or out of its range."""


class PrerequisiteError(GitMergeEvalError):
    """What a method needs is missing."""


class MissingStatistic(PrerequisiteError):
    """A constituent lacks a statistic that the method needs."""


class StaleStatistic(PrerequisiteError):
    """A statistic was computed on another checkpoint than the one beside it."""


class MissingBase(PrerequisiteError):
    """The method needs the base checkpoint and the heads have no common one."""


class CheckpointError(GitMergeEvalError):
    """A checkpoint cannot be read."""


class MalformedCheckpoint(CheckpointError):
    """Not a readable safetensors file, or not git-theta metadata."""


class MissingObject(CheckpointError):
    """An LFS object is neither in the local store nor to be had from the remote."""


class CorruptObject(CheckpointError):
    """An LFS object's bytes do not have the hash that names it."""


class NonFiniteValue(CheckpointError):
    """NaN or infinity in a constituent."""


class MergeRefused(GitMergeEvalError):
    """The repository is not in a state in which a merge is safe."""


class PruningRefused(GitMergeEvalError):
    """The repository is not in a state in which objects may be removed."""


class NumericalError(GitMergeEvalError):
    """A kernel cannot give a meaningful result."""


class SingularGram(NumericalError):
    """A sum of Gram matrices is singular beyond repair by a ridge."""


class EvaluationError(GitMergeEvalError):
    """A benchmark cannot be run."""


class GitError(GitMergeEvalError):
    """A git command failed that should not have."""
