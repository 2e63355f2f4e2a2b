"""``python -m gitmerge_eval.bench.sweep_pass METHOD FOLDER BRANCH…``: the candidates of one sweep.

What ``bench sweep`` measures: a process that plans the merges of the branches into HEAD under ten
values of what the method's sweep varies, and computes all of them into files below FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gitmerge_eval import methods
from gitmerge_eval.git.heads import resolve
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import candidates, deciding
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.planning import plan_checkpoint
from gitmerge_eval.studies.grid import grid

VALUES = 10
"""The last ten of the paper's values: RegMean has eleven."""


def given(method: str) -> tuple[str, tuple[dict[str, str], ...]]:
    """The hyperparameter that is swept, and the options of each candidate."""
    (family,) = grid([method]).families(method, {})
    if family.parameter is None:
        raise ValueError(f"{method} has nothing to sweep")
    return family.parameter, tuple(dict(one) for one in family.given[-VALUES:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the candidates; the exit status."""
    method, folder, *branches = list(sys.argv[1:] if arguments is None else arguments)
    repository = Repository.here()
    heads = resolve(repository, branches)
    paths = deciding.touched(repository, heads)
    parameter, options = given(methods.get(method).name)
    chosen = [merge_options.parse([("method", method), *one.items()]) for one in options]
    (first,) = deciding.decide(repository, heads, chosen[0], paths).plans
    plans = [
        plan_checkpoint(
            repository, first.spec.path, one, first.base, first.constituents, first.spec.accumulate
        )
        for one in chosen
    ]
    found, _ = candidates.compute_candidates(plans, parameter, repository, Path(folder))
    return 0 if len(found) == len(options) else 1


if __name__ == "__main__":
    sys.exit(main())
