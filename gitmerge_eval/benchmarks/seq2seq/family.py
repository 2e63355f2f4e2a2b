"""The family of encoder-decoders, as the rooms of text models take it."""

from __future__ import annotations

from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.seq2seq import measuring, scoring, training
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts.family import Family
from gitmerge_eval.benchmarks.texts.grid import Grid
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.training import encoded
from gitmerge_eval.benchmarks.texts.weights import Pair, State


def pair(tokens: Tokens, source: str, target: str) -> Pair:
    """What the encoder reads and what the decoder is to write, each with its end of text."""
    return tokens.encode(source), tokens.encode(target)


def pretrain(grid: Grid, *, progress: Progress | None = None) -> State:
    """The base of a recipe: trained on the tasks of all cells and on the corpus."""
    numbers = dict(grid.recipe["pretraining"])
    task_share, second = numbers.pop("task_share"), dict(numbers.pop("shuffled"))
    cells = [(task.skills["task"], grid.cell(task.name, "train")) for task in grid.tasks]
    mixture = training.Mixture(
        pairs=encoded(FAMILY, [e for _, cell in cells for e in cell], grid.tokens),
        kinds=[kind for kind, cell in cells for _ in cell],
        corpus=grid.source.corpus(),
        task_share=task_share,
        exchanged=second.pop("exchanged"),
    )
    return training.pretrain(
        grid.configuration,
        mixture,
        grid.tokens,
        Schedule(**numbers),
        Schedule(**second),
        seed=grid.seed,
        progress=progress,
    )


FAMILY = Family(
    assemble=seq2seq.assemble,
    published=seq2seq.published,
    pair=pair,
    batch=seq2seq.batch,
    likelihoods=seq2seq.token_log_likelihoods,
    option_scores=scoring.option_scores,
    generate=scoring.generate,
    sampled=measuring.sampled,
    fisher=measuring.fisher_diagonal,
    gram=measuring.gram_matrices,
    pretrain=pretrain,
)
