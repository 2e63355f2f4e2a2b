"""What the merges of this clone took, by their specs: one table beside the scores.

The strategy measures, and the hooks keep it here, so that a merge which is evaluated later (after a
conflict, ``--no-commit``, or with ``merge-eval.evaluate=off``) has its cost in the note too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gitmerge_eval.costs import Cost
from gitmerge_eval.evaluation.results import open_beside
from gitmerge_eval.records import canonical_json

_CREATE = """
CREATE TABLE IF NOT EXISTS merge_costs (spec TEXT PRIMARY KEY, cost TEXT NOT NULL) WITHOUT ROWID
"""


def keep(path: Path, costs: Mapping[str, Mapping[str, Any]]) -> None:
    """Remember ``costs``, digest of a MergeSpec -> what it took, in the cache at ``path``.

    A later one of the same spec is the one that counts. What is no cost is passed over. Raises
    EvaluationError where the cache cannot be opened.
    """
    known = {spec: cost for spec, values in costs.items() if (cost := cost_of(values))}
    # To the millisecond, as notes have it: a note that is written again says the same.
    rows = [
        (spec, canonical_json(asdict(replace(cost, seconds=round(cost.seconds, 3)))))
        for spec, cost in known.items()
    ]
    if not rows:
        return
    with open_beside(path, _CREATE) as connection, connection:
        connection.executemany("INSERT OR REPLACE INTO merge_costs VALUES (?, ?)", rows)


def find(path: Path, spec: str) -> Cost | None:
    """What computing the merge with that digest took when it was last made in this clone.

    Raises EvaluationError where the cache cannot be opened.
    """
    with open_beside(path, _CREATE) as connection:
        row = connection.execute("SELECT cost FROM merge_costs WHERE spec = ?", (spec,)).fetchone()
    try:
        return cost_of(json.loads(row[0])) if row else None
    except ValueError:
        return None


def cost_of(values: Any) -> Cost | None:
    """The cost that ``values`` spell; None where they spell none: they may be anybody's."""
    try:
        return Cost.from_dict(values)
    except (TypeError, ValueError):
        return None
