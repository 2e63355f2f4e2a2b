"""lm-evaluation-harness as the evaluator: its own HFLM and evaluate, on tasks by name.

A task of lm-eval's is code: its YAML may name Python functions, and so the files that are read are
those of the installed lm_eval and of a folder in the user's own configuration, and no others. The
names come from a declaration that anybody may have written: lm-eval would take a path for a name
as well, which is why a name has to be in the index of those two places. lm-eval runs in an empty
folder, because what it and its libraries call 'exact_match' or 'hellaswag' they look for in the
working directory first, and that may be a merged branch's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn

from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.errors import EvaluationError, UnknownName

TaskProgress = Callable[[str, int, int], object]
_CODE = (".yaml", ".yml", ".py", ".jinja", ".json", ".jsonl", ".txt")
"""What a task of the user's own may be made of."""


@dataclass(frozen=True)
class Asked:
    """A task of lm-eval's, or a group of them, and the metric that is its score."""

    name: str
    metric: str
    """As in lm-eval's results, such as 'acc_norm', or with a filter, 'exact_match,strict-match'."""

    @property
    def key(self) -> str:
        """The metric's name there, where 'none' is the filter that does nothing."""
        return self.metric if "," in self.metric else f"{self.metric},none"


@dataclass(frozen=True)
class Settings:
    """How lm-eval is asked."""

    shots: int | None = None
    """Examples in the prompt; None: as the task says."""
    limit: int | None = None
    """The first examples only; None: all."""
    batch: int = 8
    percent: bool = False
    """Whether the metrics are percentages already, as BLEU is."""


class Harness:
    """The tasks of one declaration. ``folder`` is the user's own tasks', or None.

    Raises EvaluationError where lm-eval does not know a name or a metric.
    """

    def __init__(self, asked: Mapping[str, Asked], settings: Settings, folder: Path | None) -> None:
        self._asked, self._settings, self._folder = asked, settings, folder
        self._loaded: dict[tuple[str, str], dict[str, Any]] = {}

    @functools.cached_property
    def _manager(self) -> TaskManager:
        names = {asked.name for asked in self._asked.values()}
        if self._folder is not None:
            own = TaskManager(include_path=str(self._folder), include_defaults=False)
            if names <= {*own.all_subtasks, *own.all_groups}:
                return own  # lm-eval's own tasks are 14,000 files, and take a quarter of a minute
        return TaskManager(include_path=str(self._folder) if self._folder else None)

    def _tasks(self, task: str, split: str) -> dict[str, Any]:
        """lm-eval's tasks behind one of the benchmark's, set to evaluate ``split``."""
        if (task, split) not in self._loaded:
            name = self._asked[task].name
            known = {*self._manager.all_subtasks, *self._manager.all_groups}
            if name not in known:
                raise EvaluationError(
                    f"{UnknownName.among('task of lm-eval', name, known)}; tasks of your own are "
                    "looked for in the folder that 'git config merge-eval.lm-eval-tasks' names"
                )
            with apart():
                loaded = self._manager.load([name])
            for own in loaded["tasks"].values():
                _check(own, self._asked[task])
                _set_shots(own, self._settings.shots)
                if split == "validation":
                    _use_validation(own)
            self._loaded[task, split] = loaded
        return self._loaded[task, split]

    def fingerprint(self, task: str, split: str) -> str:
        """A digest of lm-eval's version, the user's own task files, and the examples."""
        digest = hashlib.sha256(version("lm_eval").encode())
        if self._folder is not None:
            for file in sorted(p for p in self._folder.rglob("*") if p.suffix in _CODE):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        for name, own in self._tasks(task, split).get("tasks", {}).items():
            digest.update(name.encode())
            shots = self._settings.shots if self._settings.shots is not None else 1
            several = [own.eval_docs, own.fewshot_docs() if shots else None]
            for doc in (doc for docs in several for doc in docs or ()):
                digest.update(json.dumps(doc, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()

    def examples(self, task: str) -> tuple[Example, ...]:
        """The training examples of lm-eval's tasks, with its prompts; empty where it has none."""
        found: list[Example] = []
        for own in self._tasks(task, "test")["tasks"].values():
            if own.has_training_docs():
                found += [_example(own, doc) for doc in own.training_docs()]
        return tuple(found)

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: Any,
        tasks: Sequence[str],
        *,
        split: str,
        progress: TaskProgress | None = None,
    ) -> dict[str, float]:
        """The score in percent by task. Raises EvaluationError for a metric that is not there."""
        scores = {}
        for task in tasks:
            loaded = self._tasks(task, split)
            with apart():
                lm = _Reporting(
                    functools.partial(progress, task) if progress else None,
                    pretrained=model,
                    tokenizer=tokenizer,
                    batch_size=self._settings.batch,
                )
                results = evaluate(
                    lm,
                    loaded,
                    limit=self._settings.limit,
                    bootstrap_iters=0,
                    log_samples=False,
                )
            assert results is not None
            scores[task] = self._score(task, results)
        return scores

    def _score(self, task: str, results: Mapping[str, Any]) -> float:
        asked = self._asked[task]
        found = {**results["results"], **results.get("groups", {})}[asked.name]
        value = found.get(asked.key)
        if not isinstance(value, (int, float)):
            known = [k for k, v in found.items() if "," in k and isinstance(v, (int, float))]
            what = UnknownName.among(f"metric of {asked.name}", asked.key, known)
            raise EvaluationError(f"{what}; correct it in benchmark.toml")
        if self._settings.percent:
            return float(value)
        if not 0 <= value <= 1:
            raise EvaluationError(
                f"'{asked.metric}' of {asked.name} is {value}, which is no share of 1; say "
                "'percent = true' in [lm_eval] where a metric is in percent"
            )
        return 100.0 * float(value)


def _check(own: Any, asked: Asked) -> None:
    better = own.higher_is_better() or {}
    if better.get(asked.metric.partition(",")[0]) is False:
        raise EvaluationError(
            f"less of '{asked.metric}' is better, and scores are compared as if more were; choose "
            f"another metric of {asked.name}"
        )
    if getattr(own, "UNSAFE_CODE", False):
        raise EvaluationError(
            f"{asked.name} runs code that a model writes, which an evaluation of branches must "
            "not; choose another task"
        )


def _set_shots(own: Any, shots: int | None) -> None:
    """As lm-eval's simple_evaluate does, which beside this asks Git for the commit that it is in.

    A task that says 0 keeps it.
    """
    given = own.get_config("num_fewshot")
    if given != 0:
        own.set_config(key="num_fewshot", value=(given or 0) if shots is None else shots)
    own.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _use_validation(own: Any) -> None:
    config = getattr(own, "config", None)
    if not (own.has_test_docs() and own.has_validation_docs() and hasattr(config, "test_split")):
        raise EvaluationError(
            f"{own.task_name} of lm-eval has one split with answers, which is the test split here; "
            "there is no validation split beside it"
        )
    # lm-eval evaluates the test split where there is one, else the validation split.
    own.config.test_split = None


def _example(own: Any, doc: Mapping[str, Any]) -> Example:
    source, target = own.doc_to_text(doc), own.doc_to_target(doc)
    choices = own.doc_to_choice(doc) if own.config.doc_to_choice is not None else ()
    several = target if isinstance(target, list) else [target]
    texts = tuple(str(choices[t]) if choices and isinstance(t, int) else str(t) for t in several)
    if not isinstance(source, str) or not texts or own.multiple_input:
        raise EvaluationError(
            f"{own.task_name} of lm-eval has no one prompt and answer to train on; declare [data] "
            "and [prompts] for training and statistics"
        )
    return Example(source + own.config.target_delimiter, texts)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """lm-eval by its own seeds, in an empty working directory, quiet, and without a trace."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(stack.enter_context(tempfile.TemporaryDirectory()))
        _quiet(stack)
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.enter_context(torch.random.fork_rng())
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        yield


def _quiet(stack: contextlib.ExitStack) -> None:
    """No bars and no advice on standard error, where our own bar is."""
    logger = logging.getLogger("lm_eval")
    stack.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.ERROR)
    if not datasets.are_progress_bars_disabled():
        stack.callback(datasets.enable_progress_bars)
        datasets.disable_progress_bars()
    room: Any = lm_eval.api.task
    stack.callback(setattr, room, "tqdm", room.tqdm)
    room.tqdm = functools.partial(room.tqdm, disable=True)


class _Reporting(HFLM):  # type: ignore[misc]
    """lm-eval's model, whose bars are ours."""

    def __init__(self, report: Callable[[int, int], object] | None, **how: Any) -> None:
        super().__init__(**how)
        self._report = report or (lambda done, total: None)

    def _reported(self, run: Callable[..., Any], requests: Sequence[Any], **how: Any) -> Any:
        self._report(0, len(requests))
        found = run(requests, **{**how, "disable_tqdm": True})
        self._report(len(requests), len(requests))
        return found

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As of HFLM."""
        return self._reported(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As of HFLM."""
        return self._reported(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As of HFLM."""
        return self._reported(super().generate_until, requests)
