"""The card's front matter: what the Hugging Face Hub reads of a merged model.

The fields are those of https://github.com/huggingface/hub-docs/blob/main/modelcard.md and
https://huggingface.co/docs/hub/model-cards; huggingface_hub's own classes make them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gitmerge_eval import __version__
from gitmerge_eval.card.facts import Facts, Leaf
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.reporting import STATUSES

OURS = "gitmerge-eval"
"""What the arguments of a result of ours begin with, by which it is known again."""
RESULTS = "model-index"
LIBRARIES = {
    "open_clip": "open_clip",
    "transformers": "transformers",
    "causal-lm": "transformers",
    "diffusers": "diffusers",
}
PIPELINES = {
    "open_clip": "zero-shot-image-classification",
    "causal-lm": "text-generation",
    "diffusers": "text-to-image",
}
"""Of encoder-decoders the Hub knows it by their config.json."""
TASKS = {**PIPELINES, "transformers": "text-generation"}
_DECIMALS = 4


def front_matter(facts: Facts) -> dict[str, Any]:
    """The fields of the card's front matter, in the order in which they are written.

    ``base_model`` has places on the Hub alone: the constituents', then those of the models that
    they were made from. Raises EvaluationError for a place that cannot be one.
    """
    from huggingface_hub import ModelCardData

    family = facts.benchmark.family if facts.benchmark else ""
    models = list(dict.fromkeys(_places(facts.leaves)))
    results = [one for note in facts.notes for one in _results(facts, note)]
    licence = facts.licences.front_matter()
    data = ModelCardData(
        license=licence["license"],
        license_name=licence.get("license_name"),
        base_model=models or None,
        tags=["merge", OURS, facts.merge.method],
        library_name="peft" if _is_peft(facts, family) else LIBRARIES.get(family),
        pipeline_tag=PIPELINES.get(family),
        datasets=facts.datasets or None,
        metrics=list(dict.fromkeys(one.metric_type for one in results)) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        base_model_relation="merge" if models else None,
    )
    order = ("license", "license_name", "base_model", "base_model_relation")
    fields = dict(data.to_dict())  # type: ignore[no-untyped-call]
    return {key: fields[key] for key in (*order, *fields) if key in fields}


def _is_peft(facts: Facts, family: str) -> bool:
    return facts.is_adapter and family != "diffusers"


def _places(leaves: tuple[Leaf, ...]) -> Iterator[str]:
    for key in ("hub", "base_model"):
        for leaf in leaves:
            place = getattr(leaf.declaration, key) if leaf.declaration else None
            if place:
                yield _checked(place, key, leaf)


def _checked(place: str, key: str, leaf: Leaf) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(place)
    except HFValidationError as error:
        where = leaf.declaration.path if leaf.declaration else leaf.name
        raise EvaluationError(
            f"'{where}' of '{leaf.name}': '{key}' is '{place}', which is no identifier of the "
            "Hub; write owner/name there and commit it"
        ) from error
    return place


def _results(facts: Facts, note: EvaluationNote) -> Iterator[Any]:
    """Each task's score, then the averages, as the Hub's evaluation results."""
    from huggingface_hub import EvalResult

    family = facts.benchmark.family if facts.benchmark else ""
    title = facts.benchmark.title if facts.benchmark else note.benchmark
    common: dict[str, Any] = {
        "task_type": TASKS.get(family, "other"),
        "dataset_type": (facts.datasets or [note.benchmark])[0],
        "dataset_split": note.split,
    }
    by = {"by": f"{OURS} {__version__}"}
    for score in note.scores:
        metric = _metric(facts, note, score.task)
        yield EvalResult(
            **common,
            dataset_name=f"{title}: {score.task}",
            dataset_config=score.task,
            dataset_args={**by, "status": score.status, "data": score.fingerprint},
            metric_type=_identifier(metric),
            metric_name=metric,
            metric_value=round(score.merged, _DECIMALS),
        )
    for status in STATUSES:
        average = note.average(status)
        if average is not None:
            yield EvalResult(
                **common,
                dataset_name=f"{title}: average over {status} tasks",
                dataset_config=f"{status} average",
                dataset_args={**by, "status": status},
                metric_type=_identifier(note.metric),
                metric_name=f"{note.metric}, average",
                metric_value=round(average, _DECIMALS),
            )


def _metric(facts: Facts, note: EvaluationNote, task: str) -> str:
    known = {one.name: one.metric for one in facts.benchmark.tasks} if facts.benchmark else {}
    return known.get(task) or note.metric


def _identifier(metric: str) -> str:
    """A metric's name as the Hub spells such.

    >>> _identifier("exact match and F1")
    'exact-match-and-f1'
    """
    return re.sub(r"[^a-z0-9_]+", "-", metric.lower()).strip("-")
