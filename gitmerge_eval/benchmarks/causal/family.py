"""The family of decoder-only models, as the rooms of text models take it."""

from __future__ import annotations

from gitmerge_eval.benchmarks.causal import measuring, model, scoring
from gitmerge_eval.benchmarks.texts.family import Family

FAMILY = Family(
    assemble=model.assemble,
    published=model.published,
    pair=model.pair,
    batch=model.batch,
    likelihoods=model.target_log_likelihoods,
    option_scores=scoring.option_scores,
    generate=scoring.generate,
    sampled=measuring.sampled,
    fisher=measuring.fisher_diagonal,
    gram=measuring.gram_matrices,
)
