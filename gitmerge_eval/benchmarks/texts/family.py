"""What differs between the families of text models: everything that touches the architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import Pair, State, read
from gitmerge_eval.statistics.gram import GramState


class Batch(Protocol):
    """Several examples as padded token ids."""

    def __len__(self) -> int:
        """How many examples there are."""

    @property
    def target_mask(self) -> Tensor:
        """True at the tokens that are to be predicted."""

    def to(self, device: str | torch.device) -> Any:
        """The same on another device."""


B = TypeVar("B", bound=Batch)
Read = TypeVar("Read", bound=Batch, contravariant=True)


class Assemble(Protocol):
    """``assemble(configuration, state, what)``: the model with these weights."""

    def __call__(self, configuration: Path, state: State, what: str) -> nn.Module:
        """Raises EvaluationError where names or shapes are not the model's; ``what`` has them."""


class Generate(Protocol):
    """``generate(model, tokens, sources, longest=…)``: the most likely texts."""

    def __call__(
        self, model: nn.Module, tokens: Tokens, sources: Sequence[str], *, longest: int
    ) -> list[str]:
        """At most ``longest`` tokens for each source."""


class Sampled(Protocol):
    """``sampled(model, tokens, pairs, longest=…, seed=…)``: targets drawn from the model."""

    def __call__(
        self, model: nn.Module, tokens: Tokens, pairs: Sequence[Pair], *, longest: int, seed: int
    ) -> list[Pair]:
        """The sources with targets of at most ``longest`` tokens."""


class Fisher(Protocol[Read]):
    """``fisher(model, batches, chunk=…, progress=…)``: the mean of squared gradients."""

    def __call__(
        self,
        model: nn.Module,
        batches: Sequence[Read],
        *,
        chunk: int = ...,
        progress: Progress | None = ...,
    ) -> dict[str, Tensor]:
        """``chunk`` examples' gradients are in memory at a time."""


class Gram(Protocol[Read]):
    """``gram(model, batches, dtype=…, progress=…)``: sums of the inputs' outer products."""

    def __call__(
        self,
        model: nn.Module,
        batches: Sequence[Read],
        *,
        dtype: torch.dtype = ...,
        progress: Progress | None = ...,
    ) -> GramState:
        """Padding is left out."""


@dataclass(frozen=True)
class Family(Generic[B]):
    """One family's functions."""

    assemble: Assemble
    published: Callable[[Path], State]
    """The weights in a folder as transformers saves a model, in one file or in shards."""
    pair: Callable[[Tokens, str, str], Pair]
    """``pair(tokens, source, target)``: an example's ids, as training reads it."""
    batch: Callable[[Sequence[Pair], int], B]
    """``batch(pairs, pad)``."""
    likelihoods: Callable[[nn.Module, B], Tensor]
    """log p of each token of the targets, 0 elsewhere; a row an example."""
    option_scores: Callable[[nn.Module, Tokens, Sequence[Example]], list[list[float]]]
    """The mean log-likelihood of the tokens of each option of each example."""
    generate: Generate
    sampled: Sampled
    fisher: Fisher[B]
    gram: Gram[B]
    adapted: Callable[[Path, Path], nn.Module] | None = None
    """``adapted(configuration, checkpoint)``: where checkpoints are adapters, the changed model."""
    pretrain: Callable[..., State] | None = None
    """``pretrain(grid, progress=…)``: the base of a recipe that has none published."""

    def load(self, checkpoint: Path, configuration: Path, device: str = "cpu") -> nn.Module:
        """The model in eval mode with the checkpoint's weights, in the dtype that they have there.

        Raises EvaluationError where the file cannot be read or holds another architecture.
        """
        if self.adapted:
            model = self.adapted(configuration, checkpoint)
        else:
            model = self.assemble(configuration, read(checkpoint), f"'{checkpoint}'")
        return model.to(device).eval()
