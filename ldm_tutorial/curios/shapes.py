"""The 18 objects of Curios as signed distance functions.

A signed distance function maps a point to its distance from a surface, negative inside; the union of two shapes is the
minimum of their distances (Hart, *Sphere tracing*, 1996; the formulas of the primitives follow Quilez's notes on distance
functions). Points come as a tensor ``p [3, R]`` in object space: x to the right, y up, z towards the viewer, the whole
object within about -1..1. A shape returns one distance ``[R]`` for each of its parts; the part "body" wears the material
of the caption, every other part has a colour of its own (``PART_COLORS``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PART_COLORS = {
    "feet": (0.30, 0.20, 0.14), "dial": (0.97, 0.96, 0.92), "ink": (0.10, 0.10, 0.12), "band": (0.12, 0.12, 0.15),
    "window": (0.45, 0.66, 0.85), "tyre": (0.13, 0.13, 0.15), "hub": (0.80, 0.81, 0.84), "light": (1.00, 0.93, 0.62),
    "door": (0.42, 0.23, 0.13), "pane": (1.00, 0.87, 0.45), "beak": (0.98, 0.55, 0.10), "stem": (0.95, 0.92, 0.84),
    "nozzle": (0.30, 0.31, 0.35), "pot": (0.80, 0.42, 0.26), "muzzle": (0.93, 0.84, 0.70), "stick": (0.36, 0.24, 0.17),
    "linen": (0.97, 0.96, 0.94), "eye": (1.00, 0.95, 0.55), "grip": (0.16, 0.15, 0.17), "ball": (0.96, 0.95, 0.92),
    "stitch": (0.83, 0.16, 0.16),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One object: its parts, the box that encloses it, and where a fruit would be cut open.

    ``parts(p [3, R]) -> {name: distance [R]}``; ``low`` and ``high`` are the corners of the enclosing box; ``front`` is
    the direction in which fruit materials show their flesh; ``pits`` lists (centre, radius) of stones in that flesh;
    ``grain`` scales the pattern (above 1: larger features, for objects with large plain faces); ``pitch`` is the range of
    camera heights in degrees; ``lift`` the height above the ground; ``turn`` degrees added to every yaw.
    """

    parts: Callable[[Tensor], dict[str, Tensor]]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    front: tuple[float, float, float] = (0.0, 0.25, 1.0)
    pits: tuple[tuple[tuple[float, float, float], float], ...] = ()
    grain: float = 1.0
    pitch: tuple[float, float] = (8.0, 24.0)
    lift: float = 0.0
    turn: float = 0.0


# --- primitives -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def column(x: float, y: float, z: float, device: torch.device) -> Tensor:
    """A point as [3, 1]. It is kept: making a small tensor costs more than using it."""
    return torch.tensor([[x], [y], [z]], device=device)


def at(p: Tensor, x: float, y: float, z: float) -> Tensor:
    """Move the origin to (x, y, z)."""
    return p - column(float(x), float(y), float(z), p.device)


def rotate(p: Tensor, degrees: float, axis: str = "z") -> Tensor:
    """Turn a shape by ``degrees`` about an axis (counter-clockwise seen from the axis's tip)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = p
    if axis == "z":
        return torch.stack([c * x + s * y, c * y - s * x, z])
    if axis == "x":
        return torch.stack([x, c * y + s * z, c * z - s * y])
    return torch.stack([c * x - s * z, y, s * x + c * z])


def mirror(p: Tensor) -> Tensor:
    """Draw once, get it on both sides: x becomes |x|."""
    return torch.stack([p[0].abs(), p[1], p[2]])


def length(*parts: Tensor) -> Tensor:
    """The length of vectors given by their coordinates [R]."""
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = torch.addcmul(total, part, part)
    return total.sqrt_()


def sphere(p: Tensor, radius: float) -> Tensor:
    """A ball about the origin."""
    return length(*p) - radius


def ellipsoid(p: Tensor, a: float, b: float, c: float) -> Tensor:
    """An ellipsoid with half axes a, b, c (the distance is exact at the surface only)."""
    inverse = column(1.0 / a, 1.0 / b, 1.0 / c, p.device)
    q = p * inverse
    k0, k1 = length(*q), length(*(q * inverse))
    return k0 * (k0 - 1.0) / k1.clamp_min_(1e-6)


def box(p: Tensor, a: float, b: float, c: float, round: float = 0.03) -> Tensor:
    """A box with half sizes a, b, c (rounding included)."""
    q = p.abs() - column(float(a - round), float(b - round), float(c - round), p.device)
    return length(*q.clamp_min(0)) + q.amax(0).clamp_max_(0) - round


def flat(d: Tensor, h: Tensor, thick: float, round: float = 0.03) -> Tensor:
    """Extrude a 2-D distance ``d`` by +-``thick`` along the coordinate ``h``."""
    a, b = d + round, h.abs() - (thick - round)
    return length(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max_(0) - round


def cylinder(p: Tensor, radius: float, half: float, axis: int = 1, round: float = 0.03) -> Tensor:
    """A cylinder about an axis, ``half`` long to either side."""
    u, v = [p[i] for i in range(3) if i != axis]
    return flat(length(u, v) - radius, p[axis], half, round)


def cone(p: Tensor, low: float, high: float, half: float, round: float = 0.03) -> Tensor:
    """An upright cylinder whose radius runs from ``low`` at -half to ``high`` at +half (a bound, good enough to march)."""
    t = ((p[1] + half) / (2 * half)).clamp(0, 1)
    slope = math.cos(math.atan2(abs(low - high), 2 * half))
    return flat((length(p[0], p[2]) - (low + (high - low) * t)) * slope, p[1], half, round)


def capsule(p: Tensor, a: tuple, b: tuple, ra: float, rb: float | None = None) -> Tensor:
    """A rod from a to b, radius running from ``ra`` to ``rb``."""
    pa = at(p, *a)
    ba = column(*(float(b[i] - a[i]) for i in range(3)), p.device)
    t = ((pa * ba).sum(0) / (ba * ba).sum()).clamp_(0, 1)
    return length(*(pa - ba * t)) - (ra if rb is None else ra + (rb - ra) * t)


def torus(p: Tensor, major: float, minor: float, axis: int = 2) -> Tensor:
    """A ring of radius ``major``, ``minor`` thick, about an axis."""
    u, v = [p[i] for i in range(3) if i != axis]
    return length(length(u, v) - major, p[axis]) - minor


def union(*distances: Tensor) -> Tensor:
    """All of the shapes together."""
    best = distances[0]
    for d in distances[1:]:
        best = torch.minimum(best, d)
    return best


def smooth_union(a: Tensor, b: Tensor, k: float) -> Tensor:
    """A union with a fillet of width ``k`` (polynomial smooth minimum)."""
    h = (k - (a - b).abs()).clamp_min(0) / k
    return torch.minimum(a, b) - h * h * (k / 4)


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """The first shape without what the second one takes away."""
    return torch.maximum(a, -b)


# --- objects --------------------------------------------------------------------------------------------------------


def armchair(p: Tensor) -> dict[str, Tensor]:
    """A seat, a back with a round top, two arms and four feet."""
    m = mirror(p)
    seat = box(at(p, 0, -0.32, 0.12), 0.55, 0.24, 0.52, 0.10)
    back = smooth_union(
        cylinder(at(p, 0, 0.32, -0.36), 0.62, 0.19, 2, 0.13), box(at(p, 0, -0.1, -0.36), 0.6, 0.45, 0.19, 0.12), 0.15
    )
    arm = smooth_union(
        box(at(m, 0.66, -0.22, 0.1), 0.17, 0.34, 0.54, 0.10), cylinder(at(m, 0.68, 0.1, 0.1), 0.2, 0.56, 2, 0.08), 0.08
    )
    legs = union(*(cylinder(at(m, 0.62, -0.68, z), 0.075, 0.13) for z in (0.5, -0.38)))
    return {"body": union(smooth_union(seat, back, 0.06), arm), "feet": legs}


def mug(p: Tensor) -> dict[str, Tensor]:
    """A hollow cup with half a ring for a handle."""
    cup = subtract(cylinder(at(p, -0.15, 0, 0), 0.62, 0.72, 1, 0.06), cylinder(at(p, -0.15, 0.25, 0), 0.53, 0.72, 1, 0.04))
    x, y, z = at(p, 0.48, 0.0, 0)
    handle = length(length(x, y * 0.85) - 0.33, z) - 0.095
    handle = torch.maximum(handle, -x - 0.04)  # the half of the ring that is outside the cup
    return {"body": smooth_union(cup, handle, 0.05)}


def lamp(p: Tensor) -> dict[str, Tensor]:
    """A table lamp: a shade with a bulb in it, a stick, a round foot."""
    shade = subtract(cone(at(p, 0, 0.5, 0), 0.62, 0.34, 0.42, 0.02), cone(at(p, 0, 0.46, 0), 0.55, 0.27, 0.42, 0.0))
    foot = smooth_union(cylinder(at(p, 0, -0.88, 0), 0.36, 0.09, 1, 0.05), sphere(at(p, 0, -0.5, 0), 0.32), 0.1)
    stick = cylinder(at(p, 0, 0.05, 0), 0.06, 0.5)
    return {"body": union(shade, foot), "stick": stick, "light": sphere(at(p, 0, 0.22, 0), 0.16)}


def teapot(p: Tensor) -> dict[str, Tensor]:
    """A round pot with foot, lid, spout and handle."""
    body = ellipsoid(at(p, -0.02, -0.1, 0), 0.6, 0.5, 0.58)
    foot = cylinder(at(p, -0.02, -0.55, 0), 0.34, 0.07)
    lid = union(ellipsoid(at(p, -0.02, 0.34, 0), 0.32, 0.13, 0.32), sphere(at(p, -0.02, 0.53, 0), 0.1))
    spout = smooth_union(
        capsule(p, (0.45, -0.2, 0), (0.78, 0.1, 0), 0.17, 0.11), capsule(p, (0.78, 0.1, 0), (0.93, 0.3, 0), 0.11, 0.075), 0.08
    )
    handle = torus(at(p, -0.62, 0.0, 0), 0.3, 0.075)
    return {"body": smooth_union(union(body, foot, lid), smooth_union(spout, handle, 0.02), 0.06)}


def table(p: Tensor) -> dict[str, Tensor]:
    """A top on four legs."""
    m = torch.stack([p[0].abs(), p[1], p[2].abs()])
    top = box(at(p, 0, 0.42, 0), 0.98, 0.12, 0.64, 0.05)
    leg = box(at(m, 0.8, -0.15, 0.46), 0.12, 0.5, 0.12, 0.04)
    return {"body": union(top, leg)}


def bed(p: Tensor) -> dict[str, Tensor]:
    """A quilt on a frame, an arched headboard, two pillows."""
    m = mirror(p)
    quilt = box(at(p, 0, -0.12, 0.12), 0.62, 0.24, 0.82, 0.13)
    frame = box(at(p, 0, -0.3, 0.08), 0.68, 0.13, 0.88, 0.05)
    arch = torch.maximum(cylinder(at(p, 0, -0.05, -0.84), 0.8, 0.11, 2, 0.05), p[0].abs() - 0.7)
    head = smooth_union(box(at(p, 0, 0.0, -0.84), 0.7, 0.5, 0.11, 0.05), arch, 0.05)
    foot = box(at(p, 0, -0.16, 0.94), 0.7, 0.34, 0.09, 0.06)
    legs = union(box(at(m, 0.6, -0.52, 0.94), 0.09, 0.14, 0.09), box(at(m, 0.6, -0.52, -0.84), 0.09, 0.14, 0.09))
    pillow = ellipsoid(rotate(at(m, 0.31, 0.2, -0.56), -28, "x"), 0.3, 0.13, 0.21)
    return {"body": union(quilt, frame, head, foot, legs), "linen": pillow}


def clock(p: Tensor) -> dict[str, Tensor]:
    """An alarm clock: two bells and a hammer, a dial with twelve ticks and two hands."""
    m = mirror(p)
    case = cylinder(at(p, 0, -0.1, 0), 0.68, 0.26, 2, 0.09)
    bell = subtract(sphere(at(m, 0.42, 0.62, 0), 0.27), box(rotate(at(m, 0.31, 0.46, 0), -34), 0.5, 0.1, 0.5))
    legs = capsule(m, (0.4, -0.6, 0), (0.54, -0.88, 0.0), 0.09, 0.075)
    hammer = union(capsule(p, (0, 0.5, 0), (0, 0.78, 0), 0.045), capsule(p, (-0.1, 0.8, 0), (0.1, 0.8, 0), 0.075))
    face = at(p, 0, -0.1, 0.27)
    dial = cylinder(face, 0.53, 0.03, 2, 0.01)
    x, y, z = face
    angle = torch.round(torch.atan2(x, y) / (math.pi / 6)) * (math.pi / 6)  # the nearest hour
    u, v = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
    tick = flat(torch.maximum(u.abs() - 0.032, (v - 0.43).abs() - 0.06), z, 0.045, 0.005)
    hands = union(capsule(face, (0, 0, 0.03), (0, 0.32, 0.03), 0.042), capsule(face, (0, 0, 0.03), (0.2, 0.13, 0.03), 0.05))
    return {"body": union(case, bell, legs, hammer), "dial": dial, "ink": union(tick, hands)}


def top_hat(p: Tensor) -> dict[str, Tensor]:
    """A tall hat with a curved brim and a band."""
    x, y, z = at(p, 0, -0.56, 0)
    brim = flat(length(x, z * 1.15) - 0.95, y - 0.1 * x * x, 0.07, 0.05)
    crown = cone(at(p, 0, 0.06, 0), 0.55, 0.64, 0.64, 0.06)
    band = cone(at(p, 0, -0.38, 0), 0.575, 0.6, 0.13, 0.02)
    return {"body": smooth_union(brim, crown, 0.06), "band": band}


def car(p: Tensor) -> dict[str, Tensor]:
    """A car with a narrower cabin, four wheels, windows and headlamps."""
    body = box(at(p, 0, -0.14, 0), 0.95, 0.22, 0.42, 0.12)
    x, y, z = at(p, -0.08, 0.16, 0)
    taper = (0.62 - 0.34 * (y + 0.1).clamp(0, 0.5)) / 0.62  # the cabin narrows upwards
    cabin = box(torch.stack([x / taper, y, z / (0.5 + 0.5 * taper)]), 0.58, 0.28, 0.39, 0.10) * 0.8
    body = smooth_union(body, cabin, 0.05)
    m = torch.stack([p[0], p[1], p[2].abs()])
    arch = union(*(cylinder(at(m, wx, -0.34, 0.42), 0.26, 0.16, 2) for wx in (-0.52, 0.55)))
    wheel = union(*(cylinder(at(m, wx, -0.34, 0.36), 0.22, 0.10, 2, 0.04) for wx in (-0.52, 0.55)))
    hub = union(*(cylinder(at(m, wx, -0.34, 0.44), 0.105, 0.05, 2, 0.02) for wx in (-0.52, 0.55)))
    side = union(box(at(m, -0.31, 0.2, 0.36), 0.18, 0.12, 0.05, 0.04), box(at(m, 0.12, 0.2, 0.36), 0.17, 0.12, 0.05, 0.04))
    screen = box(rotate(at(p, 0.42, 0.2, 0), 18), 0.035, 0.12, 0.29, 0.02)
    lamps = sphere(at(m, 0.92, -0.1, 0.26), 0.09)
    return {"body": subtract(body, arch), "tyre": wheel, "hub": hub, "window": union(side, screen), "light": lamps}


def house(p: Tensor) -> dict[str, Tensor]:
    """Walls, a pitched roof, a chimney, a door and windows."""
    x, y, z = p
    wall = box(at(p, 0, -0.35, 0), 0.62, 0.45, 0.52, 0.02)
    gable = torch.maximum(torch.maximum((x.abs() * 0.72 + (y - 0.56) * 0.69), -y - 0.2), z.abs() - 0.52)
    xr = x.abs()
    slope = xr * 0.69 + (y - 0.72) * 0.72  # signed height above the roof's plane
    along = (xr * 0.72 - (y - 0.72) * 0.69) - 0.62  # distance from the ridge down the slope
    roof = torch.maximum(torch.maximum((slope + 0.06).abs() - 0.075, along - 0.46), z.abs() - 0.66)
    chimney = box(at(p, 0.36, 0.58, -0.18), 0.12, 0.32, 0.12, 0.02)
    door = box(at(p, 0, -0.53, 0.52), 0.15, 0.27, 0.04, 0.01)
    m = mirror(p)
    front = box(at(m, 0.39, -0.33, 0.52), 0.12, 0.14, 0.035, 0.01)
    sides = union(*(box(at(m, 0.62, -0.33, wz), 0.035, 0.14, 0.13, 0.01) for wz in (-0.24, 0.2)))
    return {"body": union(wall, gable, roof, chimney), "door": door, "pane": union(front, sides)}


def duck(p: Tensor) -> dict[str, Tensor]:
    """A swimming duck with a beak and two eyes."""
    body = ellipsoid(at(p, -0.1, -0.3, 0), 0.72, 0.46, 0.5)
    tail = capsule(p, (-0.6, -0.2, 0), (-0.9, 0.12, 0), 0.22, 0.06)
    head = sphere(at(p, 0.35, 0.4, 0), 0.4)
    m = torch.stack([p[0], p[1], p[2].abs()])
    wing = ellipsoid(rotate(at(m, -0.2, -0.22, 0.43), 12), 0.36, 0.22, 0.13)
    beak = ellipsoid(at(p, 0.76, 0.33, 0), 0.22, 0.085, 0.17)
    eye = sphere(at(m, 0.5, 0.52, 0.31), 0.075)
    return {"body": smooth_union(smooth_union(smooth_union(body, tail, 0.2), head, 0.16), wing, 0.04), "beak": beak, "ink": eye}


def mushroom(p: Tensor) -> dict[str, Tensor]:
    """A cap on a stem."""
    cap = torch.maximum(ellipsoid(at(p, 0, 0.0, 0), 0.92, 0.74, 0.92), -(p[1] + 0.02) + 0.14 * (p[0] ** 2 + p[2] ** 2))
    cap = smooth_union(cap, torus(at(p, 0, 0.12, 0), 0.82, 0.09, 1), 0.08)
    stem = cone(at(p, 0, -0.42, 0), 0.36, 0.26, 0.5, 0.1)
    return {"body": cap, "stem": stem}


def rocket(p: Tensor) -> dict[str, Tensor]:
    """A hull with a round window, three fins and a nozzle."""
    x, y, z = p
    t = ((y + 0.7) / 1.7).clamp(0, 1)
    radius = 0.42 * (4 * (0.22 + 0.78 * t) * (1 - (0.22 + 0.78 * t))).clamp_min(0).sqrt().clamp_min(0.03)
    hull = torch.maximum((length(x, z) - radius) * 0.72, (y - 0.13).abs() - 0.85)
    a = torch.round(torch.atan2(x, z) / (math.pi * 2 / 3) - 0.5) + 0.5  # three fins, one at each side and one behind
    a = a * (math.pi * 2 / 3)
    u, v = x * a.cos() - z * a.sin(), x * a.sin() + z * a.cos()
    fin = torch.maximum(v - 0.68, torch.maximum(v * 0.72 + y * 0.69 - 0.1, -(v * 0.5 + y * 0.86) - 0.52))
    fin = flat(torch.maximum(fin, 0.1 - v), u, 0.075, 0.03)
    nozzle = cone(at(p, 0, -0.8, 0), 0.3, 0.2, 0.13, 0.02)
    ring = torus(at(p, 0, 0.34, 0.33), 0.19, 0.045)
    window = ellipsoid(at(p, 0, 0.34, 0.33), 0.18, 0.18, 0.09)
    return {"body": union(hull, fin, ring), "window": window, "nozzle": nozzle}


def cactus(p: Tensor) -> dict[str, Tensor]:
    """A trunk with two arms in a flower pot."""
    trunk = capsule(p, (0, -0.4, 0), (0, 0.66, 0), 0.29)
    left = smooth_union(
        capsule(p, (0, 0.0, 0), (-0.52, 0.0, 0), 0.16), capsule(p, (-0.52, 0.0, 0), (-0.52, 0.4, 0), 0.17), 0.06
    )
    right = smooth_union(
        capsule(p, (0, -0.14, 0), (0.52, -0.14, 0), 0.15), capsule(p, (0.52, -0.14, 0), (0.52, 0.22, 0), 0.16), 0.06
    )
    pot = union(cone(at(p, 0, -0.73, 0), 0.33, 0.44, 0.22), cylinder(at(p, 0, -0.48, 0), 0.5, 0.09))
    return {"body": smooth_union(trunk, union(left, right), 0.08), "pot": pot}


def teddy_bear(p: Tensor) -> dict[str, Tensor]:
    """A sitting bear."""
    m = mirror(p)
    body = ellipsoid(at(p, 0, -0.35, 0), 0.46, 0.48, 0.4)
    head = ellipsoid(at(p, 0, 0.38, 0.03), 0.44, 0.38, 0.38)
    ear = ellipsoid(at(m, 0.35, 0.72, 0.0), 0.18, 0.18, 0.11)
    arm = capsule(m, (0.36, -0.12, 0.05), (0.66, -0.36, 0.22), 0.17, 0.18)
    leg = capsule(m, (0.26, -0.7, 0.1), (0.42, -0.74, 0.48), 0.2, 0.21)
    muzzle = ellipsoid(at(p, 0, 0.27, 0.37), 0.19, 0.15, 0.15)
    face = union(sphere(at(m, 0.17, 0.47, 0.36), 0.062), ellipsoid(at(p, 0, 0.34, 0.5), 0.08, 0.06, 0.06))
    return {"body": union(smooth_union(body, head, 0.05), ear, arm, leg), "muzzle": muzzle, "ink": face}


def umbrella(p: Tensor) -> dict[str, Tensor]:
    """An open umbrella of eight panels with a hooked stick, held aslant."""
    q = rotate(p, 14)
    x, y, z = q
    rib = torch.cos(torch.atan2(z, x) * 8)  # eight panels
    rim = length(x, z)
    dome = ellipsoid(at(q, 0, 0.0, 0), 0.98, 0.78, 0.98)
    shell = subtract(dome, ellipsoid(at(q, 0, -0.05, 0), 0.93, 0.74, 0.93))
    shell = torch.maximum(shell, 0.1 - y + 0.07 * rib * (rim / 0.98) ** 2) * 0.85
    stick = union(capsule(q, (0, -0.7, 0), (0, 0.9, 0), 0.05), capsule(q, (0, 0.8, 0), (0, 0.93, 0), 0.05, 0.02))
    hx, hy, hz = at(q, 0.15, -0.7, 0)
    hook = torch.maximum(length(length(hx, hy) - 0.15, hz) - 0.06, hy)
    return {"body": shell, "stick": union(stick, hook)}


def flying_bat(p: Tensor) -> dict[str, Tensor]:
    """The animal, its wings spread."""
    m = mirror(p)
    x, y, z = m
    body = ellipsoid(at(p, 0, -0.1, 0.04), 0.2, 0.32, 0.18)
    head = sphere(at(p, 0, 0.28, 0.08), 0.21)
    ear = capsule(m, (0.11, 0.42, 0.06), (0.2, 0.66, 0.02), 0.085, 0.015)
    fold = z + 0.12 * x  # wings sweep a little backwards
    top = torch.maximum(y - 0.42 + 0.55 * (x - 0.52).abs() ** 1.5, x - 0.98)  # a peak at the wrist
    lower = torch.maximum(-(y + 0.42), top)
    for cx, cy, r in ((0.28, -0.55, 0.27), (0.62, -0.42, 0.27), (0.92, -0.2, 0.24)):  # scalloped lower edge
        lower = torch.maximum(lower, r - length(x - cx, y - cy))
    wing = flat(torch.maximum(lower, 0.05 - x), fold, 0.05, 0.03) * 0.8
    bone = capsule(torch.stack([x, y, fold]), (0.1, 0.12, 0.03), (0.52, 0.4, 0.03), 0.055, 0.04)
    feet = capsule(m, (0.08, -0.4, 0.05), (0.1, -0.52, 0.08), 0.04)
    eyes = sphere(at(m, 0.085, 0.31, 0.265), 0.06)
    pupil = sphere(at(m, 0.083, 0.305, 0.315), 0.028)
    fang = capsule(m, (0.05, 0.18, 0.27), (0.05, 0.11, 0.28), 0.028, 0.008)
    return {
        "body": union(smooth_union(body, head, 0.06), ear, smooth_union(wing, bone, 0.02), feet),
        "eye": eyes,
        "ink": pupil,
        "dial": fang,
    }


def baseball_bat(p: Tensor) -> dict[str, Tensor]:
    """A slanted bat with a grip, and a ball with a seam beside it."""
    q = rotate(at(p, -0.05, 0.02, 0), -38)
    barrel = smooth_union(
        capsule(q, (0, 0.05, 0), (0, 0.86, 0), 0.15, 0.21), capsule(q, (0, -0.5, 0), (0, 0.2, 0), 0.085, 0.15), 0.1
    )
    grip = capsule(q, (0, -0.98, 0), (0, -0.5, 0), 0.085)
    knob = cylinder(at(q, 0, -1.06, 0), 0.14, 0.05, 1, 0.04)
    b = at(p, 0.58, -0.52, 0.12)
    ball = sphere(b, 0.24)
    seam = torus(at(mirror(rotate(rotate(b, 24, "y"), 25, "z")), 0.15, 0, 0), 0.185, 0.026, 0)
    return {"body": union(barrel, knob), "grip": grip, "ball": ball, "stitch": seam}


OBJECTS: dict[str, Shape] = {
    "armchair": Shape(armchair, (-0.9, -0.82, -0.57), (0.9, 0.96, 0.68), (0, 0.75, 1), (((0, 0.4, -0.17), 0.25),)),
    "mug": Shape(mug, (-0.79, -0.74, -0.64), (0.93, 0.74, 0.64), (-0.1, 0.1, 1), (((-0.15, -0.05, 0.62), 0.25),)),
    "lamp": Shape(
        lamp, (-0.64, -0.99, -0.64), (0.64, 0.94, 0.64),
        (0, 0.2, 1), (((0, 0.42, 0.5), 0.2), ((0, -0.5, 0.3), 0.13)),
    ),
    "teapot": Shape(teapot, (-1.0, -0.64, -0.6), (1.02, 0.65, 0.6), (0, 0.15, 1), (((0, -0.12, 0.55), 0.22),)),
    "table": Shape(table, (-1, -0.67, -0.66), (1, 0.56, 0.66), (0, 1, 0.3), (((0, 0.54, 0.05), 0.26),), 1.35, (16, 30)),
    "bed": Shape(
        bed, (-0.72, -0.68, -0.97), (0.72, 0.78, 1.05),
        (0, 1, 0.3), (((0, 0.12, 0.3), 0.25),), 1.35, (16, 30), turn=24,
    ),
    "clock": Shape(
        clock, (-0.74, -0.98, -0.3), (0.74, 0.92, 0.36),
        (0, 0.1, 1), (((0.46, 0.68, 0.2), 0.13), ((-0.46, 0.68, 0.2), 0.13)),
    ),
    "top hat": Shape(top_hat, (-0.97, -0.72, -0.84), (0.97, 0.72, 0.84), (0, 0.1, 1), (((0, 0.24, 0.6), 0.22),)),
    "car": Shape(car, (-0.98, -0.58, -0.5), (1.02, 0.46, 0.5), (0, 0.3, 1), (((0.0, -0.12, 0.42), 0.15),), 1.0, turn=-12),
    "house": Shape(house, (-0.86, -0.82, -0.68), (0.86, 0.92, 0.68), (0, 0.05, 1), (((0, 0.19, 0.52), 0.15),), 1.2, turn=-10),
    "duck": Shape(duck, (-0.99, -0.78, -0.58), (1.0, 0.82, 0.58), (-0.1, 0.2, 1), (((-0.1, -0.28, 0.5), 0.2),)),
    "mushroom": Shape(mushroom, (-0.95, -0.93, -0.95), (0.95, 0.77, 0.95), (0, 0.35, 1), (((0, 0.32, 0.8), 0.24),)),
    "rocket": Shape(rocket, (-0.72, -0.96, -0.72), (0.72, 1.0, 0.72), (0, 0.1, 1), (((0, -0.16, 0.4), 0.19),)),
    "cactus": Shape(cactus, (-0.72, -0.97, -0.53), (0.71, 0.98, 0.53), (0, 0.1, 1), (((0, 0.22, 0.28), 0.17),)),
    "teddy bear": Shape(teddy_bear, (-0.87, -0.97, -0.44), (0.87, 0.93, 0.72), (0, 0.2, 1), (((0, -0.32, 0.38), 0.2),)),
    "umbrella": Shape(umbrella, (-1.02, -0.96, -1.0), (1.02, 1.0, 1.0), (0, 0.9, 1), (((-0.1, 0.62, 0.5), 0.24),)),
    "flying bat": Shape(
        flying_bat, (-1.0, -0.58, -0.25), (1.0, 0.7, 0.38),
        (0, 0.2, 1), (((0, -0.12, 0.2), 0.13),), 0.8, (2, 14), 0.35,
    ),
    "baseball bat": Shape(
        baseball_bat, (-0.85, -0.98, -0.3), (0.86, 0.92, 0.4),
        (0, 0.1, 1), (((0.33, 0.42, 0.2), 0.12),), 0.8, (2, 14), 0.02,
    ),
}  # fmt: skip
