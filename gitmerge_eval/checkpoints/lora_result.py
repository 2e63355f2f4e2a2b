"""The adapter that a merge makes: names, ranks, scales, header and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gitmerge_eval.checkpoints import lora, lora_configuration
from gitmerge_eval.checkpoints.lora import Adapter, Pair
from gitmerge_eval.checkpoints.lora_configuration import Difference, Settings


@dataclass(frozen=True)
class Outline:
    """All of a merged adapter but its numbers."""

    pairs: Mapping[str, Pair]
    """weight -> names and dtype of its factors."""
    settings: Mapping[str, Settings]
    """component -> the merged configuration, its ranks not yet set."""
    differences: tuple[Difference, ...]
    """What the branches' configurations do not agree on."""
    header: Mapping[str, str]
    _versions: Mapping[str, tuple[Settings, ...]]

    def pair(self, weight: str, rank: int) -> Pair:
        """The result's pair for ``weight`` when its factors are made anew, with ``rank``."""
        return lora.result_pair(self.pairs[weight], rank, self.settings)

    def can_say(self, weight: str, rank: int, scale: float) -> bool:
        """Whether the result can hold factors with this scale: its format may know no other."""
        pair = self.pair(weight, rank)
        return scale == pair.scale or (pair.component in self.settings and not pair.alpha)

    def finish(
        self, ranks: Mapping[str, int], scales: Mapping[str, float]
    ) -> tuple[dict[str, str], bytes | None]:
        """The file's header and PEFT's ``adapter_config.json``, for factors of these ranks.

        weight -> r, and s. The configuration is None for files of diffusers and kohya.
        """
        found: dict[str, dict[str, tuple[int, float]]] = {c: {} for c in self.settings}
        for weight, rank in ranks.items():
            pair = self.pair(weight, rank)
            if pair.component in found:
                found[pair.component][pair.module] = rank, scales.get(weight, pair.scale)
        updated = {
            component: lora_configuration.with_factors(
                own,
                {module: rank for module, (rank, _) in found[component].items()},
                self._versions[component],
                {module: scale for module, (_, scale) in found[component].items()},
            )
            if found[component]
            else dict(own)
            for component, own in self.settings.items()
        }
        header = lora.header_with(self.header, updated)
        if "" in updated and lora.HEADER_KEY not in self.header:
            return header, lora_configuration.serialize(updated[""])
        return header, None


def outline(
    base: Adapter | None,
    versions: Sequence[tuple[str, Adapter]],
    header: Mapping[str, str],
) -> Outline:
    """What the adapters of the branches (label, adapter) make together.

    ``header`` is the header of the file that the result takes after: the base's, or the first
    branch's where there is no base. Raises MalformedCheckpoint for spellings that do not mix.
    """
    adapters = [*([base] if base else []), *(adapter for _, adapter in versions)]
    settings: dict[str, Settings] = {}
    chosen: dict[str, tuple[Settings, ...]] = {}
    differences: tuple[Difference, ...] = ()
    for component in adapters[0].settings:
        having = [
            (label, a.settings[component]) for label, a in versions if component in a.settings
        ]
        own = base.settings.get(component) if base else None
        settings[component], found = lora_configuration.merge(own, having or [("base", own or {})])
        chosen[component] = tuple(version for _, version in having)
        differences += found
    return Outline(lora.one_spelling(adapters), settings, differences, dict(header), chosen)
