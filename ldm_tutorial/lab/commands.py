"""The commands of ldm: render, train, generate, edit, export, evaluate, progress, doctor.

Each checks what it was given before it imports anything heavy, and writes its results before it prints anything.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from ..errors import UserError
from ..files import WEIGHTS, atomic_write, check_place, check_utf8, disk_errors, write_json
from ..settings import DEFAULT_SAMPLING, PLAIN_SAMPLING, adjust
from ..storage.about import CURIOS, About, read_about, scripts
from ..text import check_prompt

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__.splitlines()[0])


def finite(value: float | None) -> float | None:
    """Let no "nan" through: it is below no limit and above none."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number.")
    return value


Seed = Annotated[int, Option(min=0, max=2**63 - 1, help="Another seed, another picture, up to 2^32.")]
Steps = Annotated[int | None, Option(min=1, max=1000, help="Denoising steps of a whole run; unset: 20.")]
Guidance = Annotated[float | None, Option(min=0, max=50, callback=finite, help="Up to 1 is none; unset: 3.")]
Strength = Annotated[float | None, Option(min=0.001, max=1, callback=finite, help="How far; unset: 0.6, with --mask 1.")]
Scale = Annotated[float, Option(min=1e-6, max=1000, callback=finite, help="Multiply the steps, by 0.1 for a trial.")]
Sampler = Annotated[Literal["ddim", "ddpm", "dpm++", "unipc", "own"] | None, Option(help="own is the model's; unset: ddim.")]
Part = Annotated[Literal["all", "vae", "clip", "unet", "judge", "baselines"], Argument()]
ProfileName = Annotated[Literal["quick", "evening", "full"] | None, Option(help="2 cores: half or two hours; a GPU.")]
Side = Annotated[int | None, Option(min=16, max=1024, help="With --data: side of the pictures, a multiple of 8.")]
Accumulate = Annotated[int, Option(min=1, max=4096, help="Each batch in so many parts: less memory, same result.")]
Model = Annotated[str | None, Option(help="A folder of `ldm train`, or OWNER/NAME@REVISION; unset: the shipped one.")]
Download = Annotated[bool, Option("--download", help="Fetch the model from the hub if it is not here.")]
Data = Annotated[str | None, Option(help="Your pictures: a folder with metadata.csv (file_name,text), or hub:OWNER/NAME.")]
Out = Annotated[Path, Option(help="PNG file; of several pictures a sheet, and FILE-SEED.png each.")]
Json = Annotated[Path | None, Option("--json", help="Also write the numbers here (overwritten).")]
EngineName = Annotated[Literal["auto", "torch", "onnx"], Option(help="What runs the networks; auto: onnx where it can.")]
Mask = Annotated[
    Path | None, Option(exists=True, dir_okay=False, help="A picture of the same size, white where it is to change.")
]


def check_file(path: Path, suffix: str = ".png") -> None:
    """Whether a file of this kind can be written at ``path``. Nothing is made.

    Raises:
        UserError: when it can't.
    """
    if path.is_dir() or not path.name:
        raise UserError(f"{str(path)!r} is a folder: name a file in it, for example {str(path / ('picture' + suffix))!r}.")
    if path.suffix.lower() != suffix:
        raise UserError(f"{path.name!r} must end in {suffix}: name it {path.with_suffix(suffix).name!r}.")
    if path.exists() and not path.is_file():
        raise UserError(f"{str(path)!r} is a pipe or a device, not a file: name a file.")
    check_place(path)


def save_picture(picture, path: Path) -> None:
    """Write a picture (a PIL image, or uint8 [H, W, 3]) as PNG, with the folders above it, whole or not at all."""
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    with disk_errors(path.absolute().parent, "name another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as scratch:
            image.save(scratch, "PNG")


def remark(text: str | None) -> None:
    """Say something on the side."""
    if text:
        print(text, file=sys.stderr)


def remark_large_seed(seed: int) -> None:
    """Name the smaller seed that draws the same: of a seed, torch's random numbers use 32 bits."""
    remark(f"The seed {seed} draws what {seed % 2**32} draws: only its low 32 bits count." if seed >= 2**32 else None)


def remark_unknown_words(prompt: str, about: About) -> None:
    """Name the words for which Curios has nothing, where the model knows nothing else."""
    from ..curios.vocabulary import note_unknown_words

    remark(note_unknown_words(prompt) if about.kind == "curios" else None)


@app.command()
def render(
    sheet: Annotated[Path | None, Option(help="Draw all objects (rows) by all materials (columns) into this PNG.")] = None,
    count: Annotated[int | None, Option(min=1, max=1_000_000, help="How many samples to write with --out.")] = None,
    split: Annotated[str, Option(help="train, validation, held_out or all.")] = "train",
    out: Annotated[Path | None, Option(help="A new folder for PNGs and metadata.csv.")] = None,
    seed: Seed = 0,
) -> None:
    """Draw Curios: a contact sheet, or an image folder that datasets.load_dataset("imagefolder") reads."""
    from ..curios import pairs

    if sheet is None and (out is None or count is None):
        raise UserError("Nothing to draw: give --sheet FILE.png for the contact sheet, or --count N --out FOLDER for samples.")
    pairs(split)  # does it exist?
    if sheet is not None:
        check_file(sheet)
    if out is not None:
        check_place(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{str(out)!r} is not an empty folder: name a new one, so that nothing is mixed or overwritten.")
    made = []
    if sheet is not None:
        from ..notebook.figures import contact_sheet

        save_picture(contact_sheet(seed), sheet)
        made.append(f"wrote {sheet}")
    if out is not None and count is not None:
        from ..curios import Curios

        samples = Curios(split, count, seed)
        with disk_errors(out, "name another folder with --out"):
            samples.export(out)
        made.append(f"wrote {count} pictures and metadata.csv to {out / split}")
    print("\n".join(made))


def check_train(part: str, out: Path | None, data: str | None, resolution: int | None) -> None:
    """Whether these options of ``ldm train`` go together.

    Raises:
        UserError: naming the one that doesn't.
    """
    if out is not None and part in ("vae", "clip", "unet"):
        raise UserError(f"--out goes with all, judge and baselines: {part!r} is kept in the run's folder (--run).")
    if data is not None and part in ("judge", "baselines"):
        raise UserError(f"--data goes with all, vae, clip and unet: {part!r} is about Curios alone.")
    if resolution is not None and data is None:
        raise UserError("--resolution goes with --data: Curios is rendered at 64 x 64.")
    if resolution is not None and resolution % 8:
        raise UserError(f"--resolution must be a multiple of 8, for example {resolution // 8 * 8}, not {resolution}.")


@app.command()
def train(
    part: Part = "all",
    profile: ProfileName = None,
    out: Annotated[Path | None, Option(help="Where the finished model goes; unset: into the folder of the run.")] = None,
    run: Annotated[Path | None, Option(help="Folder for checkpoints; unset: one in runs.")] = None,
    scale: Scale = 1.0,
    data: Data = None,
    resolution: Side = None,
    accumulate: Accumulate = 1,
) -> None:
    """Train all, or one of the parts, from nothing; interrupt at will: the same command goes on where it stopped."""
    check_train(part, out, data, resolution)

    from ..baselines import BASELINES
    from ..curios import Curios
    from ..storage.folders import check_folder, check_replaced
    from ..storage.resume import alone_in, connect_processes
    from . import training
    from .pictures import Pictures

    name = training.choose_profile(profile)
    chosen = training.PROFILES[name].scaled(scale, accumulate)
    side = resolution or chosen.resolution
    source = f"{Path(data).resolve().name}-{side}-{name}" if data else name
    run = run or Path("runs") / ("baselines" if part == "baselines" else source)
    target = out or run / {"judge": "judge", "baselines": "baselines"}.get(part, "model" if data else f"curios-{side}")
    for folder in (run, target):
        check_place(folder)
        check_utf8(folder)
        if folder.is_file():
            raise UserError(f"{str(folder)!r} is a file: name a folder.")
    # by what a folder is known that may be written to again
    marks = {"all": ["model_index.json"], "judge": ["judge.safetensors"], "baselines": [*BASELINES]}
    if part in marks:
        check_folder(target, marks[part])
    progress = connect_processes().is_main_process  # each has its own GPU before anything is rendered
    if part == "baselines":
        pictures, about = None, CURIOS
    elif data is None:
        pictures, about = Curios("train", chosen.renders, training.SEED, side, progress), CURIOS
    else:
        pictures = Pictures(data, side, run, training.SEED, progress)
        captions = pictures.tokenizer_captions
        about = About("own pictures", scripts(captions), min(captions, key=len), side, pictures.fingerprint)
    with alone_in(run) if progress else contextlib.nullcontext():
        if isinstance(pictures, Pictures):
            pictures.note_long_captions(training.make_tokenizer(pictures, run))
            remark(str(pictures.notes) if progress else None)
        if part == "baselines":
            from .baselines import train_baselines

            train_baselines(run, target, scale)
        elif part == "vae":
            training.train_autoencoder(pictures, chosen.autoencoder, run, chosen.latent_channels, progress=progress)
        elif part == "clip":
            training.train_clip(pictures, training.make_tokenizer(pictures, run), chosen.clip, run, progress=progress)
        elif part == "judge":
            training.train_and_save_judges(pictures, chosen.judge, run, target, progress)
        elif part == "unet":
            training.train_all(pictures, chosen, run, progress=progress)
        else:
            option = "--out" if out else "--run"
            check_replaced(target, about, option)
            models, clip = training.train_all(pictures, chosen, run, progress=progress)
            check_replaced(target, about, option)  # another training may have ended there meanwhile; this one is kept in run
            training.save_all(models, clip, target, about)
            if isinstance(pictures, Pictures) and progress:
                from .page import write_evaluation

                steps = {"autoencoder": chosen.autoencoder.steps, "CLIP": chosen.clip.steps, "U-Net": chosen.unet.steps}
                write_evaluation(target, pictures, steps)
    if progress:
        print(f"{part} is trained; its state is in {run}" if part in ("vae", "clip", "unet") else f"wrote {target}")


def check_prompts(prompt: str, negative: str, about: About, tokenizer=None) -> tuple[str, str]:
    """The prompt and the negative prompt (empty where there is none), checked."""
    negative = check_prompt(negative, tokenizer, about, "negative prompt") if negative.strip() else ""
    return check_prompt(prompt, tokenizer, about), negative


def load(model: str | None, download: bool, **given):
    """(the joined system, options for sampling: those that suit a model of the hub, and in their place those given)."""
    from ..checkpoints import KNOWN, load_checkpoint

    known = KNOWN.get(str(model).partition("@")[0])
    options = dict(known.options) if known else {}
    return load_checkpoint(model or WEIGHTS, download=download), options | without_none(given)


def without_none(options: dict) -> dict:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


# Where an NVIDIA GPU shows itself: on Linux, and on the Linux inside Windows (WSL).
DRIVERS = ("/dev/nvidia[0-9]*", "/usr/lib/wsl/lib/libcuda.so*")


def torch_has_cuda() -> bool:
    """Whether torch could compute on an NVIDIA GPU. It is not imported for that, which would take seconds."""
    found = any(glob(pattern) for pattern in DRIVERS)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    try:
        built_for_cpu = version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
    return found and not hidden and not built_for_cpu


def open_engine(choice: str, folder: str | Path, sampling):
    """The engine that runs a model without torch, or None where torch has to: an NVIDIA GPU, a model that was not exported, a
    way of sampling that only torch has. On a Mac the engine draws too, on the CPU; Apple's GPU (MPS) is for ``torch``.

    Raises:
        UserError: when the engine was asked for by name and can't do it; and, also with "auto", for a damaged file.
    """
    if choice == "torch":
        return None
    from ..engine import Engine, missing, unsupported

    if choice == "onnx":
        if not Path(folder).is_dir():
            raise UserError(
                f"The engine runs exported folders, and {str(folder)!r} is none: leave --engine out, or give a folder."
            )
        runner = Engine(folder)
        reason = unsupported(sampling, folder)
        if reason:
            raise UserError(f"The engine does not have {reason}: leave --engine out, or give --engine torch.")
        return runner
    installed = find_spec("onnxruntime") is not None
    if torch_has_cuda() or not installed or not Path(folder).is_dir() or missing(folder) or unsupported(sampling, folder):
        return None
    return Engine(folder)


@app.command()
def generate(
    prompt: Annotated[str, Argument(help="For example: an armchair made of avocado.")],
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    count: Annotated[int, Option(min=1, max=256, help="How many pictures, with seeds counting up.")] = 1,
    out: Out = Path("picture.png"),
    sampler: Sampler = None,
    negative: Annotated[str, Option(help="What to steer away from.")] = "",
    model: Model = None,
    download: Download = False,
    engine: EngineName = "auto",
) -> None:
    """Turn a prompt into pictures."""
    about = read_about(model or WEIGHTS)
    check_prompts(prompt, negative, about)
    check_file(out)
    if seed + count > 2**63:
        raise UserError(f"--seed {seed} with --count {count} counts beyond the last seed, {2**63 - 1}: give a smaller --seed.")

    from ..notebook.figures import grid

    seeds = [seed + i for i in range(count)]
    given = {"steps": steps, "guidance_scale": guidance, "sampler": sampler}
    sampling = adjust(PLAIN_SAMPLING if about.kind == "unknown" else DEFAULT_SAMPLING, **without_none(given))
    runner = open_engine(engine, model or WEIGHTS, sampling)
    if runner is not None:
        prompt, negative = check_prompts(prompt, negative, about, runner.tokenizer)
        remark_unknown_words(prompt, about)
        pictures = runner.sample([prompt] * count, seeds, sampling, negative_prompt=negative, progress=True)
    else:
        from ..sampling import sample

        models, options = load(model, download, **given)
        prompt, negative = check_prompts(prompt, negative, about, models.tokenizer)
        remark_unknown_words(prompt, about)
        pictures = sample(models, [prompt] * count, seeds, sampling, negative_prompt=negative, **options)
    remark_large_seed(seed + count - 1)
    files = [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in seeds] if count > 1 else []
    for file, picture in zip(files, pictures, strict=False):
        save_picture(picture, file)
    save_picture(grid(pictures) if files else pictures[0], out)
    for file in [*files, out]:
        print(f"wrote {file}")


@app.command()
def edit(
    picture: Annotated[Path, Argument(exists=True, dir_okay=False, help="A PNG, JPEG, WebP, GIF, BMP, TIFF or PPM file.")],
    prompt: Annotated[str, Argument(help="What it should become, for example: a mug made of waffle.")],
    mask: Mask = None,
    strength: Strength = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    out: Out = Path("edited.png"),
    model: Model = None,
    download: Download = False,
) -> None:
    """Change a picture by a prompt: all of it, or only where a mask is white."""
    about = read_about(model or WEIGHTS)
    check_prompt(prompt, about=about)
    check_file(out)
    if out.resolve() in (picture.resolve(), mask and mask.resolve()):
        raise UserError(f"{str(out)!r} is what is to be read: name another file with --out, so that it is not lost.")

    from ..editing import img2img, inpaint
    from ..notebook.picture_files import read_picture

    models, options = load(model, download, steps=steps, guidance_scale=guidance, strength=strength)
    prompt = check_prompt(prompt, models.tokenizer, about)
    image, place, what_was_done = read_picture(picture, models.resolution, mask)
    remark(what_was_done)
    remark_unknown_words(prompt, about)
    remark_large_seed(seed)
    if place is None:
        made = img2img(models, [image], [prompt], [seed], **options)
    else:
        made = inpaint(models, [image], [place], [prompt], [seed], **options)
    save_picture(made[0], out)
    print(f"wrote {out}")


def check_evaluate(model: Path, about: About, data: str | None, sheet: Path | None) -> None:
    """Whether a model can be measured, and so.

    Raises:
        UserError: when it can't.
    """
    if about.kind == "own pictures":
        if data is None:
            page = str(model / "evaluation.html")
            raise UserError(f"{str(model)!r} was trained on pictures of one's own: name them with --data, or read {page!r}.")
        if sheet is not None:
            raise UserError(f"--sheet and --disagreements show pairs of Curios; {str(model)!r} knows none: leave them out.")
    elif data is not None:
        raise UserError(f"--data goes with a model that was trained on pictures of one's own, and {str(model)!r} was not.")
    elif about.kind == "unknown":
        from ..storage.folders import check_files

        check_files(model)  # is there a model at all?
        raise UserError(
            f"{str(model)!r} has no course.json: it is no model of this course, and what it should draw is not known."
        )


@app.command()
def export(
    model: Annotated[Path, Argument(help="A folder as `ldm train` writes it, or of any checkpoint that `ldm` loads.")],
) -> None:
    """Write a model's networks as graphs, which make its pictures without torch, in half the time."""
    read_about(model)  # can its folder be read?
    from ..engine.export import export as write

    for path in write(model):
        print(f"wrote {path}")


@app.command()
def evaluate(
    quick: Annotated[bool, Option("--quick", help="Fewer pictures: a rougher answer in minutes.")] = False,
    json_file: Json = None,
    sheet: Annotated[Path | None, Option(help="Also draw one generated picture a pair into this PNG.")] = None,
    disagreements: Annotated[
        Path | None, Option(help="Also draw the pictures that the two judges name differently into this PNG.")
    ] = None,
    model: Annotated[Path, Option(help="A folder of `ldm train`; unset: the shipped one.", show_default=False)] = WEIGHTS,
    data: Data = None,
    engine: EngineName = "auto",
) -> None:
    """Measure a model: every number with its count and its 95% interval (one CPU core: about 15 minutes, --quick 5)."""
    about = read_about(model)
    check_evaluate(model, about, data, sheet or disagreements)
    for file, suffix in ((json_file, ".json"), (sheet, ".png"), (disagreements, ".png")):
        if file is not None:
            check_file(file, suffix)

    made = []
    runner = open_engine(engine, model, DEFAULT_SAMPLING)
    if data is not None:
        from . import page

        found, text = page.measure_again(model, about, data, runner)
    else:
        from ..checkpoints import load_clip, load_models
        from ..measure.judge import load_judge
        from ..measure.report import table
        from . import evaluation

        models, size = load_models(model), "quick" if quick else "full"
        judges = load_judge(), load_judge("second")
        found, pictures = evaluation.evaluate(models, load_clip(model), judges[0], size, second=judges[1], engine=runner)
        text = table(found)
    if json_file is not None:
        with disk_errors(json_file.absolute().parent, "name another file"):
            json_file.parent.mkdir(parents=True, exist_ok=True)
            write_json(json_file, found)
        made.append(f"wrote {json_file}")
    if sheet is not None:
        from ..notebook.figures import contact_sheet

        one_each = evaluation.one_a_pair(models, pictures, evaluation.SIZES[size]["prompts"])
        save_picture(contact_sheet(images=one_each), sheet)
        made.append(f"wrote {sheet}")
    if disagreements is not None:
        differing = evaluation.draw_disagreements(pictures, load_judge(), load_judge("second"))
        save_picture(differing, disagreements)
        made.append(f"wrote {disagreements}")
    print("\n".join([text, *made]))


@app.command()
def progress() -> None:
    """Show which exercises of the course are solved on this machine."""
    from ..practice.progress import report

    print(report())


@app.command()
def doctor() -> None:
    """Check the installation and say what to do about each fault."""
    from ..notebook.doctor import report

    raise typer.Exit(0 if report() else 1)
