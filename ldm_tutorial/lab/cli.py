"""The command line, ``ldm``: render, train, generate, edit, evaluate, doctor. Each imports what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def render(
    sheet: Annotated[
        Path | None, typer.Option(help="Draw all objects (rows) by all materials (columns) into this PNG.")
    ] = None,
    count: Annotated[str, typer.Option(help="How many samples to write with --out.")] = "0",
    split: Annotated[str, typer.Option(help="train, validation, held_out or all.")] = "train",
    out: Annotated[Path | None, typer.Option(help="Folder for PNGs and metadata.csv.")] = None,
    seed: Annotated[str, typer.Option(help="Another seed gives other views.")] = "0",
) -> None:
    """Draw Curios: a contact sheet, or an image folder that datasets.load_dataset("imagefolder") reads."""
    from ..curios import Curios, pairs
    from .prompts import check_out, check_seed, number

    first = check_seed(seed)
    if sheet is None and out is None:
        raise UserError("Nothing to draw: give --sheet FILE.png for the contact sheet, or --count N --out FOLDER for samples.")
    if sheet is not None:
        check_out(sheet)
    if out is not None:
        pairs(split)
        samples = number(count, "The count", int, 1, 1_000_000, "a whole number from 1 to 1000000")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{str(out)!r} is not an empty folder: name a new one, so that nothing is mixed or overwritten.")
        out.mkdir(parents=True, exist_ok=True)
    if sheet is not None:
        from ..notebook.figures import contact_sheet

        contact_sheet(first).save(sheet)
        print(f"wrote {sheet}")
    if out is not None:
        Curios(split, samples, first).export(out)
        print(f"wrote {samples} pictures and metadata.csv to {out / split}")


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="all, vae, clip, unet, judge or companions.")] = "all",
    profile: Annotated[
        str | None, typer.Option(help="quick (2 CPU cores, half an hour), evening (two hours) or full (a GPU).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the finished model goes; by default into the folder of the run.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder for checkpoints; by default one in runs.")] = None,
    scale: Annotated[str, typer.Option(help="Multiply the number of steps.")] = "1",
    data: Annotated[
        str | None,
        typer.Option(help="Your own pictures: a folder with metadata.csv (file_name,text), or hub:OWNER/NAME."),
    ] = None,
    resolution: Annotated[
        str | None, typer.Option(help="With --data: side of the pictures, a multiple of 8; if not given, the profile's.")
    ] = None,
    accumulate: Annotated[str, typer.Option(help="Compute each batch in this many parts: less memory, same result.")] = "1",
) -> None:
    """Train from nothing; interrupt at will: the same command goes on where it stopped."""
    from accelerate import PartialState

    from .data import check_resolution
    from .models import check_folder
    from .models import profile as choose
    from .prompts import number
    from .training import Run

    name, chosen = choose(profile)
    times = number(scale, "The scale", float, 1e-6, 1000, "a number above 0 and at most 1000, for example 0.1 for a trial")
    if out is not None and part not in ("all", "judge", "companions"):
        raise UserError(f"--out goes with all, judge and companions: {part!r} is kept in the run's folder (--run).")
    if data is not None and part in ("judge", "companions"):
        raise UserError(f"--data goes with all, vae, clip and unet: {part!r} is about Curios alone.")
    parts = number(accumulate, "--accumulate", int, 1, 4096, "a whole number from 1 to 4096, for example 4")
    side = chosen.resolution if resolution is None else check_resolution(resolution)
    if data is None and side != chosen.resolution:
        raise UserError("--resolution goes with --data: for Curios the profile says it (64 x 64).")
    where = name if data is None else f"{Path(data).resolve().name}-{side}-{name}"
    work = Run(run or Path("runs") / where, name, times, source=data, resolution=side, accumulate=parts)
    if part == "all":
        target = out or work.folder / (f"curios-{side}" if data is None else "model")
        check_folder(target)
        message = f"wrote {work.finish(target)}"
    elif part == "judge":
        from .evaluation import save_judge

        target = out or work.folder / "judge"
        judge = work.part("judge")
        if PartialState().is_main_process:
            save_judge(judge, target)
        message = f"wrote {target}"
    elif part == "companions":
        from .companions import train_companions

        folder = run or Path("runs") / "companions"
        message = f"wrote {train_companions(folder, out or folder / 'companions', times)}"
    else:
        work.part(part)
        message = f"{part} is trained; its state is in {work.folder}"
    if PartialState().is_main_process:
        print(message)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="For example: an armchair made of avocado.")],
    seed: Annotated[str, typer.Option(help="The first picture's seed.")] = "0",
    steps: Annotated[str | None, typer.Option(help="Denoising steps, 1 to 1000; 20 if not given.")] = None,
    guidance: Annotated[str, typer.Option(help="Guidance scale: up to 1 is none, 3 is usual here.")] = "3",
    count: Annotated[str, typer.Option(help="How many pictures, with seeds counting up.")] = "1",
    out: Annotated[Path, typer.Option(help="PNG file; with --count also FILE-SEED.png each.")] = Path("picture.png"),
    sampler: Annotated[
        str | None, typer.Option(help="ddim, ddpm, dpm++, unipc or own (the model's); ddim if not given.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="unipc, 12 steps, guided only where it matters.")] = False,
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="A folder as `ldm train` writes it; the shipped weights if not given.")
    ] = None,
) -> None:
    """Turn a prompt into pictures."""
    from .. import text as p

    first, n, scale = p.check_seed(seed), p.check_count(count), p.check_guidance(guidance)
    given = {} if steps is None else {"steps": p.check_steps(steps)}
    given |= {} if sampler is None else {"sampler": sampler}
    p.check_prompt(prompt)
    p.check_out(out)
    if negative:
        p.check_prompt(negative)

    from PIL import Image

    from ..checkpoints import WEIGHTS, load_models
    from ..notebook.figures import grid
    from ..sampling import sample

    folder = model or WEIGHTS
    models = load_models(folder)
    prompt = p.check_prompt(prompt, models.tokenizer)
    curios = (folder / "clip").exists() and not (folder / "evaluation.json").exists()  # neither own pictures nor another's
    if curios and (note := p.note_unknown_words(prompt)):
        print(note, file=sys.stderr)
    seeds = [first + i for i in range(n)]
    options = {"guidance_scale": scale, "negative_prompt": negative, **(FAST if fast else {}), **given}
    pictures = sample(models, [prompt] * n, seeds, **options)
    if n > 1:
        for number, picture in zip(seeds, pictures, strict=True):
            path = out.with_name(f"{out.stem}-{number}{out.suffix}")
            Image.fromarray(picture).save(path)
            print(f"wrote {path}")
        grid(pictures).save(out)
    else:
        Image.fromarray(pictures[0]).save(out)
    print(f"wrote {out}")


@app.command()
def edit(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.")],
    prompt: Annotated[str, typer.Argument(help="What it should become, for example: a mug made of waffle.")],
    mask: Annotated[Path | None, typer.Option(help="A picture of the same size, white where it is to change.")] = None,
    strength: Annotated[str | None, typer.Option(help="How far to change it, above 0 to 1; unset: 0.6, with --mask 1.")] = None,
    seed: Annotated[str, typer.Option(help="Another seed gives another change.")] = "0",
    steps: Annotated[str | None, typer.Option(help="Denoising steps of a whole run, 1 to 1000; unset: 20.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Guidance scale: up to 1 is none; unset: 3.")] = None,
    out: Annotated[Path, typer.Option(help="PNG file.")] = Path("edited.png"),
    model: Annotated[
        str | None, typer.Option(help="A folder, or a hub id as OWNER/NAME@REVISION; unset: the shipped weights.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the model from the hub if it is not here.")] = False,
) -> None:
    """Change a picture by a prompt: all of it, or only where a mask is white."""
    from .. import text as p

    n = p.check_seed(seed)
    strength = strength or ("0.6" if mask is None else "1")
    far = p.number(strength, "The strength", float, 0.001, 1, "a number above 0 (as it was) and at most 1 (all new)")
    given = {} if steps is None else {"steps": p.check_steps(steps)}
    given |= {} if guidance is None else {"guidance_scale": p.check_guidance(guidance)}
    p.check_prompt(prompt)
    p.check_out(out)
    if out.resolve() == picture.resolve():
        raise UserError(f"{str(out)!r} is the picture itself: name another file with --out, so that it is not lost.")

    from PIL import Image

    from ..checkpoints import KNOWN, load_checkpoint, load_models
    from ..editing import img2img, inpaint
    from .pictures import read_picture

    models = load_checkpoint(model, download=download) if model else load_models()
    prompt = p.check_prompt(prompt, models.tokenizer)
    image, place, note = read_picture(picture, models.factor * models.latent_shape()[1], mask)
    notes = [note, None if model else p.note_unknown_words(prompt)]
    for text in filter(None, notes):
        print(text, file=sys.stderr)
    options = {"strength": far, **(KNOWN[model].options if model in KNOWN else {}), **given}
    what = ([image],) if place is None else ([image], [place])
    made = (img2img if place is None else inpaint)(models, *what, [prompt], [n], **options)[0]
    Image.fromarray(made).save(out)
    print(f"wrote {out}")


@app.command()
def evaluate(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer pictures: a rougher answer in minutes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here (overwritten).")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Also draw one generated picture a pair into this PNG.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="A folder as `ldm train` writes it; the shipped weights if not given.")
    ] = None,
) -> None:
    """Measure a model: every number with its count and its 95% interval (2 CPU cores: up to 40 minutes, --quick 5)."""
    from ..checkpoints import WEIGHTS, load_clip, load_models
    from ..files import write_json
    from ..measure.judge import load_judge
    from ..measure.report import table
    from .evaluation import SIZES
    from .evaluation import evaluate as measure

    for file in (f for f in (json_file, sheet) if f is not None):
        check_out(file, ".json" if file is json_file else ".png")
    folder = model or WEIGHTS
    models, size = load_models(folder), "quick" if quick else "full"
    found, pictures = measure(models, load_clip(folder), load_judge(), size)
    print(table(found))
    if json_file is not None:
        write_json(json_file, found)
        print(f"wrote {json_file}")
    if sheet is not None:
        from ..notebook.figures import contact_sheet
        from .evaluation import one_a_pair

        contact_sheet(images=one_a_pair(models, pictures, SIZES[size]["prompts"])).save(sheet)
        print(f"wrote {sheet}")


@app.command()
def doctor() -> None:
    """Check the installation and say what to do about each fault."""
    from ..notebook.doctor import report

    raise typer.Exit(0 if report() else 1)


def main() -> None:
    """Entry point: a wrong input ends in one sentence and exit status 2, never a traceback."""
    try:
        app()
    except UserError as error:
        print(f"ldm: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(f"ldm: {error.strerror or error}{place}: check the path, your rights and the free space.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
