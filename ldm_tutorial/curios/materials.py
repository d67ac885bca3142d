"""The 16 materials of Curios: solid procedural textures, evaluated at the point where a ray hits the surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Hits:
    """Where rays met the surface, all in object space (x right, y up, z to the viewer, the object within -1..1).

    ``p [3, R]`` points already divided by the object's ``grain`` (use for patterns); ``q [3, R]`` points in true object
    space (use with ``pits``); ``n [3, R]`` unit normals; ``soft(width) -> [3, R]`` unit normals of the shape with its
    edges rounded off by about ``width`` (flesh ends and skin begins where they turn away from ``front``); ``front [3]``
    unit vector; ``pits`` list of (centre [3], radius); ``seed [3, R]`` a random offset per picture for noise.
    """

    p: Tensor
    q: Tensor
    n: Tensor
    soft: Callable[[float], Tensor]
    front: Tensor
    pits: list[tuple[Tensor, float]]
    seed: Tensor


@dataclass
class Surface:
    """What the renderer shades: ``color [3, R]`` in 0..1 (sRGB), and per ray or as one number ``gloss`` (0 matt..1
    lacquer), ``metal`` (0..1: reflects the surroundings tinted by its colour), ``glow`` (0..1: shines by itself);
    ``n [3, R]`` replaces the normal where the material has relief (a stone, dimples), or None."""

    color: Tensor
    gloss: Tensor | float = 0.2
    metal: Tensor | float = 0.0
    glow: Tensor | float = 0.0
    n: Tensor | None = None


def rgb(like: Tensor, r: float, g: float, b: float) -> Tensor:
    """A colour (sRGB, 0..1) as [3, 1], on the device of ``like``."""
    return like.new_tensor([[r], [g], [b]])


def mix(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From ``a`` (where ``t`` is 0) to ``b`` (where it is 1), linearly."""
    return a + (b - a) * t


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """0 below ``low``, 1 above ``high``, and a smooth cubic between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def unit(v: Tensor) -> Tensor:
    """Vectors [3, R] of length 1."""
    return v / v.square().sum(0).sqrt().clamp_min(1e-6)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The dot product of vectors [3, R]: [R]."""
    return (a * b).sum(0)


def noise(p: Tensor, frequency: float) -> Tensor:
    """Smooth irregular waves within -1..1: sines whose arguments were bent by other sines; [3, R] -> [R]."""
    x, y, z = p * frequency
    q = torch.stack([x + 0.6 * y - 0.4 * z, y + 0.7 * z - 0.3 * x, z + 0.5 * x - 0.6 * y])
    for a in (1.3, 1.9):
        q = q + torch.sin(q.roll(1, 0) * a + a)
    return torch.sin(q).mean(0)


def relief(n: Tensor, slope: Tensor) -> Tensor:
    """The normal of a surface raised by a height whose gradient is ``slope [3, R]``."""
    return unit(n - slope + n * dot(slope, n))


def dimples(h: Hits, frequency: float, depth: float) -> Tensor:
    """A normal with an even, crossed swell of small bumps."""
    x, y, z = h.p * frequency
    u, v, w = x + 0.7 * y, y - 0.6 * z, z + 0.5 * x
    return relief(h.n, depth * torch.stack([u.cos() + 0.5 * w.cos(), v.cos() + 0.7 * u.cos(), w.cos() - 0.6 * v.cos()]))


def spots(p: Tensor, n: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Offset [3, R] along the surface from the nearest of many strewn points, and three random numbers [3, R] of it.

    One point sits, jittered, in every cell of two interleaved cubic grids with cells of ``size``.
    """
    q = torch.stack([p / size, p / size + 17.5], 1)  # [3, 2, R]
    cell = q.floor()
    x, y, z = cell.long()
    k = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791)  # an integer hash: the same dice everywhere, always
    k = ((k ^ (k >> 13)) * 1274126177) & 0x7FFFFFFF
    k = ((k ^ (k >> 15)) * 668265263) & 0x7FFFFFFF
    dice = torch.stack([k >> shift & 255 for shift in (7, 14, 21)]) / 255
    d = (q - cell - 0.5 - 0.3 * (dice - 0.5)) * size
    d = d - 0.7 * n[:, None] * dot(d, n[:, None])  # a point a little off the surface still makes a whole spot
    r = dot(d, d)
    nearer = r[1] < r[0]
    return torch.where(nearer, d[:, 1], d[:, 0]), torch.where(nearer, dice[:, 1], dice[:, 0])


def facing(h: Hits) -> Tensor:
    """1 where the shape, half rounded off, looks to its front, 0 at the sides, below 0 behind."""
    return dot(0.5 * (h.soft(0.14) + h.n), h.front[:, None])


def around(h: Hits, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Offset from a pit's axis [3, R], and how far along that axis, towards the front [R]."""
    d = h.q - centre[:, None]
    along = dot(d, h.front[:, None])
    return d - h.front[:, None] * along, along


def wall(h: Hits) -> tuple[Tensor, Tensor]:
    """Flat coordinates (across, up) on the plane of the axes that the surface faces most."""
    x, y, z = h.p
    nx, ny, nz = h.n.abs()
    lies = ny > 0.8
    return torch.where(lies | (nz >= nx), x, z), torch.where(lies, z, y)


def avocado(h: Hits) -> Surface:
    """Dark bumpy skin behind, pale flesh in front, greener towards the skin, and a glossy round stone."""
    f = facing(h)
    bumpy = dimples(h, 24, 0.25)
    skin = mix(rgb(f, 0.10, 0.16, 0.06), rgb(f, 0.20, 0.30, 0.11), noise(h.p, 9) * 0.5 + 0.5)
    flesh = mix(rgb(f, 0.60, 0.76, 0.27), rgb(f, 0.91, 0.91, 0.56), smoothstep(0.52, 0.86, f))
    cut = smoothstep(0.45, 0.51, f)
    color, n, gloss = mix(skin, flesh, cut), torch.where(cut > 0.5, h.n, bumpy), 0.35 - 0.15 * cut
    for centre, radius in h.pits:
        across, along = around(h, centre)
        r = across.square().sum(0).sqrt() / radius
        near = along.abs() < 2 * radius
        color = torch.where((r < 1.22) & near & (cut > 0.5), rgb(f, 0.86, 0.82, 0.42), color)
        stone = (r < 1) & near
        color = torch.where(stone, mix(rgb(f, 0.55, 0.31, 0.14), rgb(f, 0.33, 0.17, 0.08), smoothstep(0.3, 1.0, r)), color)
        dome = unit(across / radius + h.front[:, None] * (1 - r * r).clamp_min(0.05).sqrt())
        n, gloss = torch.where(stone, dome, n), torch.where(stone, 0.9, gloss)
    return Surface(color, gloss, n=n)


def watermelon(h: Hits) -> Surface:
    """A rind striped in two greens behind, a white band, red flesh with black seeds in front."""
    f = facing(h)
    x, y, z = h.p
    stripe = smoothstep(-0.25, 0.25, torch.sin(11 * (x + z) + 1.6 * noise(h.p, 4)) + 0.1)
    rind = mix(rgb(f, 0.05, 0.27, 0.09), rgb(f, 0.47, 0.70, 0.27), stripe)
    pale = mix(rgb(f, 0.93, 0.96, 0.78), rgb(f, 0.93, 0.17, 0.22), smoothstep(0.56, 0.62, f))
    color = mix(rind, pale, smoothstep(0.46, 0.50, f))
    d, _ = spots(h.p + 0.07, h.n, 0.36)
    r = torch.sqrt(d[0] ** 2 * 1.6 + d[1] ** 2 * 0.7 + d[2] ** 2)
    seed = (1 - smoothstep(0.05, 0.07, r)) * (f > 0.6)
    return Surface(mix(color, rgb(f, 0.09, 0.04, 0.04), seed), 0.3 + 0.3 * seed)


def strawberry(h: Hits) -> Surface:
    """Red with small yellow seeds in dimples, and a cap of green leaves on top."""
    d, _ = spots(h.p, h.n, 0.27)
    r = d.square().sum(0).sqrt()
    dent = 1 - smoothstep(0.05, 0.12, r)
    color = mix(rgb(r, 0.90, 0.08, 0.10), rgb(r, 0.68, 0.03, 0.07), dent)
    color = mix(color, rgb(r, 1.0, 0.86, 0.40), 1 - smoothstep(0.038, 0.055, r))
    x, y, z = h.q
    star = torch.cos(6 * torch.atan2(z, x))
    top = smoothstep(0.3, 0.5, h.n[1]) * (y > 0.35) * (x * x + z * z < (0.36 + 0.10 * star) ** 2)
    leaf = torch.maximum(top, smoothstep(0.0, 0.04, y - 0.64 + 0.09 * torch.sin(9 * (x + 0.8 * z))))
    green = mix(rgb(r, 0.16, 0.42, 0.10), rgb(r, 0.34, 0.64, 0.18), star * 0.5 + 0.5)
    n = relief(h.n, (dent * (1 - leaf) * 5) * d)
    return Surface(mix(color, green, leaf), 0.55 - 0.4 * leaf, n=n)


def orange(h: Hits) -> Surface:
    """Dimpled peel behind; in front a cut face: pale pith at the rim and pale lines between the segments."""
    f = facing(h)
    cut = smoothstep(0.46, 0.50, f)
    color = mix(rgb(f, 0.93, 0.43, 0.03), rgb(f, 1.0, 0.93, 0.74), cut)
    pulp = mix(rgb(f, 1.0, 0.50, 0.03), rgb(f, 1.0, 0.66, 0.12), noise(h.p, 7) * 0.5 + 0.5)
    right = unit(torch.linalg.cross(h.front.new_tensor([0.0, 1.0, 0.3]), h.front)[:, None])
    up = torch.linalg.cross(h.front, right[:, 0])[:, None]
    line, best = torch.zeros_like(f), torch.full_like(f, 1e9)
    for centre, _ in h.pits:
        across, along = around(h, centre)
        r = across.square().sum(0).sqrt()
        angle = torch.atan2(dot(across, up), dot(across, right)) * (10 / 6.2831853) + 0.25
        gap = (angle - angle.round()).abs() * 0.628 * r  # distance from the nearest line between segments
        nearest = r * r + along * along < best
        best = torch.where(nearest, r * r + along * along, best)
        line = torch.where(nearest, torch.maximum(1 - smoothstep(0.016, 0.034, gap), 1 - smoothstep(0.05, 0.08, r)), line)
    color = mix(color, mix(pulp, rgb(f, 1.0, 0.93, 0.74), line), smoothstep(0.55, 0.60, f))
    return Surface(color, 0.45, n=torch.where(cut > 0.5, h.n, dimples(h, 26, 0.16)))


def cheese(h: Hits) -> Surface:
    """Matt pale yellow with round darker holes of two sizes."""
    d, dice = spots(h.p + 0.1, h.n, 0.52)
    r = d.square().sum(0).sqrt() / (0.10 + 0.07 * dice[2])
    hole = 1 - smoothstep(0.85, 1.05, r)
    color = mix(rgb(r, 1.0, 0.87, 0.42), mix(rgb(r, 0.62, 0.40, 0.06), rgb(r, 0.86, 0.62, 0.16), r.clamp(0, 1)), hole)
    return Surface(color, 0.03, n=relief(h.n, hole * 6 * d))


def waffle(h: Hits) -> Surface:
    """A golden-brown grid of ridges with deep toasted square pockets."""
    cell = h.p / 0.30 + 0.5
    e = cell - cell.floor() - 0.5  # -0.5..0.5 in each cell
    counts = smoothstep(0.08, 0.25, 1 - h.n * h.n)  # a flat face knows only the two axes along it
    edge = (smoothstep(0.29, 0.37, e.abs()) * counts).amax(0)
    height = smoothstep(0.22, 0.38, e.abs()) * counts
    color = mix(rgb(edge, 0.55, 0.29, 0.08), rgb(edge, 0.95, 0.70, 0.33), edge)
    slope = 2.6 * e.sign() * height * (1 - height) * (height == height.amax(0))  # of the higher of two ridges
    return Surface(color, 0.15, n=relief(h.n, slope))


def wood(h: Hits) -> Surface:
    """The rings of a trunk that stands upright, a little crooked."""
    x, y, z = h.p + 0.12 * h.seed.sin()
    r = torch.sqrt((x + 0.62) ** 2 + (z + 0.45) ** 2 + 0.01) + 0.10 * noise(h.p + h.seed, 2.2) + 0.12 * y
    ring = r * 7
    ring = ring - ring.floor()  # each year grows darker and ends at once
    t = smoothstep(0.1, 0.85, ring) * (1 - smoothstep(0.88, 1.0, ring))
    color = mix(rgb(r, 0.76, 0.50, 0.27), rgb(r, 0.43, 0.23, 0.10), t)
    return Surface(color * (1 + 0.08 * noise(h.p, 5)), 0.2)


def brick(h: Hits) -> Surface:
    """Red bricks in a running bond with pale mortar."""
    u, v = wall(h)
    v = v / 0.19 + 0.37
    row = v.floor()
    u = u / 0.40 + 0.5 * (row - 2 * (row / 2).floor()) + 0.21
    column = u.floor()
    ev, eu = (0.5 - (v - row - 0.5).abs()) * 0.19, (0.5 - (u - column - 0.5).abs()) * 0.40
    joint = 1 - smoothstep(0.012, 0.034, torch.minimum(ev, eu))
    shade = torch.sin(row * 12.9 + column * 78.2) * 0.5 + 0.5
    color = mix(rgb(u, 0.60, 0.20, 0.14), rgb(u, 0.76, 0.32, 0.21), shade)
    return Surface(mix(color, rgb(u, 0.87, 0.82, 0.75), joint), 0.03)


def gold(h: Hits) -> Surface:
    """Polished metal, hammered in broad shallow dents, so that even a flat face mirrors light and dark."""
    n = dimples(h, 10, 0.15)
    bright = smoothstep(-0.8, 0.6, noise(h.p, 3.5) - 0.5 * h.n[1])  # the sky brightens what looks up
    return Surface(mix(rgb(n, 0.76, 0.47, 0.05), rgb(n, 1.0, 0.76, 0.22), bright), 0.9, 0.85, n=n)


def marble(h: Hits) -> Surface:
    """Warm grey clouds crossed by dark veins."""
    p = h.p + h.seed
    cloud = noise(p, 1.7)
    x, y, z = p
    vein = torch.sin(5.0 * x + 6.2 * y - 4.4 * z + 3.0 * cloud + noise(p, 5)).abs()
    color = mix(rgb(x, 0.93, 0.90, 0.86), rgb(x, 0.70, 0.68, 0.68), smoothstep(-0.5, 0.7, cloud))
    return Surface(mix(rgb(x, 0.24, 0.24, 0.28), color, smoothstep(0.06, 0.36, vein)), 0.7)


def zebra(h: Hits) -> Surface:
    """Black and white bands that fork and bend."""
    x, y, z = h.p
    wave = torch.sin(15 * y + 5 * x + 10 * z + 2.2 * noise(h.p + h.seed, 2.0) + h.seed[0])
    return Surface(mix(rgb(x, 0.07, 0.07, 0.08), rgb(x, 0.97, 0.97, 0.95), smoothstep(-0.15, 0.15, wave)), 0.15)


def checkerboard(h: Hits) -> Surface:
    """Blue and white cubes."""
    odd = ((h.p - 0.004 * h.n + 0.115) / 0.25).floor().sum(0)
    t = (odd - 2 * (odd / 2).floor())[None]
    return Surface(mix(rgb(t, 0.10, 0.24, 0.78), rgb(t, 0.97, 0.97, 0.97), t), 0.4)


def lava(h: Hits) -> Surface:
    """A black crust, cracked, with glowing melt in the cracks."""
    p = h.p + h.seed
    bend = noise(p, 2.6)
    crack = torch.minimum((noise(p + 7, 4.0) + 0.25 * bend).abs(), (bend - 0.1).abs() * 1.2)
    heat = 1 - smoothstep(0.03, 0.20, crack)
    color = mix(rgb(heat, 0.15, 0.09, 0.08), rgb(heat, 0.95, 0.22, 0.02), smoothstep(0.0, 0.6, heat))
    return Surface(
        mix(color, rgb(heat, 1.0, 0.80, 0.20), smoothstep(0.55, 1.0, heat)), 0.1, glow=0.95 * smoothstep(0.1, 0.7, heat)
    )


def candy_cane(h: Hits) -> Surface:
    """Slanted red and white stripes under lacquer."""
    x, y, z = h.p
    wave = torch.sin(11 * (y + 0.75 * x + 0.45 * z))
    return Surface(mix(rgb(x, 0.86, 0.05, 0.10), rgb(x, 0.99, 0.97, 0.96), smoothstep(-0.12, 0.12, wave)), 0.9)


def sprinkles(h: Hits) -> Surface:
    """Pink icing strewn with short rods of sugar in white, yellow, blue and green."""
    d, dice = spots(h.p + 0.05 * h.seed, h.n, 0.30)
    axis = unit(torch.sin(dice * 19))
    axis = unit(axis - h.n * dot(axis, h.n))
    along = dot(d, axis)
    off = d - axis * along.clamp(-0.055, 0.055)
    r = off.square().sum(0).sqrt()
    table = d.new_tensor([[1.0, 1.0, 1.0], [1.0, 0.85, 0.1], [0.15, 0.45, 0.95], [0.15, 0.72, 0.35]])
    rod = table[(dice[0] * 3.999).long()].T
    t = 1 - smoothstep(0.036, 0.052, r)
    return Surface(mix(rgb(r, 0.96, 0.46, 0.70), rod, t), 0.5, n=relief(h.n, t * -8 * off))


def galaxy(h: Hits) -> Surface:
    """Deep blue space with violet and magenta clouds and white stars."""
    p = h.p + h.seed
    cloud, far = noise(p, 2.0), noise(p + 3, 3.7)
    color = mix(rgb(cloud, 0.06, 0.05, 0.24), rgb(cloud, 0.20, 0.16, 0.62), smoothstep(-0.5, 0.5, far))
    color = mix(color, rgb(cloud, 0.78, 0.18, 0.72), smoothstep(0.0, 0.55, cloud + 0.3 * far))
    d, dice = spots(p, h.n, 0.30)
    star = 1 - smoothstep(0.4, 1.0, d.square().sum(0).sqrt() / (0.01 + 0.065 * dice[1]))
    return Surface(mix(color, rgb(cloud, 1.0, 1.0, 0.95), star), 0.3, glow=0.35 + 0.65 * star)


MATERIALS: dict[str, Callable[[Hits], Surface]] = {
    "avocado": avocado, "watermelon": watermelon, "strawberry": strawberry, "orange": orange, "cheese": cheese,
    "waffle": waffle, "wood": wood, "brick": brick, "gold": gold, "marble": marble, "zebra": zebra,
    "checkerboard": checkerboard, "lava": lava, "candy cane": candy_cane, "sprinkles": sprinkles, "galaxy": galaxy,
}  # fmt: skip
