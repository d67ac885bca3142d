"""The random numbers of ``torch.randn`` on a CPU, in numpy: a seed means the same picture with torch and without."""

from __future__ import annotations

import numpy as np

BLOCK = 16  # torch fills a tensor in blocks of sixteen numbers


def randn(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """What ``torch.randn(shape, generator=torch.Generator().manual_seed(seed))`` gives, float32, to about 5e-7.

    The Mersenne Twister (Matsumoto and Nishimura 1998) makes uniform numbers, the method of Box and Muller (1958) turns
    them into normally distributed ones, eight pairs at a time. ``shape`` must hold at least 16 numbers.
    """
    n = int(np.prod(shape))
    twister = np.random.MT19937()
    twister._legacy_seeding(seed % 2**32)  # type: ignore[attr-defined]  # the seeding of 1998; torch uses its low 32 bits
    uniform = _uniform(twister, n)
    whole = n - n % BLOCK
    numbers = np.empty(n, np.float32)
    numbers[:whole] = _box_muller(uniform[:whole])
    if n % BLOCK:  # torch draws the last sixteen numbers anew
        numbers[-BLOCK:] = _box_muller(_uniform(twister, BLOCK))
    return numbers.reshape(shape)


def _uniform(twister: np.random.MT19937, n: int) -> np.ndarray:
    """So many numbers in 0..1, from the low 24 bits of each random word."""
    words = twister.random_raw(n)
    return ((words & 0xFFFFFF) / 2**24).astype(np.float32)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Uniform numbers, sixteen a block -> normally distributed ones."""
    first, second = uniform.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)  # each [blocks, 8]
    radius = np.sqrt(-2 * np.log(1 - first))
    angle = 2 * np.float32(np.pi) * second
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)
