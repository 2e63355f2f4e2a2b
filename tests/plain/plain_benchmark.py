"""A benchmark whose family is a plain function: what a third party's package would hold.

A model is one number for each skill, and its score on a task is the mean of the task's skills. It
writes down what it computed (PLAIN_LOG), and can be slow (PLAIN_SECONDS a task) or fail.
"""

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import load_file

from gitmerge_eval.benchmarks import BuiltModels
from gitmerge_eval.records import Benchmark, StatisticFile, Task

AXES = {"category": ("fruit", "bird", "tool"), "domain": ("quickdraw", "real", "sketch")}
UNAVAILABLE = {"tool-real"}


def evaluate(checkpoint, tasks, *, split, device, progress=None, settings=None):
    if os.environ.get("PLAIN_FAIL"):
        raise RuntimeError(os.environ["PLAIN_FAIL"])
    os.getcwd()  # libraries end a process whose folder is gone
    skills = load_file(checkpoint)
    scores = {}
    for task in tasks:
        seconds = float(os.environ.get("PLAIN_SECONDS", "0"))
        for step in range(10):
            time.sleep(seconds / 10)
            if progress is not None:
                progress(task, step + 1, 10)
        log(f"{checkpoint} {task} {split} {(settings or {}).get('seed')}")
        scores[task] = float(sum(skills[skill][0] for skill in task.split("-"))) / 2
    return scores


def fingerprint(task, split, settings=None):
    return hashlib.sha256(f"{task} {split} {sorted((settings or {}).items())}".encode()).hexdigest()


def collect(kind, checkpoint, task, *, options=None, settings=None, device="cpu", progress=None):
    tensors = load_file(checkpoint)
    return StatisticFile(
        kind, tensors, {name: {"key": name} for name in tensors}, 1, 1, f"plain/{task}:train", "f"
    )


def build(directory, *, settings=None, progress=None):
    """Models as a recipe would train them: base, three constituents, multitask."""
    import torch
    from safetensors.torch import save_file

    seed = (settings or {}).get("seed", 0)
    skills = [skill for values in AXES.values() for skill in values]
    directory.mkdir(parents=True)

    def save(name, good, level):
        values = {
            skill: torch.tensor([float(level if skill in good else 20 + number + seed)])
            for number, skill in enumerate(skills)
        }
        save_file(values, directory / f"{name}.safetensors")
        return directory / f"{name}.safetensors"

    if progress is not None:
        progress("base", 1, 1)
    base = save("base", (), 0)
    if os.environ.get("PLAIN_BUILD_FAILS"):
        raise KeyboardInterrupt
    held_in = ("fruit-quickdraw", "bird-real", "tool-sketch")
    return BuiltModels(
        base=base,
        constituents={task: save(task, task.split("-"), 90) for task in held_in},
        multitask=save("multitask", skills, 80),
        statistics={
            task: tuple(
                StatisticFile(
                    kind,
                    {skill: torch.ones(1) for skill in skills},
                    {skill: {"key": skill} for skill in skills},
                    examples=10,
                    tokens=0,
                    data=f"plain/{task}:train",
                    fingerprint=fingerprint(task, "train"),
                )
                for kind in ("fisher",)
            )
            for task in held_in
        },
        settings={"seed": seed},
    )


def log(line):
    if os.environ.get("PLAIN_LOG"):
        with Path(os.environ["PLAIN_LOG"]).open("a") as file:
            file.write(line + "\n")


BENCHMARK = Benchmark(
    name="plain",
    title="Numbers as skills",
    axes=AXES,
    tasks=tuple(
        Task(
            f"{category}-{domain}",
            {"category": category, "domain": domain},
            "unavailable" if f"{category}-{domain}" in UNAVAILABLE else "generalization",
        )
        for category in AXES["category"]
        for domain in AXES["domain"]
    ),
    metric="skill",
    evaluator_version="1",
    evaluate=evaluate,
    fingerprint=fingerprint,
    collect=collect,
    build=build,
)
WITHOUT_RECIPE = replace(BENCHMARK, name="plain-without-recipe", build=None)


def evaluate_beside(checkpoint, tasks, *, outputs, **how):
    """The plain score, raised by what lies beside the checkpoint."""
    offset = float(load_file(checkpoint.parent / "frozen" / "offset.safetensors")["offset"][0])
    factor = float((checkpoint.parent / "factor.txt").read_text())
    scores = {t: factor * s + offset for t, s in evaluate(checkpoint, tasks, **how).items()}
    for task, score in scores.items():
        assert list(outputs[task].iterdir()) == []
        (outputs[task] / "score.txt").write_text(repr(score))
    return scores


def summarise_beside(outputs, *, sheet, settings, split):
    """The largest score of each status, and a sheet that names the tasks."""
    if sheet:
        sheet.write_text("\n".join(task for tasks in outputs.values() for task in tasks))
    return {
        f"best {status}": max(float((f / "score.txt").read_text()) for f in tasks.values())
        for status, tasks in outputs.items()
    }


BESIDE = replace(
    BENCHMARK,
    name="plain-beside",
    evaluate=evaluate_beside,
    checkpoint="models/skills.safetensors",
    companions=("factor.txt", "frozen"),
    summarise=summarise_beside,
)
