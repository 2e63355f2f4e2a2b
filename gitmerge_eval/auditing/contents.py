"""The metadata that commits have in checkpoints' places: read once, and told what is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata, is_metadata
from gitmerge_eval.errors import MalformedCheckpoint
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.pushing import LARGEST_METADATA_BYTES

Damage = tuple[str, str]
"""(kind, what is wrong)."""
_KEPT = 64
_UNFILTERED = (
    "unfiltered",
    "is the model itself instead of its metadata: it was committed where no filter is configured; "
    "run 'gitmerge-eval init' there, then 'git add --renormalize' and commit again",
)


@dataclass
class Contents:
    """Blobs of checkpoints by their ids."""

    repository: Repository
    _sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What a commit changes its parents have just had; a long history must not fill the memory.
        self._found = lru_cache(maxsize=_KEPT)(self._read)

    def expect(self, blobs: Iterable[str]) -> None:
        """Ask for the sizes of all these blobs at once."""
        wanted = sorted(set(blobs) - set(self._sizes))
        listing = self.repository.run(
            "cat-file", "--batch-check=%(objectname) %(objectsize)",
            stdin="".join(f"{blob}\n" for blob in wanted),
        )  # fmt: skip
        for line in listing.text.splitlines():
            blob, size = line.split(" ", 1)
            if size.isdigit():  # else it says 'missing'
                self._sizes[blob] = int(size)

    def is_here(self, blob: str) -> bool:
        """Whether the blob is in this clone; of those that were expected."""
        return blob in self._sizes

    def damage(self, blob: str) -> Damage | None:
        """What is wrong with a blob that is to be metadata; None where nothing is."""
        found = self._found(blob)
        return None if isinstance(found, Metadata) else found

    def groups(self, blob: str) -> dict[str, GroupRecord]:
        """The groups that a blob's metadata has; none where it is no metadata, or not here."""
        if blob not in self._sizes:
            return {}
        found = self._found(blob)
        return dict(found.groups) if isinstance(found, Metadata) else {}

    def _read(self, blob: str) -> Metadata | Damage:
        if self._sizes[blob] > LARGEST_METADATA_BYTES:
            return _UNFILTERED
        content = self.repository.blob(blob)
        try:
            return Metadata.parse(content)
        except MalformedCheckpoint as error:
            if b"\0" in content[:64] and not is_metadata(content):
                return _UNFILTERED  # the length that a safetensors file begins with
            return ("damaged", str(error))
