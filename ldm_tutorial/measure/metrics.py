"""Measures: rates and means with their intervals, distances between sets of pictures.

Fréchet distance: Heusel et al. 2017, eq. 6, in the judge's features instead of Inception's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import to_model


def interval(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a rate (Wilson 1927): where the true rate lies, as far as ``hits`` of ``n`` can tell."""
    from scipy.stats import binomtest

    found = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def rate(right: Tensor) -> dict:
    """A share of verdicts bool [N] with its 95% interval."""
    hits, n = int(right.sum()), len(right)
    low, high = interval(hits, n)
    return {"value": hits / n, "n": n, "low": low, "high": high}


def average(values: Tensor) -> dict:
    """A mean of values [N] with its 95% interval, 1.96 standard errors to either side."""
    value, half = values.double().mean().item(), 1.96 * values.double().std().item() / len(values) ** 0.5
    return {"value": value, "n": len(values), "low": value - half, "high": value + half}


def spread(a: Tensor, b: Tensor, times: int = 20) -> dict:
    """A Fréchet distance with a 95% interval from resampled sets (bootstrap, shifted to the distance measured)."""
    value, g = frechet_distance(a, b), torch.Generator().manual_seed(0)
    again = [frechet_distance(*(x[torch.randint(len(x), (len(x),), generator=g)] for x in (a, b))) for _ in range(times)]
    half = 1.96 * torch.tensor(again).std().item()
    return {"value": value, "n": len(a), "low": max(0.0, value - half), "high": value + half}


class _Given(nn.Module):
    """Tells torchmetrics that what it gets are features already."""

    num_features = 128

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance between two sets of features [N, D] and [M, D], each seen as one Gaussian; 0 for equal sets. It grows as
    the sets get smaller: compare only figures from equal numbers of pictures."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    given = _Given()
    given.num_features = a.shape[1]
    metric = FrechetInceptionDistance(feature=given).set_dtype(torch.float64)
    metric.update(a.double().cpu(), real=True)
    metric.update(b.double().cpu(), real=False)
    return max(0.0, metric.compute().item())


def distances(pictures: Tensor, training: Tensor) -> Tensor:
    """Root-mean-square distances [N, M] (0..1, sides averaged down to a quarter) between pictures uint8 [N or M, S, S, 3]."""
    small = [F.avg_pool2d(to_model(x) / 2, 4).flatten(1) for x in (pictures, training)]
    return torch.cdist(*small) / small[0].shape[1] ** 0.5


def nearest(pictures: Tensor, training: Tensor) -> Tensor:
    """The distance [N] to the nearest of the training pictures; see :func:`distances`."""
    return distances(pictures, training).min(1).values
