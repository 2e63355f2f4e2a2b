"""What an audit has to say of one commit, and of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gitmerge_eval.git.history import RecordedCommit
from gitmerge_eval.git.repository import Repository

WRONG = "wrong"
UNKNOWN = "unknown"
REMARK = "remark"
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Finding:
    """One thing about one commit."""

    commit: str
    subject: str
    path: str
    """The file that it is about; '' for the commit itself."""
    kind: str
    """no-trailer, text-merge, other-model, other-constituent, damaged, unfiltered, statistic,
    object, not-the-merge, stale-trailers, stale-statistic, torn-trailers, not-here."""
    verdict: str
    """wrong; unknown: something that is needed is not here; remark: to be known, and no fault;
    accepted: wrong, but for a reviewer's word."""
    problem: str

    @classmethod
    def of(
        cls, one: RecordedCommit, path: str, kind: str, problem: str, verdict: str = WRONG
    ) -> Finding:
        """About a file of a commit."""
        return cls(one.commit, one.subject, path, kind, verdict, problem)


@dataclass(frozen=True)
class Recomputed:
    """A model of a commit that was computed again."""

    commit: str
    path: str
    verdict: str
    """exact, within-tolerance, wrong or unknown."""
    groups: int
    reused: int


@dataclass(frozen=True)
class Audit:
    """What was found out about a range of history."""

    commits: int
    merges: int
    """Those whose model differs from all parents, or whose trailers say that it was merged."""
    findings: tuple[Finding, ...] = ()
    recomputed: tuple[Recomputed, ...] = ()

    def _any(self, verdict: str) -> bool:
        return any(finding.verdict == verdict for finding in self.findings)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong, and everything could be looked at."""
        return not self._any(WRONG) and not self._any(UNKNOWN)

    @property
    def undecided(self) -> bool:
        """Whether nothing was found wrong, and not everything could be looked at."""
        return self._any(UNKNOWN) and not self._any(WRONG)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "sound": self.sound, "undecided": self.undecided}


def exists(identity: str) -> bool:
    """Whether a blob's id in a diff is that of a blob: zeros stand for no file."""
    return set(identity) != {"0"}


def named(identities: Sequence[str], most: int = 3) -> str:
    """Ids for people: the first few, shortened."""
    shown = ", ".join(identity[:10] for identity in identities[:most])
    more = len(identities) - most
    return f"{shown} and {more} more" if more > 0 else shown


def short(repository: Repository, commit: str) -> str:
    """``1a2b3c4d5e (its subject)``."""
    return repository.text("log", "-1", "--format=%h (%s)", "--abbrev=10", commit, "--")
