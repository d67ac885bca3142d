"""A small sphere tracer: scenes in, pictures and exact object masks out.

A ray steps forward by the distance to the nearest surface until it arrives (Hart, *Sphere tracing*, 1996). Every picture
is traced at twice its size and averaged 2 x 2. Pictures of one object are traced together, yet no pixel depends on its
neighbours in the batch: every tensor of rays is padded to a multiple of ``LANES``, because vectorised ``sin`` or ``exp``
round differently in the last few elements of a tensor, which a CPU computes one by one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .materials import MATERIALS, Hits, Surface
from .shapes import OBJECTS, PART_COLORS, Shape, column, union

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "pink": (0.97, 0.66, 0.76), "yellow": (0.98, 0.86, 0.42), "blue": (0.55, 0.75, 0.96), "green": (0.60, 0.85, 0.62),
    "purple": (0.74, 0.62, 0.92), "grey": (0.66, 0.67, 0.70), "white": (0.96, 0.96, 0.96), "orange": (0.98, 0.66, 0.36),
}  # fmt: skip
CHUNK = 16  # pictures of one object traced together: small tensors cost more in calls than in arithmetic
LANES = 64
FOCAL = 1 / math.tan(math.radians(13))
GLOSS = {"window": 0.9, "light": 0.5, "pane": 0.3, "tyre": 0.2, "ink": 0.5, "hub": 0.6, "beak": 0.3, "eye": 0.4}


@dataclass(frozen=True)
class Scene:
    """What is in one picture: names of object, material and background, and the view (angles in degrees).

    ``fill`` is the share of the frame that the object's enclosing box spans (below 1 nothing touches the border),
    ``shift`` moves it off the middle by a share of the free margin (-1..1), ``light`` is (azimuth seen from the camera,
    elevation), ``tone`` brightens or darkens the background (about +-0.05), ``texture_seed`` offsets noise patterns.
    """

    object: str
    material: str
    background: str
    yaw: float = -20.0
    pitch: float = 16.0
    fill: float = 0.9
    shift: tuple[float, float] = (0.0, 0.0)
    light: tuple[float, float] = (-40.0, 50.0)
    tone: float = 0.0
    texture_seed: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass
class Rays:
    """A chunk's geometry: eye [3, B], axes right/up/back [3, B] each, the principal point [2, B], light [3, B]."""

    eye: Tensor
    right: Tensor
    up: Tensor
    back: Tensor
    middle: Tensor
    light: Tensor

    def cast(self, size: int, who: Tensor, pixel: Tensor) -> Tensor:
        """Unit directions [3, R] through pixels (row-major index) of pictures ``who``."""
        u = ((pixel % size) + 0.5) * (2 / size) - 1
        v = 1 - (torch.div(pixel, size, rounding_mode="floor") + 0.5) * (2 / size)
        u, v = u - self.middle[0, who], v - self.middle[1, who]
        d = self.right[:, who] * u + self.up[:, who] * v - self.back[:, who] * FOCAL
        return d / d.square().sum(0).sqrt()


def _doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)  # the camera is computed in double precision: the same on every machine


def _direction(azimuth: Tensor, height: Tensor) -> Tensor:
    """Unit vectors [3, B] from angles in radians; azimuth 0 looks along z."""
    return torch.stack([azimuth.sin() * height.cos(), height.sin(), azimuth.cos() * height.cos()])


def _aim(scenes: list[Scene], shape: Shape, device: torch.device) -> Rays:
    """Place the camera so that the enclosing box spans ``fill`` of the frame."""
    yaw = torch.deg2rad(_doubles([s.yaw + shape.turn for s in scenes]))
    pitch = torch.deg2rad(_doubles([s.pitch for s in scenes]))
    back = _direction(yaw, pitch)
    right = torch.stack([yaw.cos(), torch.zeros_like(yaw), -yaw.sin()])
    up = torch.linalg.cross(back, right, dim=0)
    low, high = _doubles(shape.low), _doubles(shape.high)
    centre = (low + high) / 2
    corners = torch.stack(torch.meshgrid(*torch.stack([low, high], 1), indexing="ij"), -1).reshape(8, 3) - centre
    x, y, z = (corners @ axis for axis in (right, up, back))  # each [8, B]
    fill, distance = _doubles([s.fill for s in scenes]), torch.full_like(yaw, 6.0)
    for _ in range(12):  # the span shrinks with the distance: a fixed point
        u, v = FOCAL * x / (distance - z), FOCAL * y / (distance - z)
        span = torch.maximum(u.amax(0) - u.amin(0), v.amax(0) - v.amin(0)) / 2
        distance = distance * (span / fill)
    shifts = _doubles([s.shift for s in scenes]).T  # [2, B]
    middle = []
    for w, shift in zip((u, v), shifts, strict=True):
        margin = 1 - (w.amax(0) - w.amin(0)) / 2
        middle.append(-(w.amax(0) + w.amin(0)) / 2 + shift * margin * 0.6)
    azimuth = torch.deg2rad(_doubles([s.light[0] for s in scenes])) + yaw
    light = _direction(azimuth, torch.deg2rad(_doubles([s.light[1] for s in scenes])))
    eye = back * distance + centre[:, None]
    return Rays(*(a.float().to(device) for a in (eye, right, up, back, torch.stack(middle), light)))


def _slab(shape: Shape, o: Tensor, d: Tensor, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the enclosing box, grown by ``margin``."""
    low, high = column(*shape.low, o.device) - margin, column(*shape.high, o.device) + margin
    a, b = (low - o) / d, (high - o) / d
    return torch.minimum(a, b).amax(0).clamp_min(0), torch.maximum(a, b).amin(0)


def _distance(shape: Shape, p: Tensor) -> Tensor:
    return union(*shape.parts(p).values())


def _where(mask: Tensor) -> Tensor:
    """Indices of the true entries, the last one repeated up to a multiple of LANES."""
    index = mask.nonzero().squeeze(1)
    return torch.cat([index, index[-1:].expand(-len(index) % LANES)]) if len(index) % LANES else index


def _march(shape: Shape, o: Tensor, d: Tensor, start: Tensor, end: Tensor, near: Tensor | float, steps: int) -> Tensor:
    """Distance along each ray to the first point within ``near`` of the surface, infinite where there is none."""
    found = torch.full_like(start, math.inf)
    live = _where(start < end)
    o, d, t, end = o.index_select(1, live), d.index_select(1, live), start[live], end[live]
    near = near[live] if isinstance(near, Tensor) else near
    for _ in range(steps):
        if not len(live):
            break
        gap = _distance(shape, torch.addcmul(o, d, t))
        arrived = gap < near
        found[live[arrived]] = t[arrived]
        t = t + gap * 0.95
        keep = _where(~arrived & (t < end))  # let go of the rays that are done
        live, t, end = live[keep], t[keep], end[keep]
        o, d = o.index_select(1, keep), d.index_select(1, keep)
        near = near[keep] if isinstance(near, Tensor) else near
    return found


def _trace(shape: Shape, rays: Rays, count: int, big: int, block: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hits of a chunk: picture, pixel, point and direction. Thick rays for blocks of pixels go first and find where the thin
    ones may start (cone marching: the radius is that of the block at its distance), which saves most of the steps."""
    device, small = rays.eye.device, big // block
    who = torch.arange(count, device=device).repeat_interleave(small * small)
    d = rays.cast(small, who, torch.arange(small * small, device=device).repeat(count))
    o = rays.eye[:, who]
    start, end = _slab(shape, o, d, 0.12)
    near = start * (1.5 * 2 / small / FOCAL)
    begin = _march(shape, o, d, start, end, near, 24) - near
    # each block's start goes to its block x block pixels
    begin = begin.reshape(count, small, 1, small, 1).expand(-1, -1, block, -1, block).reshape(-1)
    pixel = _where(begin.isfinite())
    who, begin = torch.div(pixel, big * big, rounding_mode="floor"), begin[pixel]
    d = rays.cast(big, who, pixel % (big * big))
    o = rays.eye[:, who]
    start, end = _slab(shape, o, d)
    t = _march(shape, o, d, torch.maximum(start, begin), end, 0.004, 28)
    hit = _where(t.isfinite())
    return who[hit], pixel[hit], o[:, hit] + d[:, hit] * t[hit], d[:, hit]


def _lit(shape: Shape, o: Tensor, light: Tensor, soft: float, stops: tuple[float, ...]) -> Tensor:
    """How much of the light reaches each point, 0..1: near misses on the way to the light darken it (penumbra)."""
    seen = torch.ones_like(o[0])
    for t in stops:
        seen = torch.minimum(seen, 0.5 + _distance(shape, o + light * t) * (0.5 * soft / t))
    seen = seen.clamp_(0, 1)
    return seen * seen * (3 - 2 * seen)


def _normal(shape: Shape, p: Tensor, width: float) -> Tensor:
    """The direction in which the distance grows, by differences over ``width`` at a tetrahedron's corners."""
    k = p.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]]).T  # [3, 4]
    around = _distance(shape, (p[:, :, None] + width * k[:, None, :]).reshape(3, -1)).reshape(-1, 4)
    n = k @ around.T
    return n / n.square().sum(0).sqrt().clamp_min(1e-8)


def _surface(shape: Shape, scenes: list[Scene], p: Tensor, n: Tensor, who: Tensor) -> tuple[Surface, Tensor]:
    """Colour and finish at each hit: the caption's material on the body, fixed colours on the other parts."""
    parts = shape.parts(p)
    nearest = torch.stack(list(parts.values())).argmin(0)
    color, normal = torch.zeros_like(p), n.clone()
    gloss, metal, glow = (torch.zeros_like(p[0]) for _ in range(3))

    def cover(chosen: Tensor, surface: Surface) -> None:
        color[:, chosen] = surface.color.clamp(0, 1)
        gloss[chosen], metal[chosen], glow[chosen] = surface.gloss, surface.metal, surface.glow
        if surface.n is not None:
            normal[:, chosen] = surface.n

    front = F.normalize(p.new_tensor(shape.front), dim=0)
    pits = [(p.new_tensor(centre), radius) for centre, radius in shape.pits]
    seeds = p.new_tensor([s.texture_seed for s in scenes]).T
    names = [s.material for s in scenes]
    for index, part in enumerate(parts):
        here = nearest == index
        if part != "body":
            cover(_where(here), Surface(p.new_tensor(PART_COLORS[part])[:, None], GLOSS.get(part, 0.15)))
            continue
        for name in dict.fromkeys(names):
            wears_it = torch.tensor([other == name for other in names], device=p.device)
            chosen = _where(here & wears_it[who])
            if len(chosen):
                q = p[:, chosen]
                rounded = functools.partial(_normal, shape, q)
                hits = Hits(q / shape.grain, q, n[:, chosen], rounded, front, pits, seeds[:, who[chosen]])
                cover(chosen, MATERIALS[name](hits))
    return Surface(color, gloss, metal, glow), normal


def _sky(r: Tensor, light: Tensor) -> Tensor:
    """A photographer's studio for metal to mirror: bright above, a soft box at the light, a dark floor, a horizon line."""
    up = r[1]
    base = 0.30 + 0.55 * (up * 0.5 + 0.5) + 0.35 * torch.sigmoid(14 * (up - 0.15)) - 0.25 * torch.sigmoid(-12 * (up + 0.1))
    return base + 1.1 * torch.sigmoid(18 * ((r * light).sum(0) - 0.82))


def _chunk(scenes: list[Scene], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pictures of one object: uint8 [B, size, size, 3] and masks bool [B, size, size]."""
    shape, big, count = OBJECTS[scenes[0].object], 2 * size, len(scenes)
    rays = _aim(scenes + scenes[-1:] * (-count % CHUNK), shape, device)
    ground = shape.low[1] - shape.lift
    tints = []  # the background of each scene, a little lighter or darker
    for scene in scenes:
        tints.append([c + scene.tone for c in BACKGROUNDS[scene.background]])
    tint = torch.tensor(tints, device=device).T.contiguous()  # [3, B]

    # Background: a seamless studio sweep, its shadow traced at the final size (it is soft) and enlarged.
    who = torch.arange(count, device=device).repeat_interleave(size * size)
    pixel = torch.arange(size * size, device=device).repeat(count)
    d = rays.cast(size, who, pixel)
    t = (ground - rays.eye[1, who]) / d[1]
    p = rays.eye[:, who] + d * t
    on_floor = (t > 0) & (t < 40)
    lit = torch.ones_like(t)
    start, end = _slab(shape, p, rays.light[:, who], 0.1)
    shaded = _where(on_floor & (start < end))
    lit[shaded] = _lit(shape, p[:, shaded], rays.light[:, who[shaded]], 3.0, tuple(0.08 * 1.24**k for k in range(16)))
    low, high = (p.new_tensor(c) for c in (shape.low, shape.high))
    near_x = ((p[0] - (low[0] + high[0]) / 2).abs() - (high[0] - low[0]) / 2).clamp_min(0)
    near_z = ((p[2] - (low[2] + high[2]) / 2).abs() - (high[2] - low[2]) / 2).clamp_min(0)
    close = _where(on_floor & (near_x + near_z < 0.5))
    if len(close):  # light that cannot get under the object
        lit[close] = lit[close] * (0.62 + 0.38 * (_distance(shape, p[:, close]) / 0.45).clamp(0, 1))
    row = torch.div(pixel, size, rounding_mode="floor") / size
    column = (pixel % size) / size
    sweep = 1.06 - 0.20 * row - 0.10 * ((column - 0.5) ** 2 + (row - 0.45) ** 2) * 2
    back = tint[:, who] * sweep * (0.56 + 0.44 * lit)
    back = F.interpolate(back.reshape(3, count, size, size), size=(big, big), mode="bilinear").reshape(3, -1)

    # The object, at twice the size.
    who, pixel, p, d = _trace(shape, rays, count, big)
    image, hit = back, torch.zeros(count * big * big, device=device)
    if len(pixel):
        hit[pixel] = 1.0
        light = rays.light[:, who]
        n = _normal(shape, p, 0.004)
        s, bumped = _surface(shape, scenes, p, n, who)
        shadow = _lit(shape, p + n * 0.02, light, 7.0, (0.07, 0.16, 0.3, 0.55, 0.9))
        reach = _distance(shape, p + n * 0.14)
        occlusion = 0.45 + 0.55 * (reach / 0.14).clamp(0, 1)
        facing = (bumped * light).sum(0)
        diffuse = (facing * 0.8 + 0.2).clamp_min(0) * shadow
        bounce = tint[:, who] * (0.5 - 0.5 * bumped[1])  # the floor's colour shines up from below
        ambient = (0.42 + 0.12 * bumped[1]) * occlusion
        body = s.color * (ambient + 0.72 * diffuse) + 0.10 * s.color * bounce * occlusion
        mirrored = d - 2 * (d * bumped).sum(0) * bumped
        spark = (mirrored * light).sum(0).clamp_min(0)
        shine = s.gloss * (0.75 * spark**40 * shadow + 0.10 * (1 + (d * bumped).sum(0)).clamp(0, 1) ** 3 * occlusion)
        mirror = s.color * _sky(mirrored, light) * occlusion.sqrt() * (0.75 + 0.25 * shadow)
        body = body * (1 - s.metal) + (mirror + 0.3 * body) * s.metal
        image[:, pixel] = (body * (1 - s.glow) + s.color * s.glow + shine).clamp(0, 1)
    image = F.avg_pool2d(image.reshape(3, count, big, big), 2)
    mask = F.avg_pool2d(hit.reshape(count, 1, big, big), 2)[:, 0] >= 0.5
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous(), mask


@torch.inference_mode()
def render(scenes: list[Scene], size: int = 64, device: str | torch.device = "cpu") -> Iterator[tuple[int, Tensor, Tensor]]:
    """Draw scenes; yields ``(index, image uint8 [size, size, 3], mask bool [size, size])`` as they are done, on the CPU.

    The mask is true where the object (all its parts) covers at least half of a pixel. Equal scenes give equal pixels on
    one device, whatever else is in the list.
    """
    device = torch.device(device)
    groups: dict[str, list[int]] = {}
    for index, scene in enumerate(scenes):
        groups.setdefault(scene.object, []).append(index)
    for members in groups.values():
        for start in range(0, len(members), CHUNK):
            part = members[start : start + CHUNK]
            images, masks = _chunk([scenes[i] for i in part], size, device)
            yield from zip(part, images.cpu(), masks.cpu(), strict=True)
