"""The Fréchet distance against pytorch-fid, and CLIP score against torchmetrics."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from gitmerge_eval.benchmarks.diffusion import frechet
from gitmerge_eval.benchmarks.diffusion.judging import clip_score


def published(first, second):
    """pytorch-fid's own function."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls SciPy in a way that is to be removed
        return calculate_frechet_distance(
            first.mean(0),
            np.cov(first, rowvar=False),
            second.mean(0),
            np.cov(second, rowvar=False),
        )


def drawn(rows, width, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width))
    return generator.normal(size=(rows, width)) @ mixing + shift


@pytest.mark.parametrize(("rows", "width"), [(500, 12), (300, 64), (2000, 192)])
def test_the_distance_is_pytorch_fids(rows, width):
    first, second = drawn(rows, width, 0), drawn(rows, width, 1, shift=0.3)
    found = frechet.distance(frechet.fitted(first), frechet.fitted(second))
    assert found == pytest.approx(published(first, second), rel=1e-6)


def test_the_distance_of_few_pictures_is_near_pytorch_fids():
    # Covariances without full rank, where a general matrix's root loses half of the digits.
    first, second = drawn(20, 48, 2), drawn(30, 48, 3)
    found = frechet.distance(frechet.fitted(first), frechet.fitted(second))
    assert found == pytest.approx(published(first, second), rel=1e-3)


def test_the_distance_is_zero_to_oneself_and_the_shift_squared_to_a_shifted_copy():
    features = drawn(100, 16, 4)
    own = frechet.fitted(features)
    assert frechet.distance(own, own) == pytest.approx(0, abs=1e-8)
    assert frechet.distance(own, frechet.fitted(features + 2.0)) == pytest.approx(16 * 4)


def test_distances_of_diagonal_covariances_equal_the_formula():
    first = frechet.Gaussian(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    second = frechet.Gaussian(np.array([0.0, 0.0, 2.0]), np.diag([9.0, 1.0, 0.25]))
    expected = 4 + (1 - 3) ** 2 + (2 - 1) ** 2 + (0 - 0.5) ** 2
    assert frechet.distance(first, second) == pytest.approx(expected)


class Fixed(nn.Module):
    """A CLIP whose embeddings are what the inputs say."""

    def __init__(self, pictures, texts):
        super().__init__()
        self.pictures, self.texts = pictures, texts
        self.config = type("C", (), {})()
        self.config.text_config = type("C", (), {"max_position_embeddings": 77})()

    def get_image_features(self, pixels):
        return self.pictures

    def get_text_features(self, ids, mask):
        return self.texts


class Processor:
    def __call__(self, text=None, images=None, **how):
        from transformers import BatchFeature

        if images is not None:
            return BatchFeature({"pixel_values": torch.zeros(len(images), 3, 2, 2)})
        ones = torch.ones(len(text), 4, dtype=torch.long)
        return BatchFeature({"input_ids": ones, "attention_mask": ones})


@pytest.mark.parametrize("sign", [1, -1])
def test_clip_score_is_torchmetrics(sign):
    from torchmetrics.functional.multimodal import clip_score as published_score

    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(6, 32, generator=generator)
    pictures = sign * texts + torch.randn(6, 32, generator=generator)
    seen = [torch.zeros(3, 2, 2, dtype=torch.uint8)] * 6
    expected = published_score(
        seen, ["text"] * 6, model_name_or_path=lambda: (Fixed(pictures, texts), Processor())
    )
    cosines = nn.functional.cosine_similarity(pictures, texts)
    assert clip_score(cosines) == pytest.approx(float(expected), rel=1e-5, abs=1e-9)
    assert (clip_score(cosines) == 0) == (sign < 0)
