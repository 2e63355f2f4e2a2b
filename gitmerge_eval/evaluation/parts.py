"""The models that merges are made of in the end, and what their branches declare of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.declarations import (
    ConstituentDeclaration,
    constituent,
    constituent_blobs,
)
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import merge_of_ours

if TYPE_CHECKING:
    from gitmerge_eval.merging.expansion import Part


def parts_of(
    repository: Repository,
    named: Sequence[tuple[str, str]],
    path: str,
    base: str | None = None,
    merge: str | None = None,
) -> tuple[Part, ...]:
    """What the model at ``path`` of each (commit, name) is made of, through merges of merges; of
    the commit ``merge`` all models. ``base`` is what they are merged on, where they are.

    Raises EvaluationError where one of the parts is not in this clone.
    """
    # Imports NumPy, which the hook does without.
    from gitmerge_eval.merging.expansion import Composite, Expansion, Part
    from gitmerge_eval.merging.models import is_plain

    expansion = Expansion(repository)
    parts: dict[str, Part] = {}
    for commit, name in named:
        whole = Part(commit, name, path, base)
        merges = [expansion.composite(commit, path)]
        if own := merge_of_ours(repository, commit) if commit == merge else None:
            paths = dict.fromkeys(there for _, there in (*own.specs, *own.models))
            merges += [Composite(commit, own, there) for there in paths if not is_plain(there)]
        children = [child for one in merges if one for child in expansion.children(one)]
        for part in children or [whole]:
            parts |= {leaf.commit: leaf for leaf in expansion.leaves(part)}
    for part in parts.values():
        if not repository.has_commit(part.commit):
            raise EvaluationError(
                f"constituent '{part.name}' ({part.commit[:10]}) is not in this clone; fetch its "
                "branch, or all of a shallow clone with 'git fetch --unshallow'"
            )
    return tuple(parts.values())


def declarations_of(repository: Repository, part: Part) -> list[ConstituentDeclaration]:
    """What the branch of ``part`` declares of itself; EvaluationError for a malformed file."""
    return [
        constituent(repository.blob(blob), f"'{path}' of '{part.name}'")
        for path, blob in own_declarations(repository, part).items()
    ]


def own_declarations(repository: Repository, part: Part) -> Mapping[str, str]:
    """path -> blob of the files in which a part's branch declares itself, not of those that it has
    inherited; none where it declares nothing."""
    present = constituent_blobs(repository, part.commit)
    if part.base is None:
        return present
    # A branch that started from another model carries that model's files too.
    for stem in (part.name, part.name.rsplit("/", 1)[-1]):
        path = f"constituents/{stem}.toml"
        if path in present:
            return {path: present[path]}
    inherited = constituent_blobs(repository, part.base)
    own = {path: blob for path, blob in present.items() if inherited.get(path) != blob}
    return own or present
