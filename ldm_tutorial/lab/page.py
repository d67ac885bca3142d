"""How good is a model of one's own pictures? Measured on the pictures kept aside, as ``evaluation.json`` and as one page."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoints import load_clip, load_models
from ..files import atomic_write, write_json
from ..images import psnr, to_model, to_picture
from ..measure.metrics import average, distances, nearest, rate, spread
from ..measure.pictures import sample_many
from ..models import Models
from ..settings import FAST_SAMPLING
from .pictures import Pictures

FEWEST = 32  # pictures in each set of a Fréchet distance; with fewer it says nothing
ROWS = {  # the table of the page: key, what it is, how it is shown
    "psnr_aside": ("reconstruction of pictures kept aside, PSNR", "{:.1f} dB"),
    "psnr_learned": ("reconstruction of pictures it learned from, PSNR", "{:.1f} dB"),
    "top1_aside": ("CLIP: the right caption for a picture kept aside comes first", "{:.1%}"),
    "top5_aside": ("CLIP: ... is among the first five", "{:.1%}"),
    "top1_chance": ("guessing: first", "{:.1%}"),
    "top1_learned": ("CLIP: the right caption for a picture it learned from comes first", "{:.1%}"),
    "top1_generated": ("CLIP: the caption asked for comes first for the picture drawn", "{:.1%}"),
    "frechet_generated": ("Fréchet distance, drawn to kept aside", "{:.1f}"),
    "frechet_real": ("Fréchet distance, kept aside to others kept aside", "{:.1f}"),
    "nearest_generated": ("distance to the nearest picture it learned from, drawn", "{:.3f}"),
    "nearest_real": ("distance to the nearest picture it learned from, kept aside", "{:.3f}"),
}
NOTES = """
<p>The pictures kept aside were never trained on. PSNR: 20 dB is off by a tenth of the range, 30 dB by a thirtieth.
CLIP chooses among the captions of as many pictures as stand beside the figure. Its certainty on pictures that it
learned from, beside that on pictures kept aside, shows how much was learned by heart. The verdict on drawn pictures
is not independent: the text encoder that asked for them came from the same CLIP.</p>
<p>The Fréchet distance is taken in the features of this run's own CLIP (its vision tower), not in Inception's:
compare the two figures here, which come from equally many pictures, with each other and with nothing elsewhere. The
distance to the nearest picture is the root-mean-square difference of small copies: far below that of real pictures
kept aside, the model copies.</p>
"""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
body { color: #1c1c1e; background: #fff }
table { border-collapse: collapse } th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid #ddd }
td + td, td + th { white-space: nowrap } td.number { text-align: right; font-variant-numeric: tabular-nums }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)) }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: 0 0 1.4rem } .row > p { flex-basis: 100%; margin: 0 }
figure { margin: 0 } figcaption { font-size: .8rem; color: #555 }
img { width: 128px; height: 128px; display: block; border: 1px solid #ddd }
"""


@torch.no_grad()
def embed(clip: nn.Module, tokenizer, images: Tensor, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures uint8 [N, S, S, 3] and texts -> vectors of length 1 [N, D] and [texts, D], and the vision tower's features
    [N, width]."""
    ids = tokenizer(captions, padding="longest", truncation=True, return_tensors="pt").input_ids.to(clip.device)
    pictures = [to_model(x).to(clip.device) for x in images.split(64)]
    text = torch.cat([clip(input_ids=x, pixel_values=pictures[0][:1]).text_embeds for x in ids.split(256)])
    image = torch.cat([clip(input_ids=ids[:1], pixel_values=x).image_embeds for x in pictures])
    features = torch.cat([clip.vision_model(x).pooler_output for x in pictures])
    return image.cpu(), text.cpu(), features.cpu()


def found_at(clip: nn.Module, tokenizer, images: Tensor, captions: list[str]) -> tuple[Tensor, Tensor, int]:
    """How many wrong captions CLIP puts before the right one, for each picture [N]; the features; the number of captions
    to choose from (equal ones count once)."""
    texts = list(dict.fromkeys(captions))
    image, text, features = embed(clip, tokenizer, images, texts)
    scores = image @ text.T
    right = scores.gather(1, torch.tensor([[texts.index(c)] for c in captions]))
    return (scores > right).sum(1), features, len(texts)


def measure(models: Models, clip: nn.Module, data: Pictures, progress: bool = True) -> tuple[dict, Tensor]:
    """Every figure of :data:`ROWS`, ``{"value", "n", "low", "high"}`` (None where there are too few pictures), and one drawn
    picture uint8 [N, S, S, 3] for each caption kept aside."""
    images, captions = data.validation_images, data.validation_captions
    n = len(images)
    some = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:n].tolist()  # as many, learned from
    learned, learned_captions = data.images[some], [data.captions[i] for i in some]
    drawn = sample_many(models, captions, 0, progress, sampling=FAST_SAMPLING)

    def fidelity(pictures: Tensor) -> dict:
        return average(torch.cat([psnr(x, models.decode(models.encode(x)).cpu()) for x in to_model(pictures).split(64)]))

    place, features, choice = found_at(clip, models.tokenizer, images, captions)
    place_drawn, features_drawn, _ = found_at(clip, models.tokenizer, drawn, captions)
    place_learned = found_at(clip, models.tokenizer, learned, learned_captions)[0]
    chance = {"value": 1 / choice, "n": choice, "low": 1 / choice, "high": 1 / choice}
    half, enough = n // 2, n // 2 >= FEWEST
    first, second = slice(0, half), slice(half, 2 * half)
    found = {
        "psnr_aside": fidelity(images),
        "psnr_learned": fidelity(learned),
        "top1_aside": rate(place < 1),
        "top5_aside": rate(place < 5),
        "top1_chance": chance,
        "top1_learned": rate(place_learned < 1),
        "top1_generated": rate(place_drawn < 1),
        "frechet_generated": spread(features_drawn[first], features[second]) if enough else None,
        "frechet_real": spread(features[first], features[second]) if enough else None,
        "nearest_generated": average(nearest(drawn, data.images)),
        "nearest_real": average(nearest(images, data.images)),
    }
    return found, drawn


def shown(key: str, found: dict) -> str:
    """A figure of the table, as text."""
    value = found[key]
    return ROWS[key][1].format(value["value"]) if value else f"needs {2 * FEWEST} pictures kept aside"


def picture(image, alt: str, caption: str) -> str:
    """A picture uint8 [S, S, 3] inside the page: PNG, or JPEG where it is large."""
    buffer, kind = io.BytesIO(), "jpeg" if len(image) > 128 else "png"
    Image.fromarray(torch.as_tensor(image).numpy()).save(buffer, kind)
    data = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    words = html.escape(alt, quote=True)
    return f'<figure><img alt="{words}" src="{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def row(text: str, *figures: str) -> str:
    return f'<div class="row"><p>{html.escape(text)}</p>{"".join(figures)}</div>'


def page(found: dict, drawn: Tensor, models: Models, data: Pictures, progress: bool = True) -> str:
    """The page as HTML, everything inside it."""
    images, captions = data.validation_images, data.validation_captions
    spaced = torch.linspace(0, len(images) - 1, min(12, len(images))).round().int().unique().tolist()
    wanted = [captions[i] for i in spaced]
    more = [sample_many(models, wanted, seed, progress, sampling=FAST_SAMPLING) for seed in (10_000, 20_000)]
    closest = data.images[distances(drawn[spaced], data.images).argmin(1)]
    x = to_model(images[spaced])
    decoded = models.decode(models.encode(x)).cpu()
    rebuilt, error = to_picture(decoded), psnr(x, decoded)

    reconstructions = [
        row(captions[i], picture(images[i], f"kept aside: {captions[i]}", "kept aside"),
            picture(rebuilt[k], f"reconstruction of: {captions[i]}", f"reconstructed, {error[k]:.1f} dB"))
        for k, i in enumerate(spaced[:8])
    ]  # fmt: skip
    unseen = [
        row(captions[i], picture(images[i], f"kept aside: {captions[i]}", "kept aside"),
            *(picture(p, f"drawn for: {captions[i]}", "drawn") for p in (drawn[i], more[0][k], more[1][k])),
            picture(closest[k], f"learned picture nearest to the first one drawn for: {captions[i]}", "nearest learned"))
        for k, i in enumerate(spaced)
    ]  # fmt: skip
    known = torch.linspace(0, len(data) - 1, 8).round().int().tolist()
    again = sample_many(models, [data.captions[i] for i in known], 30_000, progress, sampling=FAST_SAMPLING)
    learned = [
        row(data.captions[i], picture(data.images[i], f"learned from: {data.captions[i]}", "learned from"),
            picture(again[k], f"drawn for: {data.captions[i]}", "drawn"))
        for k, i in enumerate(known)
    ]  # fmt: skip
    lines = []
    for key, (what, _) in ROWS.items():
        value, numbers = found[key], ""
        if value:
            low, high = (ROWS[key][1].format(value[end]) for end in ("low", "high"))
            numbers = f"<td>{low} to {high}</td><td class=number>{value['n']:,}</td>"
        lines.append(f"<tr><td>{what}</td><td class=number>{shown(key, found)}</td>{numbers or '<td></td><td></td>'}</tr>")
    d = found["data"]
    name = html.escape(d["source"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation: {name}</title><style>{STYLE}</style></head><body>
<h1>What the model learned from {name}</h1>
<p>{d["learned"]:,} pictures to learn from, {d["aside"]:,} kept aside, {d["resolution"]} x {d["resolution"]} pixels.
Training steps: {", ".join(f"{part} {steps:,}" for part, steps in found["steps"].items())}.</p>
<h2>Numbers</h2>
<table><tr><th>what</th><th>value</th><th>95% interval</th><th>pictures</th></tr>
{chr(10).join(lines)}
</table>{NOTES}
<h2>Reconstructions</h2>
<p>Encoded into latents and decoded again: no model of this run can draw sharper than this.</p>
<div class="grid">{"".join(reconstructions)}</div>
<h2>Drawn for captions kept aside</h2>
<p>The pictures were not learned from. Not chosen by hand: evenly spaced over the list.</p>
{"".join(unseen)}
<h2>Drawn for captions it learned</h2>
<div class="grid">{"".join(learned)}</div>
</body></html>
"""


def write_evaluation(folder: str | Path, data: Pictures, steps: dict[str, int], progress: bool = True) -> dict:
    """Measure the model in ``folder`` on ``data`` and write ``evaluation.json`` and ``evaluation.html`` there."""
    folder = Path(folder)
    models, clip = load_models(folder), load_clip(folder)
    found, drawn = measure(models, clip, data, progress)
    about = {"source": Path(data.source).name, "resolution": data.resolution, "learned": len(data)}
    about |= {"aside": len(data.validation_images), "sha256": data.digest}
    found = {"data": about, "steps": steps, "features": "this run's CLIP, vision tower", **found}
    text = page(found, drawn, models, data, progress)
    write_json(folder / "evaluation.json", found)
    with atomic_write(folder / "evaluation.html") as scratch:
        scratch.write_text(text, encoding="utf-8")
    return found
