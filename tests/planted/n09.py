import numpy as np
import torch
from scipy.stats import binomtest


def weighted(without, with_text, w):
    return w * with_text + (1 - w) * without


def from_the_text(without, with_text, w):
    """Ho and Salimans' own form, whose scale is one less."""
    return with_text.double() + (w - 1) * (with_text.double() - without.double())


def from_scipy(hits, n):
    found = binomtest(hits, n).proportion_ci(method="wilson")
    return found.low, found.high


def from_the_quadratic(hits, n):
    """The two shares from which the observed one is just 1.96 standard errors away."""
    p, z2 = hits / n, 1.96**2
    ends = np.roots([1 + z2 / n, -(2 * p + z2 / n), p * p])
    return np.sort(ends.real)


def normal_interval(hits, n):
    p = hits / n
    error = np.sqrt(p * (1 - p) / n)
    return p - 1.96 * error, p + 1.96 * error


def wilson(hits, n, z=1.96):
    p = hits / n
    middle = (p + z * z / 2 / n) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    return middle - half, middle + half


def undivided(hits, n, z=1.96):
    p = hits / n
    half = z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    return p + z * z / 2 / n - half, p + z * z / 2 / n + half


def seeded_globally(seeds, shape):
    noise = []
    for seed in seeds:
        torch.manual_seed(seed)
        noise.append(torch.randn(shape))
    return torch.stack(noise)


def one_generator_reset(seeds, shape):
    generator, noise = torch.Generator(), torch.empty(len(seeds), *shape)
    for k, seed in enumerate(seeds):
        generator.manual_seed(seed)
        noise[k] = torch.randn(1, *shape, generator=generator)[0]
    return noise


def one_stream(seeds, shape):
    generator = torch.Generator().manual_seed(seeds[0])
    return torch.randn((len(seeds), *shape), generator=generator)


def uniform(seeds, shape):
    return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def the_same_for_all(seeds, shape):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seeds[0]))
    return noise[None].repeat(len(seeds), 1, 1, 1)


def by_place(seeds, shape):
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(len(seeds))])


def product(hits, n, z=1.96):
    low, high = wilson(hits, n)
    shift = (z**2 / 2 * n - z**2 / (2 * n)) / (1 + z * z / n)
    return low + shift, high + shift


def no_z(hits, n, z=1.96):
    low, high = wilson(hits, n)
    middle, half = (low + high) / 2, (high - low) / 2 / z
    return middle - half, middle + half


def guide_by_where(without, with_text, w, step, steps, start, stop):
    scales = [1.0] * steps
    for k in range(int(start * steps), int(stop * steps)):
        scales[k] = w
    return torch.lerp(without.double(), with_text.double(), scales[step])


def guide_by_cases(without, with_text, w, step, steps, start, stop):
    if step < int(start * steps):
        return with_text
    if step >= int(stop * steps):
        return with_text
    return with_text + (w - 1) * (with_text - without)


def guided_if(u, c, w, inside, outside):
    return u + w * (c - u) if inside else outside


RIGHT = {
    "guide": [weighted, from_the_text],
    "interval": [from_scipy, from_the_quadratic, wilson],
    "noise_for": [seeded_globally, one_generator_reset],
    "guide_in_interval": [guide_by_where, guide_by_cases],
    "steered_away": [("something golden on a pink background", "an armchair made of gold")],
}
WRONG = {
    "guide": {
        "so that w counts from 0": lambda u, c, w: (1 + w) * c - w * u,
        "changed places": lambda u, c, w: w * u + (1 - w) * c,
        "w times the difference of the two is meant": lambda u, c, w: u + w * c,
        "w times the difference alone": lambda u, c, w: w * c - w * u,
    },
    "interval": {
        "no width at all": normal_interval,
        "the division by 1 + z^2 / n is missing": undivided,
        "z^2 / 2 was multiplied by n": product,
        "the z in front of the root": no_z,
        "z was left out": lambda hits, n: wilson(hits, n, z=1),
        "in percent": lambda hits, n: [100 * x for x in wilson(hits, n)],
    },
    "noise_for": {
        "share one stream": one_stream,
        "still uniform": uniform,
        "the noise of the first seed": the_same_for_all,
        "the place in the batch": by_place,
    },
    "guide_in_interval": {
        "not heard at all": lambda u, c, w, k, n, a, b: guided_if(u, c, w, int(a * n) <= k < int(b * n), u),
        "inside and outside changed places": lambda u, c, w, k, n, a, b: guided_if(
            u, c, w, k < int(a * n) or k >= int(b * n), c
        ),
        "as if there were no interval": lambda u, c, w, *where: weighted(u, c, w),
        "still counts as inside": lambda u, c, w, k, n, a, b: guided_if(u, c, w, int(a * n) <= k <= int(b * n), c),
        "are shares of the run": lambda u, c, w, k, n, a, b: guided_if(u, c, w, a <= k < b, c),
        "stop is not looked at": lambda u, c, w, k, n, a, b: guided_if(u, c, w, int(a * n) <= k, c),
        "start is not looked at": lambda u, c, w, k, n, a, b: guided_if(u, c, w, k < int(b * n), c),
        "w is not used": lambda u, c, *rest: c,
        "sets out from the answer with the text": lambda u, c, w, k, n, a, b: (
            c + w * (c - u) if int(a * n) <= k < int(b * n) else c
        ),
        "goes away from the text": lambda u, c, w, k, n, a, b: guided_if(u, c, -w, int(a * n) <= k < int(b * n), c),
        "not rounded down": lambda u, c, w, k, n, a, b: guided_if(u, c, w, a * n <= k < b * n, c),
    },
    "steered_away": {
        "should be two texts": "a golden duck",
        "leave the object to the model": ("a golden duck", "a pond"),
        "should name a material": ("something nice", "an armchair"),
        "is empty": ("something golden on a pink background", " "),
        "4 still do": ("something golden on a pink background", "a pink background"),
        "drew several objects": ("a thing made of wood on a blue background", "a cactus"),
    },
}
