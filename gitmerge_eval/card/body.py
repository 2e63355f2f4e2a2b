"""The card's text: lineage, method, evaluation, cost and licences, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gitmerge_eval import methods
from gitmerge_eval.card import licences
from gitmerge_eval.card.facts import Facts, Leaf, unnamed
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.reporting import MODELS, STATUSES, cost_text, options_text
from gitmerge_eval.report.markdown import escaped, table_row


def body(facts: Facts) -> str:
    """All sections; whatever comes from the repository is escaped, for it may be anybody's."""
    count = len(facts.leaves)
    return "\n\n".join(
        [
            f"A merge of {count} fine-tuned model{'s' if count != 1 else ''} by "
            f"{escaped(_method(facts))}: {_code(facts.path)} of the Git commit "
            f"`{facts.commit}`, made with {escaped(facts.merge.tool)}.",
            *_lineage(facts),
            *_how(facts),
            *_evaluation(facts),
            *_cost(facts),
            *_licences(facts),
        ]
    )


def _method(facts: Facts) -> str:
    own = methods.load().get(facts.merge.method)
    return own.title if own else facts.merge.method


def _lineage(facts: Facts) -> Iterator[str]:
    yield "### Lineage"
    rows = [_leaf(leaf) for leaf in facts.leaves]
    rows += [("base", f"`{base[:10]}`", "–", "–", "–", "–", "–") for base in facts.merge.bases]
    yield _table(("model", "commit", "task", "on the Hub", "licence", "authors", "what"), rows)
    named = unnamed(facts.leaves)
    if named:
        yield (
            f"Without a place on the Hub, and so not in `base_model`: {escaped(', '.join(named))}."
        )


def _leaf(leaf: Leaf) -> tuple[str, ...]:
    own = leaf.declaration
    cells = (
        (own.task, own.hub, leaf.licence, ", ".join(own.authors), own.description) if own else ()
    )
    known = [escaped(cell) if cell else "–" for cell in cells] or ["–"] * 5
    return (escaped(leaf.name), f"`{leaf.commit[:10]}`", *known)


def _how(facts: Facts) -> Iterator[str]:
    yield "### Method"
    own = methods.load().get(facts.merge.method)
    lines = [f"- method: {escaped(facts.merge.method)}" + (f" ({own.reference})" if own else "")]
    options = options_text({k: v for k, v in facts.merge.options.items() if v is not None})
    lines.append(f"- options: {escaped(options) or 'none'}")
    if facts.spec:
        lines.append(f"- merge spec: {_code(facts.spec)}")
    if facts.merge.sweep:
        lines.append(f"- chosen by a sweep: {escaped(facts.merge.sweep)}")
    yield "\n".join(lines)
    yield "In a clone of the repository, this computes the merge again and compares every tensor:"
    yield f"    gitmerge-eval verify {facts.commit}"


def _evaluation(facts: Facts) -> Iterator[str]:
    yield "### Evaluation"
    if not facts.notes:
        yield "It has not been evaluated. In a clone of the repository:"
        yield f"    gitmerge-eval evaluate {facts.commit}\n    gitmerge-eval card {facts.commit}"
    for note in facts.notes:
        title = facts.benchmark.title if facts.benchmark else note.benchmark
        yield (
            f"{escaped(title)} ({_code(note.benchmark)}, evaluator "
            f"{escaped(note.evaluator_version)}), {escaped(note.split)} split, "
            f"{escaped(note.metric)}. Held-in are the constituents' own tasks, generalization the "
            "other combinations of their skills."
        )
        yield _table(("task", *MODELS), list(_scores(note)))
        if note.figures:
            yield _table(("of all tasks together", *MODELS), list(_figures(note)))


def _scores(note: EvaluationNote) -> Iterator[tuple[str, ...]]:
    for status in STATUSES:
        scores = [score for score in note.scores if score.status == status]
        if not scores:
            continue
        yield (f"**{status}**", "", "", "", "")
        for score in scores:
            yield (escaped(score.task), *(_number(getattr(score, model)) for model in MODELS))
        yield ("average", *(_number(note.average(status, model)) for model in MODELS))
        ratio = note.normalised(status)
        if ratio is not None:
            reference = "individual" if status == "held-in" else "pretrained"
            yield (f"normalised by {reference}", f"{ratio:.3f}", "", "", "")


def _figures(note: EvaluationNote) -> Iterator[tuple[str, ...]]:
    for name, values in note.figures.items():
        yield (escaped(name), *(_number(values.get(model)) for model in MODELS))


def _cost(facts: Facts) -> Iterator[str]:
    known = next((note.cost for note in facts.notes if note.cost), None)
    if known:
        yield "### Cost of the merge"
        yield escaped(cost_text(known)) + "."


def _licences(facts: Facts) -> Iterator[str]:
    yield "### Licences"
    found = facts.licences
    yield _outcome(found)
    if found.problems:
        yield "\n".join(f"- {escaped(problem)}" for problem in found.problems)
    links = _links(facts)
    if links:
        yield "\n".join(f"- {escaped(name)}: {escaped(link)}" for name, link in links.items())
    if found.duties:
        yield "What the licences that are known ask of whoever passes the model on:"
        yield "\n".join(f"- {escaped(duty)}" for duty in found.duties)
    yield (
        "The licence of the model that all were made from counts, too, and is not declared here. "
        "This is read from what each branch declares, and is no legal advice."
    )


def _outcome(found: licences.Combined) -> str:
    if found.is_known:
        return f"These models may be merged and passed on under **{escaped(found.expression)}**."
    return "**It is not known that this combination is allowed**, because of:"


def _links(facts: Facts) -> dict[str, str]:
    declared = [leaf.declaration for leaf in facts.leaves if leaf.declaration]
    return {
        own.licence_name or own.licence or own.name: own.licence_link
        for own in declared
        if own.licence_link
    }


def _code(text: str) -> str:
    """Text between backticks, outside of tables; it can neither end them nor begin a comment."""
    return f"`{' '.join(text.replace('`', chr(39)).replace('<!--', '<! --').split())}`"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks: Mapping[bool, str] = {True: "--:", False: "---"}
    numeric = columns[1:] == MODELS
    heads = [marks[numeric and place > 0] for place in range(len(columns))]
    return "\n".join([table_row(columns), table_row(heads), *map(table_row, rows)])
