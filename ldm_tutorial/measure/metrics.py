"""Measures: rates and means with their intervals, distances between sets of pictures.

Fréchet distance: Heusel et al. 2017, eq. 6, in the judge's features instead of Inception's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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


def rate_by_group(right: Tensor, groups: Sequence[str]) -> dict:
    """A share of verdicts bool [N] whose 95% interval counts groups, not pictures: pictures of one pair, or of one prompt,
    succeed and fail together.

    The interval is that of a bootstrap over the groups, and never narrower than that of :func:`rate`: where no group fails at
    all, there is nothing that a bootstrap could vary.
    """
    from scipy.stats import bootstrap

    names, place = np.unique(np.asarray(groups), return_inverse=True)
    hits = np.bincount(place, weights=right.numpy())
    counts = np.bincount(place)

    def share(hits: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return hits.sum(axis) / counts.sum(axis)

    found = bootstrap((hits, counts), share, paired=True, vectorized=True, method="percentile", random_state=0)
    by_picture = rate(right)
    low = min(float(found.confidence_interval.low), by_picture["low"])
    high = max(float(found.confidence_interval.high), by_picture["high"])
    return by_picture | {"groups": len(names), "low": low, "high": high}


def spread(a: Tensor, b: Tensor, times: int = 20) -> dict:
    """A Fréchet distance with its 95% interval: 1.96 standard errors, which a bootstrap over the pictures estimates, to either
    side. (Resampled sets lie further apart than the real ones, so their own quantiles would not do.)"""
    from scipy.stats import bootstrap

    def distance(rows: np.ndarray, others: np.ndarray) -> float:
        return frechet_distance(a[rows], b[others])

    sets = (np.arange(len(a)), np.arange(len(b)))
    found = bootstrap(sets, distance, n_resamples=times, vectorized=False, method="percentile", random_state=0)
    value, half = frechet_distance(a, b), 1.96 * float(found.standard_error)
    return {"value": value, "n": len(a), "low": max(0.0, value - half), "high": value + half}


def kernel_distance(a: Tensor, b: Tensor) -> dict:
    """Kernel distance (KID) between two sets of features [N, D], with its 95% interval; b is the set of real pictures. Unlike a
    Fréchet distance it has no bias: its mean is 0 for sets drawn at random from one source, so it can be below 0.

    Bińkowski et al. 2018: a cubic kernel, here of features whose root mean square over b is 1, on 16 separate blocks of both
    sets (each has at least 4 pictures); the interval is that of the blocks' mean (Zaremba et al. 2013).
    """
    from torchmetrics.image.kid import poly_mmd

    n = min(len(a), len(b))
    size = max(4, n // 16)
    g = torch.Generator().manual_seed(0)
    scale = b.double().square().mean().sqrt()
    a, b = (x.double()[torch.randperm(len(x), generator=g)] / scale for x in (a, b))  # each block: a mixture of everything
    blocks = [poly_mmd(a[i : i + size], b[i : i + size]) for i in range(0, n - size + 1, size)]
    return average(torch.stack(blocks)) | {"n": n}


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance between two sets of features [N, D] and [M, D], each seen as one Gaussian; 0 for equal sets. It grows as
    the sets get smaller: compare only figures from equal numbers of pictures."""
    a, b = a.double().cpu(), b.double().cpu()
    means = (a.mean(0) - b.mean(0)).square().sum()
    first, second = a.T.cov(), b.T.cov()
    # the trace of a root is the sum of its eigenvalues' roots
    shared = torch.linalg.eigvals(first @ second).sqrt().real.sum()
    return max(0.0, (means + first.trace() + second.trace() - 2 * shared).item())


def distances(pictures: Tensor, training: Tensor) -> Tensor:
    """Root-mean-square distances [N, M] (0..1, sides averaged down to a quarter) between pictures uint8 [N or M, S, S, 3]."""
    small, others = (F.avg_pool2d(to_model(x) / 2, 4).flatten(1) for x in (pictures, training))
    return torch.cdist(small, others) / small.shape[1] ** 0.5


def nearest(pictures: Tensor, training: Tensor) -> Tensor:
    """The distance [N] to the nearest of the training pictures; see :func:`distances`."""
    return distances(pictures, training).min(1).values
