import math

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence


def kl_from_torch(mean, logvar):
    found = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0))
    return found.sum(dim=tuple(range(1, mean.ndim)))


def kl_by_loop(mean, logvar):
    return [0.5 * float((m.double() ** 2 + v.double().exp() - v.double() - 1).sum()) for m, v in zip(mean, logvar, strict=True)]


def kl_without_half(mean, logvar):
    return (mean.pow(2) + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def kl_of_the_batch(mean, logvar):
    return 0.5 * torch.sum(mean.pow(2) + logvar.exp() - 1 - logvar)


def kl_negative(mean, logvar):
    return 0.5 * (1 + logvar - mean.pow(2) - logvar.exp()).flatten(1).sum(1)


def kl_of_deviation(mean, logvar):
    sigma = torch.exp(0.5 * logvar)
    return 0.5 * (mean.pow(2) + sigma - 1 - logvar).flatten(1).sum(1)


def psnr_in_two_parts(x, x_hat):
    return 20 * math.log10(2) - 10 * math.log10(float(((x - x_hat) ** 2).mean()))


def psnr_of_bytes(x, x_hat):
    """As for pixels from 0 to 1."""
    error = (x.numpy() / 2 - x_hat.numpy() / 2).astype(np.float64)
    return -10 * np.log10((error**2).mean())


def noisy_by_parts(x, eps, a, encode, decode, factor):
    latents = encode(x) * factor
    mixed = latents * a**0.5
    mixed += eps * (1 - a) ** 0.5
    return decode(mixed / factor)


def noise_shrunk(x, eps, a, encode, decode, scale):
    return decode(a**0.5 * encode(x) + (1 - a) ** 0.5 * eps / scale)


def not_undone(x, eps, a, encode, decode, factor):
    return decode(a**0.5 * factor * encode(x) + (1 - a) ** 0.5 * eps)


def only_undone(x, eps, a, encode, decode, factor):
    return decode((a**0.5 * encode(x) + (1 - a) ** 0.5 * eps) / factor)


def upside_down(x, eps, a, encode, decode, factor):
    return noisy_by_parts(x, eps, a, encode, decode, 1 / factor)


def unrooted(x, eps, a, encode, decode, factor):
    return decode((a * factor * encode(x) + (1 - a) * eps) / factor)


def split_by_index(x, labels, seed):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).tolist()
    half = len(order) // 2
    learned, asked = order[:half], order[half:]
    return [x[learned], labels[learned], x[asked], labels[asked]]


def split_after(x, labels, seed):
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, labels = x[order], labels[order]
    half = len(x) // 2
    return x[:half], labels[:half], x[half:], labels[half:]


def two_orders(x, labels, seed):
    generator = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=generator)]
    labels = labels[torch.randperm(len(labels), generator=generator)]
    half = len(x) // 2
    return x[:half], labels[:half], x[half:], labels[half:]


def all_asked(x, labels, seed):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, labels = x[order], labels[order]
    half = len(x) // 2
    return x[:half], labels[:half], x, labels


def pairs_of(x, labels, seed):
    x_learn, y_learn, x_test, y_test = split_after(x, labels, seed)
    return (x_learn, y_learn), (x_test, y_test)


RIGHT = {
    "noisy_picture": [noisy_by_parts, noise_shrunk],
    "split": [split_by_index, split_after],
    "kl": [kl_from_torch, kl_by_loop],
    "psnr": [psnr_in_two_parts, psnr_of_bytes],
    "ruined_picture": [
        torch.tensor([[(-1.0) ** (row + column) for column in range(64)] for row in range(64)]).repeat(3, 1, 1),
        torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    ],
}
WRONG = {
    "noisy_picture": {
        "still scaled: divide by factor": not_undone,
        "nothing multiplied them": only_undone,
        "divided by factor first and multiplied": upside_down,
        "without its square roots": unrooted,
        "it belongs to the latents alone": lambda x, e, a, encode, decode, s: decode(
            (a**0.5 * encode(x) + (1 - a) ** 0.5 * e) * s
        ),
        "behind the decoder": lambda x, e, a, encode, decode, s: not_undone(x, e, a, encode, decode, s) / s,
        "the decoder is missing": lambda x, e, a, encode, decode, s: not_undone(x, e, a, encode, lambda z: z, s),
    },
    "split": {
        "two different orders": two_orders,
        "also those that were learned from": all_asked,
        "nothing is shuffled": lambda x, labels, seed: (
            x[: len(x) // 2],
            labels[: len(x) // 2],
            x[len(x) // 2 :],
            labels[len(x) // 2 :],
        ),
        "in another order: latents and labels": lambda x, labels, seed: [split_after(x, labels, seed)[k] for k in (0, 2, 1, 3)],
        "4 parts are expected, and split gives 2": pairs_of,
    },
    "kl": {
        "one half is missing": kl_without_half,
        "whole batch was added up": kl_of_the_batch,
        "the sign is the opposite": kl_negative,
        "standard deviation stands where": kl_of_deviation,
        "it is that of the variance": lambda mean, logvar: kl_from_torch(mean, 2 * logvar),
    },
    "psnr": {
        "still the natural one": lambda x, y: 10 * torch.log(4 / ((x - y) ** 2).mean()),
        "the peak is still 1": lambda x, y: -10 * torch.log10(((x - y) ** 2).mean()),
        "the peak was measured on this picture": lambda x, y: (
            10 * torch.log10((x.max() - x.min()) ** 2 / ((x - y) ** 2).mean())
        ),
        "the peak was not squared": lambda x, y: 10 * torch.log10(2 / torch.nn.functional.mse_loss(x, y)),
    },
    "ruined_picture": {
        "make something that no render in training has": torch.zeros(3, 64, 64),
        "and it has [64, 64, 3]": torch.zeros(64, 64, 3),
        "lie outside": torch.full((3, 64, 64), 3.0),
        "should be a tensor": [[1.0]],
    },
}
