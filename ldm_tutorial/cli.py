"""The command line, ``ldm``: render, train, generate, doctor. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .errors import UserError

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
    from .curios import Curios, pairs
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
        from .show import contact_sheet

        contact_sheet(first).save(sheet)
        print(f"wrote {sheet}")
    if out is not None:
        Curios(split, samples, first).export(out)
        print(f"wrote {samples} pictures and metadata.csv to {out / split}")


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="all, vae, clip or unet.")] = "all",
    profile: Annotated[
        str | None, typer.Option(help="quick (2 CPU cores, half an hour), evening (two hours) or full (a GPU).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the finished model goes [default: RUN/curios-64].")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder for checkpoints [default: runs/PROFILE].")] = None,
    scale: Annotated[str, typer.Option(help="Multiply the number of steps.")] = "1",
) -> None:
    """Train from nothing; interrupt at will: the same command goes on where it stopped."""
    from accelerate import PartialState

    from .models import check_folder
    from .models import profile as choose
    from .prompts import number
    from .training import Run

    name, _ = choose(profile)
    times = number(scale, "The scale", float, 1e-6, 1000, "a number above 0 and at most 1000, for example 0.1 for a trial")
    if out is not None and part != "all":
        raise UserError(f"--out goes with `ldm train all`: {part!r} alone is kept in the folder of the run (--run).")
    work = Run(run or Path("runs") / name, name, times)
    if part == "all":
        target = out or work.folder / "curios-64"
        check_folder(target)
        message = f"wrote {work.finish(target)}"
    else:
        work.part(part)
        message = f"{part} is trained; its state is in {work.folder}"
    if PartialState().is_main_process:
        print(message)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="For example: an armchair made of avocado.")],
    seed: Annotated[str, typer.Option(help="The first picture's seed.")] = "0",
    steps: Annotated[str, typer.Option(help="Denoising steps, 1 to 1000.")] = "20",
    guidance: Annotated[str, typer.Option(help="Guidance scale: up to 1 is none, 3 is usual here.")] = "3",
    count: Annotated[str, typer.Option(help="How many pictures, with seeds counting up.")] = "1",
    out: Annotated[Path, typer.Option(help="PNG file; with --count also FILE-SEED.png each.")] = Path("picture.png"),
    sampler: Annotated[str, typer.Option(help="ddim or ddpm.")] = "ddim",
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="A folder as `ldm train` writes it [default: the shipped weights].")
    ] = None,
) -> None:
    """Turn a prompt into pictures."""
    from . import prompts as p

    first, n, step_count, scale = (
        p.check_seed(seed),
        p.check_count(count),
        p.check_steps(steps),
        p.check_guidance(guidance),
    )
    p.check_prompt(prompt)
    p.check_out(out)
    if negative:
        p.check_prompt(negative)

    from PIL import Image

    from .models import WEIGHTS, load_models
    from .sampling import sample
    from .show import grid

    models = load_models(model or WEIGHTS)
    prompt = p.check_prompt(prompt, models.tokenizer)
    if note := p.note_unknown_words(prompt):
        print(note, file=sys.stderr)
    seeds = [first + i for i in range(n)]
    pictures = sample(
        models, [prompt] * n, seeds, steps=step_count, guidance_scale=scale, sampler=sampler, negative_prompt=negative
    )
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
def doctor() -> None:
    """Check the installation and say what to do about each fault."""
    from .doctor import report

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
