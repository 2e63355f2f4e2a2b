"""Fisher and Gram statistics of a decoder-only model's weights; padding never counts.

Of those that require a gradient: all, unless an adapter changes a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import Pair, picked
from gitmerge_eval.statistics import fisher, gram

TIED = "the word embedding and the output layer in one: what is good for one need not be for both"


def fisher_diagonal(
    model: nn.Module,
    batches: Sequence[causal.Batch],
    *,
    chunk: int = 32,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The mean over examples of the squared gradient of log p(target | prompt).

    An example's log-likelihood is the sum over its target's tokens, the end of text included; the
    prompt's are read and not counted. ``chunk`` examples' gradients are in memory at a time.
    """

    def loss(parameters: Mapping[str, Tensor], *one: Tensor) -> Tensor:
        ids, target_mask = (tensor[None] for tensor in one)
        # A mask of no example: transformers looks into one, which it cannot in a vectorised call.
        seen = torch.ones(ids.shape, dtype=torch.long, device=ids.device)
        arguments = {"input_ids": ids, "attention_mask": seen, "use_cache": False}
        logits = torch.func.functional_call(model, dict(parameters), (), arguments).logits
        return -picked(logits[:, :-1], ids[:, 1:], target_mask[:, 1:]).sum()

    state = fisher.FisherState()
    total = sum(len(batch) for batch in batches)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for batch in batches:
        fisher.update(state, loss, parameters, (batch.ids, batch.target_mask), chunk=chunk)
        if progress:
            progress(state.examples, total)
    return fisher.compute(state)


def gram_matrices(
    model: nn.Module,
    batches: Sequence[causal.Batch],
    *,
    dtype: torch.dtype = torch.float64,
    progress: Progress | None = None,
) -> gram.GramState:
    """The sums of input outer products of each linear layer, over prompts' and targets' tokens.

    An output layer that is the word embedding too has no matrix.
    """
    watched = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = sum(len(batch) for batch in batches)
    done = 0
    with gram.recording(watched, dtype=dtype) as recorder:
        for batch in batches:
            recorder.masks = dict.fromkeys(watched, batch.mask)
            causal.target_log_likelihoods(model, batch)
            done += len(batch)
            if progress:
                progress(done, total)
    _, embedding = causal.tied_names(model)
    if recorder.state.sums.pop(embedding, None) is not None:
        recorder.state.refused[embedding] = TIED
    return recorder.state


@torch.no_grad()
def sampled(
    model: nn.Module,
    tokens: Tokens,
    pairs: Sequence[Pair],
    *,
    longest: int,
    seed: int,
) -> list[Pair]:
    """The prompts with targets drawn from the model, token by token, at most ``longest`` each."""
    device = next(model.parameters()).device
    write: Any = model.generate
    found: list[Pair] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for source, _ in pairs:
            ids = torch.tensor([source], device=device)
            row = write(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest,
                do_sample=True, num_beams=1, top_k=0, top_p=1.0, temperature=1.0,
                pad_token_id=tokens.pad, eos_token_id=tokens.end,
            )[0, len(source) :].tolist()  # fmt: skip
            found.append((source, row[: row.index(tokens.end) + 1] if tokens.end in row else row))
    return found
