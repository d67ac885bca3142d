"""Write the model card, the data card and the README's table from what was measured, so that they cannot say anything else.

ldm evaluate --json ldm_tutorial/weights/evaluation.json --sheet ldm_tutorial/weights/sheet.png
python benchmarks/cards.py
"""

import argparse
import json
import math
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "ldm_tutorial" / "weights"
RESULTS = ROOT / "benchmarks" / "results"
RENDERS = 32_768  # what the shipped weights learned from
BEGIN, END = "<!-- made by benchmarks/cards.py -->", "<!-- end -->"
SHOWN = ("prompt_heldout", "prompt_trained", "free_wording", "avocado_armchair", "judges_agree", "judge_validation")
SHOWN += ("clip_top1", "noun_miou", "noun_miou_constant", "psnr", "seconds_per_image", "seconds_generate")


def measured() -> dict:
    """The numbers of `ldm evaluate` in the order of the table."""
    from ldm_tutorial.measure.report import GOALS

    found = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in GOALS if key in found}


def times_the_floor(found: dict) -> float:
    """The Fréchet distance of generated pictures, in distances between renders."""
    return found["frechet"]["value"] / found["frechet_real"]["value"]


def parameters(part: str) -> float:
    """Millions of numbers in one part's files."""
    from safetensors import safe_open

    count = 0
    for path in (FOLDER / "curios-64" / part).glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  (no dict)
    return count / 1e6


def megabytes() -> float:
    """What all weights take on a disk."""
    return sum(f.stat().st_size for f in FOLDER.rglob("*.safetensors")) / 1e6


def checksums() -> str:
    """The first digits of every weights file's SHA-256, a line each."""
    rows = []
    for file in sorted(FOLDER.rglob("checksums.json")):
        for name, digest in json.loads(file.read_text(encoding="utf-8")).items():
            if name.endswith(".safetensors"):
                rows.append(f"    {digest[:16]}  {(file.parent / name).relative_to(FOLDER).as_posix()}")
    return "\n".join(rows)


def way(sampling: dict) -> str:
    """A way of sampling in words."""
    start, stop = sampling["guidance_interval"]
    where = "in every step" if (start, stop) == (0, 1) else f"from {start:.0%} to {stop:.0%} of the run"
    guidance = f"guidance {sampling['guidance_scale']} {where}" if sampling["guidance_scale"] > 1 else "no guidance"
    return f"{sampling['sampler']}, {sampling['steps']} steps, {guidance}"


def other_ways() -> str:
    """The table of the candidates among which the way of sampling was chosen; empty before that was done."""
    file = RESULTS / "choose_sampling.json"
    if not file.exists():
        return ""
    found = json.loads(file.read_text(encoding="utf-8"))
    n = found["pictures"]
    lines = [f"{'':58s} {'trained':>8s} {'held out':>9s} {'KID':>7s} {'Fréchet':>8s} {'seconds':>8s}"]
    for row in found["rows"]:
        rates = f"{row['right_trained']['value']:8.1%} {row['right_held_out_dev']['value']:9.1%}"
        distances = f"{row['kid']['value']:7.3f} {row['frechet']['value']:8.1f}"
        lines.append(f"{way(row['sampling']):58s} {rates} {distances} {row['seconds']:8.2f}")
    floor = found["floor"]
    lines.append(f"{'renders to other renders':76s} {floor['kid']['value']:7.3f} {floor['frechet']['value']:8.1f}")
    numbers = "\n".join("    " + line for line in lines)
    chosen, measured_in = way(found["chosen"]), way(measured()["frechet"]["sampler"])
    if chosen == measured_in:
        choice = "The one above was chosen among these by the rule in `benchmarks/choose_sampling.py`."
    else:
        choice = f"The rule in `benchmarks/choose_sampling.py` chose {chosen}; the numbers above were measured before."
    return f"""
**Other ways of sampling.** {choice} It was applied to {n} prompts of trained pairs and {n} of the
held-out pairs for choices. The table has the share of pictures whose object and material are right, two distances to renders (of few pictures, so compare
them with each other only), and the seconds a picture takes in batches.

{numbers}
"""


def labels_by_eye() -> str:
    """The paragraph on pictures that were labelled blind, "" where there are no labels of these weights."""
    from ldm_tutorial.files import WEIGHTS, read_checksums

    file = RESULTS / "labels_by_eye.json"
    if not file.exists():
        return ""
    found = json.loads(file.read_text(encoding="utf-8"))
    unet = "unet/diffusion_pytorch_model.safetensors"
    if found["weights"] != read_checksums(WEIGHTS, unet)[unet]:
        return ""
    rate = found["compared"]["eye, judge"]["object and material"]
    share = f"{rate['value']:.0%} ({rate['low']:.1%} to {rate['high']:.1%})"
    return f"""
**The judge, checked.** {rate["n"]} generated pictures were labelled blind, without prompts and verdicts (`benchmarks/results/labels_by_eye.json`): object and material
are those that the judge names for {share} of them. {found["how"]}
"""


def model_card() -> str:
    """The text of ldm_tutorial/weights/README.md."""
    from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS, pairs
    from ldm_tutorial.measure.report import GOALS, reached, table

    found = measured()
    goals = {key: (what, sign, goal) for key, (what, sign, goal) in GOALS.items() if sign and key in found}
    missed = [what for key, (what, sign, goal) in goals.items() if not reached(found[key]["value"], sign, goal)]
    if times_the_floor(found) > 3:
        missed.append("Fréchet distance at most 3 times that between renders")
    absent = [what for key, (what, _, _) in GOALS.items() if key not in found]
    unknown = f"Not measured with these weights: {'; '.join(absent)}. " if absent else ""
    verdict = f"Goals not reached: {'; '.join(missed)}." if missed else "Every goal that was measured is reached."
    numbers = "\n".join("    " + line for line in table(found).splitlines())
    test, kept = len(pairs("held_out_test")), len(pairs("held_out"))
    if "groups" in found["prompt_heldout"]:
        which = f"the {test} held-out pairs on which no choice was made (`held_out_test`)"
    else:
        which = f"all {kept} held-out pairs"
    return f"""# Model card: curios-64

**What.** A small text-to-image latent diffusion model, 64 x 64 pixels, in the layout of a `StableDiffusionPipeline`: `AutoencoderKL` (latents 8 x 16 x 16,
{parameters("vae"):.2f} M parameters), `UNet2DConditionModel` (v-prediction, cosine schedule, {parameters("unet"):.2f} M) and a `CLIPTextModel` ({parameters("text_encoder"):.2f} M) that began as the text half of `clip/`
and learned on together with the U-Net. `clip/` is a whole `CLIPModel`. Beside it: `judge/`, the two classifiers that measure (trained on renders of all pairs, never on
generated pictures), and `baselines/`, the small models that the notebooks compare with. Tensors are fp16 safetensors, computed in float32.

**How made.** `benchmarks/training.md` says how, with commands, versions, times and losses; `ldm train all` makes a sibling from nothing. Data: DATA_CARD.md.

**Licence.** MIT, as the code.

**Numbers.** `ldm evaluate --json ldm_tutorial/weights/evaluation.json`; this page is made from that file. "Held-out pairs" are here {which}.
In earlier editions all {kept} were looked at while the way of sampling was chosen. Judged pictures were sampled with: {way(found["frechet"]["sampler"])}.
Seconds are those of the machine that measured: the median, the fastest and the slowest. Those of one picture leave out the start-up; those of `ldm generate` hold it.
A count in brackets is that of the pairs or prompts: there the interval counts these, not pictures.

{numbers}
{other_ways()}{labels_by_eye()}
**Limits.** {unknown}{verdict} One object a picture, {len(OBJECTS)} objects, {len(MATERIALS)} materials,
{len(BACKGROUNDS)} backgrounds; other words have no effect. It knows no people, no places and no real photographs. `sheet.png` shows one picture a pair, not selected,
pairs never trained on framed.

**Checksums** (SHA-256, first 16 digits; whole ones in each `checksums.json`, compared on load):

{checksums()}
"""


def data_card() -> str:
    """The text of ldm_tutorial/weights/DATA_CARD.md."""
    from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS, pairs
    from ldm_tutorial.curios.vocabulary import common_words

    every, held = len(pairs("all")), len(pairs("held_out"))
    dev, test = len(pairs("held_out_dev")), len(pairs("held_out_test"))
    return f"""# Data card: Curios

**What.** Pictures of impossible objects, 64 x 64 pixels, made by a program (`ldm_tutorial/curios`): {len(OBJECTS)} objects x {len(MATERIALS)} materials x {len(BACKGROUNDS)} backgrounds,
camera, light and texture different in each, with captions in many wordings and an exact mask of the object. The shipped weights learned from {RENDERS:,} of them;
any number can be rendered: `ldm render --count 1000 --split train --out curios`.

**Splits.** {every - held} of the {every} pairs of object and material are for training and, in other views, for validation; {held} are held out of the training of all that draws, *avocado armchair* among them.
These are divided for good: on {dev} (`held_out_dev`) choices may be made, the other {test} (`held_out_test`) are only ever measured. The judges alone have seen renders of all pairs.

**Captions.** Made by a program from wordings written by hand and a list of {len(common_words()):,} common English words. About two thirds name the background.

**Objects.** {", ".join(OBJECTS)}.

**Materials.** {", ".join(MATERIALS)}.

**Backgrounds.** {", ".join(BACKGROUNDS)}.

**Where from.** Nothing was photographed, collected or downloaded; there are no people and no personal data in it. **Licence.** MIT, as the code.

**Limits.** One object in the middle of an empty room. What a model learns here says little about photographs: it is a world to understand a method in.
"""


def readme_table() -> str:
    """The table of the README: some of the model card's numbers."""
    from ldm_tutorial.measure.report import row

    found = measured()
    sizes = ", ".join(f"{parameters(part):.2f} M" for part in ("vae", "unet", "text_encoder"))
    lines = ["| what | value | goal |", "|---|---|---|", f"| parameters: autoencoder, U-Net, text encoder | {sizes} | |"]
    lines.append(f"| all shipped weights, judges and baselines included | {megabytes():.0f} MB | at most 60 MB |")
    for key in SHOWN:
        if key in found:
            what, value, between, n, goal = row(key, found[key])
            lines.append(f"| {what} | {value} ({between}; n = {n}) | {goal} |")
    times = times_the_floor(found)
    verdict = "reached" if times <= 3 else "not reached"
    lines.append(f"| Fréchet distance to renders, times that between renders | {times:.1f} | <= 3: {verdict} |")
    return "\n".join(lines)


def readme() -> str:
    """The README with its table made anew."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{readme_table()}\n{END}", text, count=1, flags=re.DOTALL)


def threads_table() -> str:
    """The table of docs/architecture.md: milliseconds by way of computing, idle and beside one busy core."""
    found = json.loads((RESULTS / "threads.json").read_text(encoding="utf-8"))
    jobs = list(next(iter(found["milliseconds"].values())))
    lines = ["| milliseconds, idle / beside one busy core | " + " | ".join(jobs) + " |", "|---" * (len(jobs) + 1) + "|"]
    for way, row in found["milliseconds"].items():
        cells = [f"{row[j]['idle']['median']:.0f} / {row[j]['busy']['median']:.0f}" if j in row else "" for j in jobs]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    machine = found["machine"]
    lines += ["", f"(Medians of {found['rounds']} rounds on {machine['cores']} cores, torch {machine['torch']}.)"]
    return "\n".join(lines)


def architecture() -> str:
    """The page of the rooms with its table of threads made anew."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{threads_table()}\n{END}", text, count=1, flags=re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pages = {FOLDER / "README.md": model_card(), FOLDER / "DATA_CARD.md": data_card(), ROOT / "README.md": readme()}
    pages[ROOT / "docs" / "architecture.md"] = architecture()
    for file, text in pages.items():
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
