"""The model card of a merge: made, and written into a README."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitmerge_eval.card.body import body
from gitmerge_eval.card.facts import facts_of, unnamed
from gitmerge_eval.card.front_matter import front_matter
from gitmerge_eval.card.readme import readme
from gitmerge_eval.errors import UsageError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.whole_file import write_whole


@dataclass(frozen=True)
class Card:
    """A card, ready to be written."""

    name: str
    fields: dict[str, Any]
    """The front matter, as the Hugging Face Hub reads it."""
    body: str
    """Markdown."""
    remarks: tuple[str, ...]
    """What it does not say, and why."""

    @property
    def text(self) -> str:
        """A README of the card alone."""
        return readme(None, self.name, self.fields, self.body).text


def card(
    repository: Repository, revision: str = "HEAD", *, name: str = "", checkpoint: str = ""
) -> Card:
    """The card of the merge at ``revision``, called ``name``, else as the repository's folder.

    Raises UsageError where it is no merge of ours, EvaluationError where a constituent is not here
    or what it declares is malformed, and GitError for an unknown revision.
    """
    facts = facts_of(repository, revision, name=name, checkpoint=checkpoint)
    remarks = list(facts.remarks)
    if unnamed(facts.leaves):
        remarks.append(
            f"no place on the Hub is declared for {', '.join(unnamed(facts.leaves))}: 'base_model' "
            "lacks them; add 'hub = \"owner/name\"' to constituents/<name>.toml on their branches"
        )
    if not facts.licences.is_known:
        remarks += [f"licence: {problem}" for problem in facts.licences.problems]
    return Card(facts.name, front_matter(facts), body(facts), tuple(remarks))


def write(made: Card, path: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write the card into the README at ``path``, whose own text and fields stay.

    Returns what the README says otherwise than the card, and keeps unless ``force``. Raises
    UsageError, with the file as it was, where it cannot be read or written.
    """
    existing = None
    if path.exists():
        try:
            existing = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"'{path}' is no text in UTF-8 ({error.reason}); save it so, or name another file"
            ) from error
        except OSError as error:
            raise UsageError(
                f"'{path}' cannot be read ({error.strerror}); name another file"
            ) from error
    try:
        done = readme(existing, made.name, made.fields, made.body, force=force)
    except UsageError as error:
        raise error.within(f"'{path}'") from error
    write_whole(path, done.text)
    return done.kept
