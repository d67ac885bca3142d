"""Write the model card, the data card, the README's table and those of docs/architecture.md from what was measured, so that
they cannot say anything else.

ldm evaluate --json ldm_tutorial/weights/evaluation.json --sheet ldm_tutorial/weights/sheet.png
python benchmarks/cards.py
"""

import argparse
import json
import math
import re
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "ldm_tutorial" / "weights"
RESULTS = ROOT / "benchmarks" / "results"
RENDERS = 32_768  # what the shipped weights learned from
BEGIN, END = "<!-- made by benchmarks/cards.py -->", "<!-- end -->"
ENGINE = "<!-- the engine's goals, made by benchmarks/cards.py -->"
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
    return between(BEGIN, readme_table(), (ROOT / "README.md").read_text(encoding="utf-8"))


def threads_table() -> str:
    """The table of docs/architecture.md: milliseconds by way of computing, idle and beside one busy core."""
    found = record("threads")
    jobs = list(next(iter(found["milliseconds"].values())))
    lines = ["| milliseconds, idle / beside one busy core | " + " | ".join(jobs) + " |", "|---" * (len(jobs) + 1) + "|"]
    for way, row in found["milliseconds"].items():
        cells = [f"{row[j]['idle']['median']:.0f} / {row[j]['busy']['median']:.0f}" if j in row else "" for j in jobs]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    spinning, sleeping = (found["milliseconds"][f"torch, all threads{how}"]["training step"] for how in ("", ", PASSIVE"))
    idle, busy = ([f"{way[state]['median']:.0f} ms" for way in (spinning, sleeping)] for state in ("idle", "busy"))
    lines += ["", f"(Medians of {found['rounds']} rounds, on {machine_of(found)}.)", ""]
    lines += [
        "`ldm train` leaves PyTorch's threads spinning, by choice: on an idle machine, which a training is meant to have, a step",
        f"takes {idle[0]} so and {idle[1]} where they sleep. The price is paid beside other work: {busy[0]} and {busy[1]} beside one",
        f"busy core. Machines with more than {found['machine']['cores']} cores were not measured.",
    ]
    return "\n".join(lines)


def machine_of(record: dict) -> str:
    """The machine of a record, and when and beside what load it measured. Older records say less."""
    machine = record["machine"]
    parts = [machine["cpu"], f"{machine['cores']} cores", f"torch {machine['torch']}"]
    if "date" in machine:
        parts[2:2] = [f"{machine['memory_gib']:.0f} GiB of memory"]
        parts += [machine["date"], f"load {machine['load_before']:.1f} before it began"]
    return ", ".join(parts)


def engine_rows() -> list[tuple[str, str, str, str, bool | None]]:
    """The goals of the engine: what, measured, measured beside a pipeline whose threads sleep, the goal, and whether it is
    reached by the first of these (None: not measured yet, or no goal)."""
    from ldm_tutorial.measure.report import reached

    engine, sleeping, startup, turned = (record(name) for name in ("engine", "engine_sleeping", "startup", "controls"))
    cores = max(int(key.split("_")[1]) for key in engine if key.startswith("threads_"))

    def times(found: dict) -> str:
        return f"{found['ratio']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f}; {found['pairs']} pairs)"

    rows = []
    drawn = f"one picture, {engine['steps']} guided DDIM steps, equal to 1 of 255"
    fewer = engine[f"threads_{cores}_equal_quality"]["steps"]
    for what, key, goal in (
        (drawn, "batch_1", 2),
        ("a batch of 16, the same way", "batch_16", 2),
        (f"equal quality: {fewer} steps of UniPC against the pipeline's 50 of DDIM", "equal_quality", 10),
    ):
        for threads in sorted({cores, 1}, reverse=True):
            found, beside = engine[f"threads_{threads}_{key}"], sleeping[f"threads_{threads}_{key}"]
            name = f"{what}, {threads} thread{'s' if threads > 1 else ''}: times the pipeline"
            rows.append((name, times(found), times(beside), f">= {goal}", reached(found["ratio"], ">=", goal)))

    def seconds(what: str, key: str, goal: float) -> None:
        found = startup["seconds"].get(key)
        if found is None:
            rows.append((what, "not measured yet", "", f"<= {goal}", None))
            return
        measured = f"{found['median']:.2f} ({found['lowest']:.2f} to {found['highest']:.2f}; {startup['rounds']} rounds)"
        rows.append((what, measured, "", f"<= {goal}", reached(found["median"], "<=", goal)))

    seconds("`ldm generate`, shell to file, idle: seconds", "generate", 2.5)
    ratio = startup["ratio"]
    rows.append(("the same: times plain diffusers' script", f"{ratio:.2f}", "", ">= 4", reached(ratio, ">=", 4)))
    seconds("`ldm generate`, shell to file, beside one busy core: seconds", "generate_beside_a_busy_core", 4)
    of_09 = [turn for turn in turned["turned"] if turn["notebook"] == "notebooks/09_text_to_image.ipynb"]
    ends = [turn["finished"] / 1000 for turn in of_09 if turn["knob"] in ("Steps", "Guidance") and turn.get("finished")]
    what = "notebook 09's sliders, from the turn to the finished picture with its heat map: seconds"
    if ends:
        measured = f"{median(ends):.2f} ({min(ends):.2f} to {max(ends):.2f}; {len(ends)} turns)"
        rows.append((what, measured, "", "<= 0.5", reached(median(ends), "<=", 0.5)))
    else:
        rows.append((what, "not measured yet", "", "<= 0.5", None))
    seconds("`ldm --help`: seconds", "help", 0.5)
    seconds("`ldm generate` with a wrong option: seconds", "wrong_option", 0.5)
    peaks = [f"{engine['peak_bytes'][key] / 2**20:.0f} MiB" for key in ("engine", "plain_diffusers")]
    rows.append(("peak of memory, a process that draws one picture", f"{peaks[0]}; plain diffusers {peaks[1]}", "", "", None))
    return rows


def engine_table() -> str:
    """The table of docs/architecture.md on the engine: its goals beside what was measured, and what is not reached."""
    lines = ["| what | measured | where PyTorch's threads sleep | goal |", "|---|---|---|---|"]
    missed, unknown = [], []
    for what, measured, beside, goal, is_reached in engine_rows():
        verdict = {True: ": reached", False: ": not reached", None: ""}[is_reached]
        lines.append(f"| {what} | {measured} | {beside} | {goal}{verdict} |")
        missed += [f"- {what}: {measured}, goal {goal}."] if is_reached is False else []
        unknown += [what] if goal and is_reached is None else []
    lines += ["", "**Not reached:**", "", *missed] if missed else ["", "Every goal that was measured is reached."]
    lines += ["", f"Not measured yet: {'; '.join(unknown)}."] if unknown else []
    speeds = [record(name)["gflops_one_thread"] for name in ("engine", "engine_sleeping")]
    product, ours, theirs = (
        f"{min(s[key] for s in speeds):.0f} to {max(s[key] for s in speeds):.0f}"
        for key in ("matrix_product", "engine", "torch")
    )
    lines += [
        "",
        f"On one thread the engine is near the processor's limit: a plain product of matrices does {product} billion operations a",
        f"second, the engine's U-Net {ours}, PyTorch's {theirs} (a batch of 32).",
        *evaluation_lines(),
        "",
        "The verdict is that of the first column. Measured by:",
        "",
    ]
    for name, source in SOURCES.items():
        if (RESULTS / f"{name}.json").exists():
            lines.append(f"- {source} ({machine_of(record(name))})")
    return "\n".join(lines)


SOURCES = {  # which record of the engine's numbers comes from where
    "engine": "`benchmarks/engine.py`: times the pipeline, memory",
    "engine_sleeping": "`OMP_WAIT_POLICY=PASSIVE python benchmarks/engine.py`: the second column",
    "startup": "`benchmarks/startup.py`: from the shell to the file, help, wrong option",
    "controls": "`make test-browser`: the sliders",
    "evaluate_engines": "`benchmarks/evaluate_engines.py`: `ldm evaluate --quick`",
}


def evaluation_lines() -> list[str]:
    """What `ldm evaluate --quick` takes with and without the engine, and whether its numbers stay; nothing before that was
    measured."""
    if not (RESULTS / "evaluate_engines.json").exists():
        return []
    found = record("evaluate_engines")
    with_torch, with_engine = (found["seconds"][engine]["median"] / 60 for engine in ("torch", "onnx"))
    numbers = [key for key in found["numbers"]["torch"] if not key.startswith("seconds")]
    same = f"{len(numbers) - len(found['changed'])} of {len(numbers)} numbers are the same within their intervals"
    changed = f" (not {', '.join(found['changed'])})" if found["changed"] else ""
    return [
        "",
        f"`ldm evaluate --quick` takes {with_engine:.1f} minutes with the engine and {with_torch:.1f} with PyTorch; {same}{changed}.",
    ]


def record(name: str) -> dict:
    """What a benchmark stored."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def between(begin: str, made: str, text: str) -> str:
    """A page with what stands between a mark and the next end made anew."""
    return re.sub(f"{re.escape(begin)}.*?{END}", lambda _: f"{begin}\n{made}\n{END}", text, count=1, flags=re.DOTALL)


def architecture() -> str:
    """The page of the rooms with its tables of the engine and of threads made anew."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return between(BEGIN, threads_table(), between(ENGINE, engine_table(), text))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pages = {FOLDER / "README.md": model_card(), FOLDER / "DATA_CARD.md": data_card(), ROOT / "README.md": readme()}
    pages[ROOT / "docs" / "architecture.md"] = architecture()
    for file, text in pages.items():
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
