"""A card in a README that may be somebody's: what is not ours stays as it is.

The text lies between two markers, and the first of them holds the fields of the front matter that
were written with it. So a later card knows what is ours to change: a field that somebody has set or
changed since is theirs, and in a list each element of which they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gitmerge_eval.card.front_matter import OURS, RESULTS
from gitmerge_eval.errors import UsageError

BEGIN = "<!-- gitmerge-eval card: begin "
END = "<!-- gitmerge-eval card: end -->"
LISTS = ("tags", "base_model", "datasets", "metrics")
LICENCE = ("license", "license_name", "license_link")
"""These are one statement: all of them are ours, or none."""
_KEY = re.compile(r"""(?:([\w-]+)|"([^"]+)"|'([^']+)')\s*:(?:\s|$)""")


@dataclass(frozen=True)
class Written:
    """The README as it is to be, and what of it is not as the card would have it."""

    text: str
    kept: tuple[str, ...] = ()
    """What the README says otherwise, and keeps."""


def readme(
    existing: str | None, title: str, fields: Mapping[str, Any], body: str, *, force: bool = False
) -> Written:
    """``existing`` with the card in it, or a README of the card alone.

    ``force`` puts the card's fields in the place of those that are somebody else's. Raises
    UsageError where the README's front matter or our markers cannot be read.
    """
    if existing is None or not existing.strip():
        existing = f"# {' '.join(title.split())}\n"
    bom = "\ufeff" if existing.startswith("\ufeff") else ""
    text = existing.removeprefix("\ufeff")
    windows = "\r\n" in text and "\n" not in text.replace("\r\n", "")
    if windows:
        text = text.replace("\r\n", "\n")
    block, rest = _split(text)
    there = _read(block)
    before, wrote, after = _section(rest)
    wanted, kept = _united(there, wrote, fields, force)
    section = f"{_begin(fields)}\n{body.strip()}\n\n{END}"
    front = _edited(block, there, wanted)
    if before is None:
        result = f"---\n{front}---\n{_spaced(rest)}{section}\n"
    else:
        result = f"---\n{front}---\n{before}{section}{after}"
    return Written(bom + (result.replace("\n", "\r\n") if windows else result), tuple(kept))


def _spaced(text: str) -> str:
    """``text`` with an empty line before and after it."""
    start = "" if text.startswith("\n") else "\n"
    return f"{start}{text}" + ("\n" if text.endswith("\n") else "\n\n")


def _begin(fields: Mapping[str, Any]) -> str:
    own = {key: value for key, value in fields.items() if key != RESULTS}
    # Two hyphens or '>' in a value would end the comment.
    plain = json.dumps(own, ensure_ascii=False).replace("--", "-\\u002d").replace(">", "\\u003e")
    return f"{BEGIN}{plain} -->"


def _split(text: str) -> tuple[str, str]:
    """The lines of the front matter, without those around them, and the rest."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return "", text
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == "---":
            return "".join(f"{one}\n" for one in lines[1:number]), "\n".join(lines[number + 1 :])
    raise UsageError(
        "the README's front matter begins with '---' and does not end; add a line '---' after it"
    )


def _read(block: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(block)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 2}" if place else ""
        raise UsageError(
            f"the README's front matter is not YAML{where}: {getattr(error, 'problem', error)}; "
            "correct it"
        ) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(
            "the README's front matter is no list of fields; write 'field: value' on each line"
        )
    return found


def _section(text: str) -> tuple[str | None, dict[str, Any], str]:
    """What is before our section, the fields that were written with it, and what is after it."""
    begins, ends = text.count(BEGIN), text.count(END)
    if begins == ends == 0:
        return None, {}, ""
    remedy = "put them back, or delete all of them with what is between, for a new section"
    if begins != 1 or ends != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(
            f"the README has {begins} begins and {ends} ends of a card of ours, or the end first; "
            f"{remedy}"
        )
    before, _, rest = text.partition(BEGIN)
    marker, _, rest = rest.partition("-->\n")
    try:
        wrote = json.loads(marker)
    except ValueError:
        wrote = None
    if not isinstance(wrote, dict):
        raise UsageError(
            f"the line '{BEGIN}…' of the README has been changed and cannot be read; {remedy}"
        )
    return before, wrote, rest.partition(END)[2]


def _united(
    there: Mapping[str, Any], wrote: Mapping[str, Any], ours: Mapping[str, Any], force: bool
) -> tuple[dict[str, Any], list[str]]:
    """The front matter as it is to be, and what somebody else's fields keep it from saying."""
    wanted = dict(there)
    kept = []
    theirs = {key for key in there if key not in wrote or there[key] != wrote[key]}
    if theirs & set(LICENCE):
        theirs |= set(LICENCE)
    for key in dict.fromkeys((*ours, *wrote)):
        if key in LISTS:
            others = [one for one in _listed(there.get(key)) if one not in _listed(wrote.get(key))]
            value = list(dict.fromkeys((*_listed(ours.get(key)), *others))) or None
        elif key == RESULTS:
            value = _results(there.get(key), ours.get(key))
        elif key in theirs and not force:
            if there.get(key) != ours.get(key):
                kept.append(f"'{key}' is {_said(there.get(key))}, not {_said(ours.get(key))}")
            continue
        else:
            value = ours.get(key)
        wanted[key] = value
    if RESULTS in there and RESULTS not in ours:
        wanted[RESULTS] = _results(there[RESULTS], None)
    return {key: value for key, value in wanted.items() if value is not None}, kept


def _said(value: object) -> str:
    return "not there" if value is None else f"'{value}'"


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _results(there: Any, ours: Any) -> list[Any] | None:
    """Our results in the place of our earlier ones, and everybody else's beside them."""
    others = []
    for entry in _listed(there):
        if not isinstance(entry, dict) or not isinstance(entry.get("results"), list):
            others.append(entry)
            continue
        results = [one for one in entry["results"] if not _is_ours(one)]
        if results or not entry["results"]:
            others.append({**entry, "results": results})
    mine = _listed(ours)
    if mine and others and isinstance(others[0], dict) and "results" in others[0]:
        first = {**others[0], "results": [*mine[0]["results"], *others[0]["results"]]}
        return [first, *others[1:]]
    return [*mine, *others] or None


def _is_ours(result: Any) -> bool:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    arguments = dataset.get("args") if isinstance(dataset, dict) else None
    by = arguments.get("by") if isinstance(arguments, dict) else None
    return isinstance(by, str) and by.startswith(f"{OURS} ")


def _edited(block: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The lines of ``block`` with the fields changed that differ, and comments where they were.

    Where a block is written in a way that this cannot change line by line, it is written anew.
    """
    lines = []
    done = set()
    for key, line in _keyed(block):
        if key is None or there.get(key) == wanted.get(key):
            lines.append(line)
        elif key in wanted and key not in done:
            lines.append(_dumped(key, wanted[key]))
        done.add(key)
    lines += [_dumped(key, value) for key, value in wanted.items() if key not in done]
    text = "".join(lines)
    try:
        if _read(text) == wanted:
            return text
    except UsageError:
        pass
    return "".join(_dumped(key, value) for key, value in wanted.items())


def _keyed(block: str) -> Iterator[tuple[str | None, str]]:
    """Each line with the field that it belongs to, None for comments and empty lines."""
    current = None
    for line in block.splitlines(keepends=True):
        found = _KEY.match(line)
        if found:
            current = found[1] or found[2] or found[3]
        yield (None if line.startswith("#") or not line.strip() else current), line


def _dumped(key: str, value: Any) -> str:
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    return str(yaml_dump({key: value}, sort_keys=False))
