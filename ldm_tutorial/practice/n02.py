"""The exercises of notebook 02, the autoencoder."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..files import WEIGHTS
from ..images import psnr as psnr_of_batch
from .exercise import Build, Find, Mistake, normal


def _sum(x):
    return x.flatten(1).sum(1)


def _kl(mean, logvar):
    return 0.5 * _sum(mean**2 + logvar.exp() - 1 - logvar)


kl = Build(
    "2.1",
    right=_kl,
    cases=[
        {"mean": torch.tensor([[1.0]]), "logvar": torch.tensor([[-1.0]])},
        {"mean": normal(3, 2, 4, 4, seed=1), "logvar": 0.5 * normal(3, 2, 4, 4, seed=2)},
    ],
    mistakes=[
        Mistake("the factor one half is missing", lambda m, s: 2 * _kl(m, s)),
        Mistake("the sign is the opposite: a distance is never below 0", lambda m, s: -_kl(m, s)),
        Mistake(
            "the 1 was not subtracted, so that the distance of N(0, 1) from itself is not 0",
            lambda m, s: 0.5 * _sum(m**2 + s.exp() - s),
        ),
        Mistake(
            "logvar was used as if it were the variance: the variance is its exponential",
            lambda m, s: 0.5 * _sum(m**2 + s - 1 - s.abs().log()),
        ),
        Mistake(
            "the variance is there, but its logarithm was added where it should be subtracted",
            lambda m, s: 0.5 * _sum(m**2 + s.exp() - 1 + s),
        ),
        Mistake(
            "the standard deviation stands where the variance should: exp(logvar) is the variance already",
            lambda m, s: 0.5 * _sum(m**2 + (s / 2).exp() - 1 - s),
        ),
        Mistake(
            "logvar was taken for the logarithm of the standard deviation: it is that of the variance",
            lambda m, s: 0.5 * _sum(m**2 + (2 * s).exp() - 1 - 2 * s),
        ),
        Mistake(
            "logvar was taken for the logarithm of the standard deviation: exp(logvar) is the variance already",
            lambda m, s: 0.5 * _sum(m**2 + (2 * s).exp() - 1 - s),
        ),
        Mistake("the mean was not squared", lambda m, s: 0.5 * _sum(m + s.exp() - 1 - s)),
        Mistake(
            "the mean over the latents was taken, where their sum was asked for",
            lambda m, s: _kl(m, s) / m[0].numel() if m[0].numel() > 1 else _kl(m, s),
        ),
        Mistake("the whole batch was added up, where one number for each picture was asked for", lambda m, s: _kl(m, s).sum()),
    ],
)


def _psnr(x, x_hat):
    return 10 * torch.log10(4 / (x - x_hat).square().mean())


psnr = Build(
    "2.2",
    right=_psnr,
    given=lambda x, x_hat: 10 * torch.log(1 / (x - x_hat).square().mean()),
    cases=[
        {"x": torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1), "x_hat": torch.tensor([0.8, -0.8, 0.2]).view(3, 1, 1)},
        {
            "x": normal(3, 6, 5, seed=3).clamp(-1, 1),
            "x_hat": (normal(3, 6, 5, seed=3) + 0.1 * normal(3, 6, 5, seed=4)).clamp(-1, 1),
        },
        {"x": torch.linspace(-0.5, 0.5, 12).view(3, 2, 2), "x_hat": torch.linspace(-0.4, 0.5, 12).view(3, 2, 2)},
    ],
    mistakes=[
        Mistake(
            "the peak is now right, but the logarithm is still the natural one",
            lambda x, y: 10 * torch.log(4 / (x - y).square().mean()),
        ),
        Mistake(
            "the logarithm is now right, but the peak is still 1: from -1 to 1 it is 2 wide",
            lambda x, y: 10 * torch.log10(1 / (x - y).square().mean()),
        ),
        Mistake(
            "the peak was measured on this picture: it is the width of the range that pixels may have, here 2",
            lambda x, y: 10 * torch.log10((x.max() - x.min()) ** 2 / (x - y).square().mean()),
        ),
        Mistake("the peak was not squared, though the error is", lambda x, y: 10 * torch.log10(2 / (x - y).square().mean())),
        Mistake(
            "the peak of bytes was used, 255: these pictures go from -1 to 1",
            lambda x, y: 10 * torch.log10(255**2 / (x - y).square().mean()),
        ),
        Mistake("the factor is 20, which belongs to the root of the error", lambda x, y: 2 * _psnr(x, y)),
        Mistake("the sign is the opposite: the smaller the error, the larger the PSNR", lambda x, y: -_psnr(x, y)),
        Mistake(
            "the squared errors were added up, where their mean was asked for",
            lambda x, y: 10 * torch.log10(4 / (x - y).square().sum()),
        ),
        Mistake("the errors were not squared", lambda x, y: 10 * torch.log10(4 / (x - y).abs().mean())),
    ],
)

LOW = 15.0  # dB; renders of Curios come back with 30 and more


@cache
def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(str(WEIGHTS / "vae")).float().eval().requires_grad_(False)


def reconstruct(picture: Tensor) -> Tensor:
    """A picture [3, 64, 64] from -1 to 1 -> what the shipped autoencoder makes of it, in the same form."""
    with torch.no_grad():
        z = _vae().encode(picture[None].float()).latent_dist.mode()
        return _vae().decode(z).sample[0].clamp(-1, 1)


def _fault(picture: object) -> str | None:
    if not isinstance(picture, Tensor):
        return "ruined_picture should be a tensor [3, 64, 64]"
    if list(picture.shape) != [3, 64, 64]:
        return f"ruined_picture should have the shape [3, 64, 64], and it has {list(picture.shape)}"
    if not picture.isfinite().all() or picture.min() < -1 or picture.max() > 1:
        return "the numbers of a picture go from -1 to 1, and some of these lie outside"
    found = psnr_of_batch(picture[None].float(), reconstruct(picture)[None]).item()
    if found > LOW:
        return f"this picture comes back with a PSNR of {found:.1f} dB, and less than {LOW:g} is asked for: make something that no render in training has"
    return None


ruined_picture = Find(
    "2.3",
    fault=_fault,
    because="the autoencoder keeps what its training pictures have, surfaces and edges, and loses fine patterns that they never had",
)
