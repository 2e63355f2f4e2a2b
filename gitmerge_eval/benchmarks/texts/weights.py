"""Checkpoints of text models as state dicts, and texts as padded token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.learning.state_files import State as State
from gitmerge_eval.benchmarks.learning.state_files import read as read
from gitmerge_eval.benchmarks.learning.state_files import save as save
from gitmerge_eval.errors import EvaluationError

Pair = tuple[Sequence[int], Sequence[int]]
"""The token ids of one example: (source, target)."""


def state_of(model: nn.Module) -> State:
    """A copy of the model's weights under the names that transformers stores them by.

    A tensor with several names, as the word embedding, has the first.
    """
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


def check(model: nn.Module, given: Mapping[str, Tensor], what: str) -> None:
    """Raises EvaluationError where names or shapes of ``given`` are not the model's parameters'."""
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    wrong = sorted(
        (expected.keys() ^ given.keys())
        | {n for n in expected.keys() & given.keys() if expected[n] != given[n].shape}
    )
    if wrong:
        raise EvaluationError(
            f"{what} is not a checkpoint of this model configuration: {len(wrong)} parameters are "
            f"missing, unknown or of another shape, the first '{wrong[0]}'"
        )


def padded(rows: Iterable[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows of ids filled up on the right to the longest, and where they have tokens."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in tensors])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def picked(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The log-probabilities of ``targets``, 0 outside ``mask``."""
    # float32: sums of bfloat16 log-probabilities lose the difference between two options
    likely = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.where(mask, likely, torch.zeros_like(likely))
