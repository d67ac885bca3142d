"""How good is a model of one's own pictures? Measured on the pictures kept aside, as ``evaluation.json`` and as one page."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from ..checkpoints import load_clip, load_models
from ..clip import embed_images, embed_texts
from ..errors import UserError
from ..files import atomic_write, write_json
from ..images import psnr, to_model, to_picture
from ..measure.metrics import average, distances, nearest, rate, spread
from ..measure.pictures import sample_many
from ..models import Models
from ..settings import DEFAULT_SAMPLING
from ..storage.about import About
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


@torch.no_grad()
def found_at(clip: CLIPModel, tokenizer, images: Tensor, captions: list[str]) -> tuple[Tensor, Tensor, int]:
    """For pictures uint8 [N, S, S, 3] and their captions: how many wrong captions CLIP puts before the right one [N], the
    vision tower's features [N, width], and the number of captions to choose from (equal ones count once)."""
    texts = list(dict.fromkeys(captions))
    pictures = to_model(images)
    scores = embed_images(clip, pictures) @ embed_texts(clip, tokenizer, texts).T
    features = torch.cat([clip.vision_model(part.to(clip.device)).pooler_output.cpu() for part in pictures.split(64)])
    right = scores.gather(1, torch.tensor([[texts.index(caption)] for caption in captions]))
    return (scores > right).sum(1), features, len(texts)


def measure(models: Models, clip: CLIPModel, data: Pictures, engine=None) -> tuple[dict, Tensor]:
    """Every figure of :data:`ROWS`, ``{"value", "n", "low", "high"}`` (None where there are too few pictures), with what it was
    measured on; and one drawn picture uint8 [N, S, S, 3] for each caption kept aside, by the engine where there is one."""
    images, captions = data.validation_images, data.validation_captions
    n = len(images)
    some = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:n].tolist()  # as many, learned from
    learned, learned_captions = data.images[some], [data.captions[i] for i in some]
    drawn = sample_many(models, captions, 0, sampling=DEFAULT_SAMPLING, engine=engine)

    def fidelity(pictures: Tensor) -> dict:
        return average(torch.cat([psnr(x, models.decode(models.encode(x)).cpu()) for x in to_model(pictures).split(64)]))

    place, features, choice = found_at(clip, models.tokenizer, images, captions)
    place_drawn, features_drawn, _ = found_at(clip, models.tokenizer, drawn, captions)
    place_learned = found_at(clip, models.tokenizer, learned, learned_captions)[0]
    half, enough = n // 2, n // 2 >= FEWEST
    first, second = slice(0, half), slice(half, 2 * half)
    about = {"source": Path(data.source).name, "resolution": data.resolution, "learned": len(data), "aside": n}
    found = {
        "data": {**about, "sha256": data.fingerprint},
        "features": "this run's CLIP, vision tower",
        "psnr_aside": fidelity(images),
        "psnr_learned": fidelity(learned),
        "top1_aside": rate(place < 1),
        "top5_aside": rate(place < 5),
        "top1_chance": {"value": 1 / choice, "n": choice, "low": 1 / choice, "high": 1 / choice},
        "top1_learned": rate(place_learned < 1),
        "top1_generated": rate(place_drawn < 1),
        "frechet_generated": spread(features_drawn[first], features[second]) if enough else None,
        "frechet_real": spread(features[first], features[second]) if enough else None,
        "nearest_generated": average(nearest(drawn, data.images)),
        "nearest_real": average(nearest(images, data.images)),
    }
    return found, drawn


def table_lines(found: dict) -> list[dict[str, str]]:
    """The figures as text: what, value, interval and number of pictures, one line each."""
    lines = []
    for key, (what, form) in ROWS.items():
        figure, line = found[key], {"what": what, "value": f"needs {2 * FEWEST} pictures kept aside", "interval": "", "n": ""}
        if figure:
            interval = f"{form.format(figure['low'])} to {form.format(figure['high'])}"
            line |= {"value": form.format(figure["value"]), "interval": interval, "n": f"{figure['n']:,}"}
        lines.append(line)
    return lines


def table(found: dict) -> str:
    """The figures as a table for the terminal."""
    return "\n".join("{what:68s} {value:>12s}  {interval:20s} {n:>6s}".format(**line) for line in table_lines(found))


def figure(image: Tensor, what: str, below: str = "") -> dict[str, str]:
    """A picture uint8 [S, S, 3] for the page: PNG, or JPEG where it is large."""
    buffer, kind = io.BytesIO(), "jpeg" if len(image) > 128 else "png"
    Image.fromarray(image.numpy()).save(buffer, kind)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"what": what, "below": below or what, "source": source}


def spaced(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spaced."""
    return torch.linspace(0, count - 1, min(most, count)).round().int().unique().tolist()


def draw_rows(drawn: Tensor, models: Models, data: Pictures) -> dict[str, list]:
    """The pictures of the page, (caption, figures) a row: reconstructions, drawn for captions kept aside, drawn for captions
    it learned."""
    images, captions = data.validation_images, data.validation_captions
    chosen = spaced(len(images), 12)
    x = to_model(images[chosen])
    decoded = models.decode(models.encode(x)).cpu()
    rebuilt, error = to_picture(decoded), psnr(x, decoded)
    wanted = [captions[i] for i in chosen]
    more = [sample_many(models, wanted, seed, sampling=DEFAULT_SAMPLING) for seed in (10_000, 20_000)]
    closest = data.images[distances(drawn[chosen], data.images).argmin(1)]
    reconstructions, unseen, learned = [], [], []
    for k, i in enumerate(chosen):
        given = figure(images[i], "kept aside")
        reconstructions.append(
            (captions[i], [given, figure(rebuilt[k], "reconstruction", f"reconstructed, {error[k]:.1f} dB")])
        )
        made = [figure(picture, "drawn") for picture in (drawn[i], more[0][k], more[1][k])]
        unseen.append((captions[i], [given, *made, figure(closest[k], "nearest learned")]))
    known = spaced(len(data), 8)
    again = sample_many(models, [data.captions[i] for i in known], 30_000, sampling=DEFAULT_SAMPLING)
    for i, picture in zip(known, again, strict=True):
        learned.append((data.captions[i], [figure(data.images[i], "learned from"), figure(picture, "drawn")]))
    return {"reconstructions": reconstructions[:8], "unseen": unseen, "learned": learned}


def measure_again(folder: Path, about: About, source: str, engine=None) -> tuple[dict, str]:
    """The numbers of a saved model, measured on those of its pictures that were kept aside, and the same as a table.

    Raises:
        UserError: for other pictures than those that it was trained with: it may have learned from the ones kept aside.
    """
    with tempfile.TemporaryDirectory() as run:
        data = Pictures(source, about.resolution, Path(run))
    if data.fingerprint != about.data:
        raise UserError(f"{str(folder)!r} was trained with other pictures or captions than those of {source!r} now.")
    found, _ = measure(load_models(folder), load_clip(folder), data, engine)
    return found, table(found)


def write_evaluation(folder: Path, data: Pictures, steps: dict[str, int]) -> dict:
    """Measure the model in ``folder`` on ``data`` and write ``evaluation.json`` and ``evaluation.html`` there."""
    from jinja2 import Environment, PackageLoader

    models = load_models(folder)
    found, drawn = measure(models, load_clip(folder), data)
    found = {"steps": steps, **found}
    page = Environment(loader=PackageLoader("ldm_tutorial", "lab"), autoescape=True).get_template("evaluation.html")
    text = page.render(found, lines=table_lines(found), **draw_rows(drawn, models, data))
    write_json(folder / "evaluation.json", found)
    with atomic_write(folder / "evaluation.html") as scratch:
        scratch.write_text(text, encoding="utf-8", errors="replace")  # a name may hold bytes that are no text
    return found
