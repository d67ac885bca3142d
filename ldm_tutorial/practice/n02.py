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


@torch.no_grad()
def encode(x: Tensor) -> Tensor:
    """Pictures [B, 3, 64, 64] -> latents, as they come out of the shipped encoder."""
    return _vae().encode(x.float()).latent_dist.mode()


@torch.no_grad()
def decode(z: Tensor) -> Tensor:
    """Latents, as they come out of the shipped encoder -> pictures from -1 to 1."""
    return _vae().decode(z).sample.clamp(-1, 1)


def scale_factor() -> float:
    """The scale factor of the shipped autoencoder."""
    return _vae().config.scaling_factor


def reconstruct(picture: Tensor) -> Tensor:
    """A picture [3, 64, 64] from -1 to 1 -> what the shipped autoencoder makes of it, in the same form."""
    return decode(encode(picture[None]))[0]


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


def _encode(x):
    """In the place of an encoder: latents of a standard deviation far from 1."""
    return 4 * x - 0.8


def _decode(z):
    """In the place of a decoder: it undoes that encoder, and cuts off nothing."""
    return (z + 0.8) / 4


def _noisy_picture(x, eps, a, encode, decode, factor, before=1, after=-1, root=True):
    """``before`` and ``after``: the powers of the factor by which latents are multiplied before and after noise is added."""
    p, q = (a**0.5, (1 - a) ** 0.5) if root else (a, 1 - a)
    z_t = p * encode(x) * factor**before + q * eps
    return decode(z_t * factor**after)


def _scaled(**changes):
    return lambda x, eps, a, encode, decode, factor: _noisy_picture(x, eps, a, encode, decode, factor, **changes)


noisy_picture = Build(
    "2.4",
    right=_noisy_picture,
    given=_scaled(before=0, after=0),
    cases=[
        {
            "x": torch.tensor([[[[0.5]]]]),
            "eps": torch.tensor([[[[1.0]]]]),
            "a": 0.64,
            "encode": _encode,
            "decode": _decode,
            "factor": 0.25,
        },
        {
            "x": normal(2, 3, 4, 4, seed=11).clamp(-1, 1),
            "eps": normal(2, 3, 4, 4, seed=12),
            "a": 0.36,
            "encode": _encode,
            "decode": _decode,
            "factor": 0.5,
        },
    ],
    mistakes=[
        Mistake(
            "the latents are now scaled before the noise is added, but the decoder gets them still scaled: divide by factor first",
            _scaled(after=0),
        ),
        Mistake(
            "the latents are divided before the decoder, but nothing multiplied them by factor before the noise was added",
            _scaled(before=0),
        ),
        Mistake(
            "the latents were divided by factor first and multiplied by it afterwards, or the noise was multiplied by it: it is the latents times factor that have a variance of about 1",
            _scaled(before=-1, after=1),
        ),
        Mistake(
            "the latents were multiplied by factor a second time before the decoder, where that should be undone",
            _scaled(after=1),
        ),
        Mistake("the scaling is right, but alpha-bar now stands without its square roots", _scaled(root=False)),
        Mistake(
            "the picture was scaled, and not its latents",
            lambda x, eps, a, encode, decode, factor: _noisy_picture(factor * x, eps, a, encode, decode, factor, 0, 0) / factor,
        ),
        Mistake(
            "factor was multiplied by after the noise was added, so that it changes latents and noise alike: it belongs to the latents alone",
            _scaled(before=0, after=1),
        ),
        Mistake(
            "the scaling was undone on the picture, behind the decoder, where it should be undone on the latents",
            lambda x, eps, a, encode, decode, factor: _noisy_picture(x, eps, a, encode, decode, factor, after=0) / factor,
        ),
        Mistake(
            "the decoder is missing: these are latents",
            lambda x, eps, a, encode, decode, factor: _noisy_picture(x, eps, a, encode, lambda z: z, factor, after=0),
        ),
    ],
)


def _order(x, seed):
    return torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))


def _split(x, labels, seed, test=None):
    order = _order(x, seed)
    learn, rest = order[: len(x) // 2], order[len(x) // 2 :]
    rest = rest if test is None else test(order)
    return x[learn], labels[learn], x[rest], labels[rest]


def _out_of_step(x, labels, seed, test=None):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randperm(len(x), generator=generator), torch.randperm(len(x), generator=generator)
    half = len(x) // 2
    begin = half if test is None else test
    return x[first[:half]], labels[second[:half]], x[first[begin:]], labels[second[begin:]]


def _unshuffled(x, labels, seed):
    half = len(x) // 2
    return x[:half], labels[:half], x[half:], labels[half:]


def _joined(latents_of, labels_of):
    return latents_of[0], labels_of[1], latents_of[2], labels_of[3]


split = Build(
    "2.5",
    right=_split,
    given=lambda x, labels, seed: _out_of_step(x, labels, seed, test=0),
    cases=[
        {"x": torch.tensor([[1.0], [2.0], [3.0], [4.0]]), "labels": torch.tensor([10, 20, 30, 40]), "seed": 3},
        {"x": normal(9, 5, seed=13), "labels": torch.arange(9) * 7 % 10, "seed": 1},
    ],
    mistakes=[
        Mistake(
            "the test half is now one of its own, but latents and labels are still shuffled by two different orders, so that they do not belong together",
            _out_of_step,
        ),
        Mistake(
            "latents and labels now belong together, but the test still holds all of them, also those that were learned from",
            lambda x, labels, seed: _split(x, labels, seed, test=lambda order: order),
        ),
        Mistake(
            "the test half is the half that was learned from",
            lambda x, labels, seed: _split(x, labels, seed, test=lambda order: order[: len(order) // 2]),
        ),
        Mistake("nothing is shuffled: if the pictures stand in some order, the two halves differ in kind", _unshuffled),
        Mistake(
            "only the latents are shuffled, and the labels stay where they were",
            lambda x, labels, seed: _joined(_split(x, labels, seed), _unshuffled(x, labels, seed)),
        ),
        Mistake(
            "the four parts stand in another order: latents and labels to learn from, then latents and labels of the test",
            lambda x, labels, seed: tuple(_split(x, labels, seed)[k] for k in (0, 2, 1, 3)),
        ),
        Mistake(
            "the two halves changed places: the first half of the order is learned from",
            lambda x, labels, seed: tuple(_split(x, labels, seed)[k] for k in (2, 3, 0, 1)),
        ),
    ],
)
