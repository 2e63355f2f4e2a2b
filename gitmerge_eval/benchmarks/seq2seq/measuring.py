"""Fisher and Gram statistics of an encoder-decoder, of all its weights; padding never counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import Pair, picked
from gitmerge_eval.statistics import fisher, gram

_CROSS_ATTENTION = ("EncDecAttention.k.weight", "EncDecAttention.v.weight")
TIED = "the word embedding and the output layer in one: what is good for one need not be for both"


def fisher_diagonal(
    model: nn.Module,
    batches: Sequence[seq2seq.Batch],
    *,
    chunk: int = 32,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The mean over examples of the squared gradient of log p(target | source).

    An example's log-likelihood is the sum over its target's tokens, the end of text included.
    ``chunk`` examples' gradients are in memory at a time.
    """

    def loss(parameters: Mapping[str, Tensor], *one: Tensor) -> Tensor:
        source, source_mask, target, target_mask = (tensor[None] for tensor in one)
        # The additive mask as attention wants it: transformers would look into a plain one, which
        # a vectorised call cannot. One decoder row is causal, so that it needs no mask.
        dtype = next(iter(parameters.values())).dtype
        lowest = torch.finfo(dtype).min
        hidden = torch.zeros(source_mask.shape, dtype=dtype, device=source.device)
        hidden = torch.where(source_mask, hidden, lowest)[:, None, None, :]
        arguments = {
            "input_ids": source,
            "attention_mask": hidden,
            "decoder_input_ids": seq2seq.decoder_input(model, target),
            "use_cache": False,
        }
        logits = torch.func.functional_call(model, dict(parameters), (), arguments).logits
        return -picked(logits, target, target_mask).sum()

    state = fisher.FisherState()
    total = sum(len(batch.sources) for batch in batches)
    parameters = dict(model.named_parameters())
    for batch in batches:
        rows = (batch.sources, batch.source_mask, batch.targets, batch.target_mask)
        fisher.update(state, loss, parameters, rows, chunk=chunk)
        if progress:
            progress(state.examples, total)
    return fisher.compute(state)


def gram_matrices(
    model: nn.Module,
    batches: Sequence[seq2seq.Batch],
    *,
    dtype: torch.dtype = torch.float64,
    progress: Progress | None = None,
) -> gram.GramState:
    """The sums of input outer products of each linear layer.

    An encoder's layers count the sources' tokens, a decoder's the targets', and cross-attention's
    k and v, which read the encoder's output, again the sources'. An output layer that is the word
    embedding too has no matrix.
    """
    watched = dict(model.named_parameters())
    total = sum(len(batch.sources) for batch in batches)
    done = 0
    with gram.recording(watched, dtype=dtype) as recorder:
        for batch in batches:
            recorder.masks = {
                name: batch.source_mask if sees_source(name) else batch.target_mask
                for name in watched
            }
            seq2seq.token_log_likelihoods(model, batch)
            done += len(batch.sources)
            if progress:
                progress(done, total)
    if seq2seq.is_tied(model):
        recorder.state.sums.pop("shared.weight")
        recorder.state.refused["shared.weight"] = TIED
    return recorder.state


def sees_source(name: str) -> bool:
    """Whether the parameter called ``name`` meets the tokens of the source."""
    return name.startswith("encoder.") or name.endswith(_CROSS_ATTENTION)


@torch.no_grad()
def sampled(
    model: nn.Module,
    tokens: Tokens,
    pairs: Sequence[Pair],
    *,
    longest: int,
    seed: int,
) -> list[Pair]:
    """The sources with targets drawn from the model, token by token, at most ``longest`` each."""
    device = next(model.parameters()).device
    write: Any = model.generate
    config: Any = model.config
    found: list[Pair] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for source, _ in pairs:
            ids = torch.tensor([source], device=device)
            row = write(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest,
                do_sample=True, num_beams=1, top_k=0, top_p=1.0, temperature=1.0,
            )[0, 1:].tolist()  # fmt: skip
            end = config.eos_token_id
            found.append((source, row[: row.index(end) + 1] if end in row else row))
    return found
