import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from ldm_tutorial.practice.n10 import draw_examples


def where(z, given, eps, mask, a):
    level = torch.tensor(a)
    outside = level.sqrt() * given + (1 - level).sqrt() * eps
    return torch.where(mask.bool(), z, outside)


def difference(z, given, eps, mask, a):
    noisy = a**0.5 * given.double() + (1 - a) ** 0.5 * eps.double()
    return noisy + mask * (z.double() - noisy)


def lora_linear(x, W, A, B, alpha):
    rank = A.shape[0]
    return F.linear(x, W) + (alpha / rank) * F.linear(F.linear(x, A), B)


def lora_merged(x, weights, down, up, strength):
    merged = weights.double() + strength / down.shape[0] * (up.double() @ down.double())
    return x.double() @ merged.T


def lora_in_place(x, W, A, B, alpha):
    W += alpha / A.shape[0] * B @ A
    return x @ W.T


def start_with_table(z, eps, timesteps, alphas_cumprod, strength):
    left = timesteps[len(timesteps) - int(len(timesteps) * strength) :]
    a = alphas_cumprod[left][0].double()
    return a.sqrt() * z + (1 - a).sqrt() * eps


def start_from_behind(z, eps, timesteps, alphas_cumprod, strength):
    """Counted from the end of the run: the last ``done`` steps are done."""
    done = int(strength * len(timesteps))
    a = float(alphas_cumprod[int(timesteps[-done])])
    return torch.lerp(torch.zeros_like(z), z, a**0.5) + eps * (1 - a) ** 0.5


def start(z, eps, a):
    return a.sqrt() * z + (1 - a).sqrt() * eps


def step_of(timesteps, strength):
    return len(timesteps) - int(len(timesteps) * strength)


SCRATCH = tempfile.TemporaryDirectory()


def folder_with(lines, table="metadata.csv", pictures=24, ruined=None):
    """A folder of pictures and a table of captions with these lines."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    for name, _, _ in draw_examples(folder)[pictures:]:
        (folder / name).unlink()
    if ruined:
        (folder / ruined).write_bytes(b"no picture")
    (folder / table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


COLOURS = [name for _ in range(6) for name in ("red", "blue", "green", "yellow")]
NAMES = [f"picture_{i:02}.png" for i in range(24)]
ROWS = [f"{name},a {colour} thing" for name, colour in zip(NAMES, COLOURS, strict=True)]
HEAD = "file_name,text"
JSON = [json.dumps({"file_name": name, "text": f"this is {colour}"}) for name, colour in zip(NAMES, COLOURS, strict=True)]


RIGHT = {
    "keep_outside": [where, difference],
    "lora": [lora_linear, lora_merged],
    "learned_by_lora": [4 * 320 + 320 * 4, 2560],
    "start_of_edit": [start_with_table, start_from_behind],
    "my_pictures": [folder_with([HEAD, *ROWS]), str(folder_with(JSON, "metadata.jsonl"))],
}
WRONG = {
    "keep_outside": {
        "the other way round": lambda z, g, e, m, a: where(z, g, e, 1 - m, a),
        "put back without noise": lambda z, g, e, m, a: torch.where(m.bool(), z, g),
        "without its square roots": lambda z, g, e, m, a: torch.where(m.bool(), z, a * g + (1 - a) * e),
        "the given picture is missing": lambda z, g, e, m, a: z * m,
    },
    "lora": {
        "alpha / r is missing": lambda x, W, A, B, alpha: x @ W.T + x @ (B @ A).T,
        "not divided by the rank": lambda x, W, A, B, alpha: x @ W.T + alpha * x @ (B @ A).T,
        "frozen weights W were left out": lambda x, W, A, B, alpha: alpha / len(A) * x @ (B @ A).T,
        "changes the W that it was given": lora_in_place,
    },
    "learned_by_lora": {"one of the two": 1280, "which stay frozen": 320 * 320, "too high": 5000},
    "start_of_edit": {
        "still the wrong way round": lambda z, e, t, a, s: start(z, e, a[t[int(len(t) * s)]]),
        "still used as its timestep": lambda z, e, t, a, s: start(z, e, a[step_of(t, s)]),
        "one step too many": lambda z, e, t, a, s: start(z, e, a[t[step_of(t, s) + 1]]),
        "rounded in another way": lambda z, e, t, a, s: start(z, e, a[t[int(len(t) * (1 - s))]]),
        "computed from the strength alone": lambda z, e, t, a, s: start(z, e, a[int(s * (len(a) - 1))]),
        "that of the noisiest timestep": lambda z, e, t, a, s: start(z, e, a[t[0]]),
        "without its square roots": lambda z, e, t, a, s: a[t[step_of(t, s)]] * z + (1 - a[t[step_of(t, s)]]) * e,
        "without its factor": lambda z, e, t, a, s: a[t[step_of(t, s)]] ** 0.5 * z + e,
    },
    "my_pictures": {
        "There is no folder": "no/such/folder",
        "has no captions": folder_with([HEAD, *ROWS], "captions.csv"),
        "no column text": folder_with(["file_name,caption", *ROWS]),
        "more fields than columns": folder_with([HEAD, *(row + ", seen from the side" for row in ROWS)]),
        "missing file": folder_with([HEAD, *ROWS], pictures=20),
        "at least 20": folder_with([HEAD, *ROWS[:5]]),
        "can't be read as a picture": folder_with([HEAD, *ROWS], ruined="picture_03.png"),
        "all captions are the same": folder_with([HEAD, *(f"{name},a thing" for name in NAMES)]),
        "no word stands in the captions of three": folder_with([HEAD, *(f"{name},number{i}" for i, name in enumerate(NAMES))]),
        "empty caption": folder_with([HEAD, *(f"{name}," for name in NAMES)]),
    },
}
