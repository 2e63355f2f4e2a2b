"""What computing a merge took: measured by whoever computes, kept in runs and in notes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What computing one merged checkpoint took, evaluation apart."""

    seconds: float = 0.0
    """Wall time; of several merges that were computed in one pass each has an equal share."""
    shared: int = 1
    """How many merges were computed in that pass."""
    peak_memory_bytes: int = 0
    """The largest resident set of the process during the pass, less what it had before."""
    read_bytes: int = 0
    """Stored bytes of the objects that the pass opened, whatever the number of merges."""
    written_bytes: int = 0
    """Bytes of the tensors that were computed."""
    flops: int = 0
    """Table 3's count for this merge alone."""
    statistics_flops: int = 0
    """Table 3's count for the statistics that it needs."""
    device: str = "cpu"
    reused_groups: int = 0
    """Parameter groups that an earlier merge had computed: seconds and memory are without them,
    bytes and counts with them."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cost:
        """The cost that ``dataclasses.asdict`` spelled; a member that is not known is passed over.

        Raises TypeError where a value is not of its kind: what was kept may be anybody's.

        >>> Cost.from_dict({"seconds": 2, "flops": 10, "of a later version": 1}).flops
        10
        """
        known = {one.name: values[one.name] for one in fields(cls) if one.name in dict(values)}
        for name, value in known.items():
            kinds = (str,) if name == "device" else (int, float) if name == "seconds" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"a cost's '{name}' is {value!r}")
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise TypeError(f"a cost's '{name}' is {value!r}")
        return cls(**known)
