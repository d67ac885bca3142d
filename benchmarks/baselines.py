"""What the small models for comparison show: autoencoders, claim 1.7, three families, shares of the pairs, two CLIPs.

Every figure comes with its number of pictures and a 95% interval, and every part with a sheet of pictures to look at. What is
not trained yet is left out, and said. Further seeds of a run lie beside it, as seed-1/out and so on.
"""

import json
from pathlib import Path

from machine import RESULTS, ROOT, TRIALS, describe


def sheet(rows: dict, path: Path, scale: int = 2) -> None:
    """Rows of pictures uint8 [N, 64, 64, 3], each with its name above it, as one PNG."""
    from PIL import Image, ImageDraw, ImageFont

    side, head = 64 * scale, 22
    columns = max(len(pictures) for pictures in rows.values())
    image = Image.new("RGB", (columns * (side + 4), len(rows) * (side + head)), "white")
    pen = ImageDraw.Draw(image)
    for r, (name, pictures) in enumerate(rows.items()):
        top = r * (side + head)
        pen.text((4, top + 3), name, fill="black", font=ImageFont.load_default(14))
        for c, picture in enumerate(pictures):
            tile = Image.fromarray(picture.numpy()).resize((side, side), Image.Resampling.NEAREST)
            image.paste(tile, (c * (side + 4), top + head))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pictures, stored in runs/benchmarks")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "baselines", help="the folder of `ldm train baselines`")
    parser.add_argument("--weights", type=Path, default=None, help="the trained weights (default: those of the course)")
    parser.add_argument("--sheets", type=Path, default=TRIALS / "baselines", help="where pictures go")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="only these")
    given = parser.parse_args()

    from ldm_tutorial.baselines import FOLDER

    weights = given.weights or FOLDER
    path = (TRIALS if given.quick else RESULTS) / "baselines.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for part in given.parts:
        figures[part] = PARTS[part](weights, given.run, given.sheets, given.quick)
        figures["machine"] = describe()
        figures.setdefault("commands", {})[part] = figures["machine"]["command"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(figures[part], indent=1))


def load(name: str, folder: Path):
    """A trained baseline, or None where it is not trained yet."""
    from ldm_tutorial.baselines import load_baseline
    from ldm_tutorial.errors import UserError

    try:
        return load_baseline(name, "cpu", folder)
    except UserError as error:
        print(error)
        return None


# --- autoencoders -----------------------------------------------------------------------------------------------------

AUTOENCODERS = ("vae-diverse", "vae-narrow", "vae-f2", "vae-f8", "vae-kl", "vae-nokl", "vae-strongkl", "vae-prior")


def reconstruct(vae, images):
    """Pictures uint8 [N, 64, 64, 3] -> reconstructions from the posterior's mean [N, 3, 64, 64], about -1..1."""
    import torch

    from ldm_tutorial.images import to_model

    with torch.no_grad():
        return torch.cat([vae.decode(vae.encode(to_model(x)).latent_dist.mode()).sample for x in images.split(64)])


def scores(vae, images):
    """PSNR [N] of reconstructions."""
    from ldm_tutorial.images import psnr, to_model

    return psnr(to_model(images), reconstruct(vae, images))


def exam(quick: bool):
    """The renders that autoencoders are measured on, and which of them belong to which group: (data set, {group: rows})."""
    import torch

    from ldm_tutorial.baselines import UNSEEN
    from ldm_tutorial.curios import MATERIALS, Curios

    data = Curios("validation", 128 if quick else 1024, seed=9, progress=False)
    kinds = [list(MATERIALS)[i] for i in data.materials.tolist()]
    groups = {
        "gold": [i for i, kind in enumerate(kinds) if kind == "gold"],
        "seen by the diverse one only": [i for i, kind in enumerate(kinds) if kind not in ("gold", *UNSEEN)],
        "unseen by both": [i for i, kind in enumerate(kinds) if kind in UNSEEN],
    }
    return data, {group: torch.tensor(rows) for group, rows in groups.items()}


def autoencoders(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    import torch

    from ldm_tutorial.baselines import training_curve
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.images import psnr, to_model, to_picture
    from ldm_tutorial.measure.metrics import average

    data, groups = exam(quick)
    seen = torch.cat([groups["gold"], groups["seen by the diverse one only"]])
    shown = torch.cat([groups["seen by the diverse one only"][:8], groups["unseen by both"][:4]])
    rows = {"originals (the last four: zebra and galaxy, which no baseline saw)": data.images[shown]}
    samples: dict = {}
    found: dict = {}
    everything = {name: load(name, weights) for name in AUTOENCODERS}
    everything["shipped"] = load_models(device="cpu").vae
    for name, vae in everything.items():
        if vae is None:
            continue
        value = scores(vae, data.images)
        figures = {"psnr_seen_kinds": average(value[seen]), "psnr_unseen_kinds": average(value[groups["unseen by both"]])}
        with torch.no_grad():
            posterior = vae.encode(to_model(data.images[:256])).latent_dist
        figures["latent_numbers"] = posterior.mean[0].numel()
        figures["kl_nats_a_picture"] = average(posterior.kl())
        figures["dead_channels"] = int((posterior.mean.std((0, 2, 3)) < 0.1 * posterior.std.mean((0, 2, 3))).sum())
        figures["mean_deviation"] = posterior.mean.std().item()
        figures["posterior_deviation"] = posterior.std.mean().item()
        if name != "shipped":
            record = training_curve(name, weights)
            figures |= {key: record[key] for key in ("steps", "batch", "seconds", "parameters")}
        found[name] = figures
        rows[f"{name}: {figures['psnr_seen_kinds']['value']:.1f} dB"] = to_picture(reconstruct(vae, data.images[shown]))
        g = torch.Generator().manual_seed(11)
        noise = torch.randn(12, *posterior.mean.shape[1:], generator=g)
        with torch.no_grad():  # the prior as the KL term means it: N(0, 1), not scaled
            samples[f"{name}: N(0, 1) decoded"] = to_picture(vae.decode(noise).sample)
    small = torch.nn.functional.interpolate(to_model(data.images), scale_factor=0.25, mode="bilinear", antialias=True)
    large = torch.nn.functional.interpolate(small, scale_factor=4.0, mode="bilinear")
    value = psnr(to_model(data.images), large)
    found["shrunk to 16 x 16 and enlarged"] = {"psnr_seen_kinds": average(value[seen])}
    rows[f"shrunk to 16 x 16 and enlarged: {value[seen].mean():.1f} dB"] = to_picture(large[shown])
    sheet(rows, sheets / "autoencoders.png")
    sheet(samples, sheets / "autoencoders_prior.png")
    return found


def diversity(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    """Claim 1.7 by the measure that benchmarks/training.md fixed before training."""
    import torch

    data, groups = exam(quick)
    places = {seed: weights if seed == 0 else run / f"seed-{seed}" / "out" for seed in (0, 1, 2)}
    table: dict[str, list] = {"vae-diverse": [], "vae-narrow": []}
    for name in table:
        for folder in places.values():
            vae = load(name, folder)
            if vae is not None:
                table[name].append(scores(vae, data.images))
    seeds = min(len(values) for values in table.values())
    if not seeds:
        return {"seeds": 0}
    diverse, narrow = (torch.stack(table[name][:seeds]) for name in ("vae-diverse", "vae-narrow"))  # [seeds, pictures]
    found: dict = {"seeds": seeds, "pictures": {group: len(rows) for group, rows in groups.items()}}
    found["psnr"] = {
        name: {group: [round(v[rows].mean().item(), 3) for v in values] for group, rows in groups.items()}
        for name, values in (("vae-diverse", diverse), ("vae-narrow", narrow))
    }
    found["claim"] = compare_autoencoders(diverse, narrow, groups)
    if seeds > 1:  # control: no diversity is gained from seed to seed
        first = diverse[:1].expand(seeds - 1, -1)
        found["control"] = compare_autoencoders(first, diverse[1:], groups, narrow_saw_all=True)
    return found


def compare_autoencoders(diverse, narrow, groups: dict, narrow_saw_all: bool = False, times: int = 2000) -> dict:
    """(a) PSNR on unseen kinds, diverse minus narrow; (b) the narrow one's fall minus the diverse one's; with percentiles of a
    bootstrap over seeds and pictures. Both get PSNRs [seeds, pictures]."""
    import torch

    gold, others, unseen = groups.values()
    seen = torch.cat([gold, others])

    def measure(chosen, home_diverse, home_narrow, away) -> tuple[float, float]:
        a = diverse[chosen][:, away].mean() - narrow[chosen][:, away].mean()
        fall_diverse = diverse[chosen][:, home_diverse].mean() - diverse[chosen][:, away].mean()
        fall_narrow = narrow[chosen][:, home_narrow].mean() - narrow[chosen][:, away].mean()
        return a.item(), (fall_narrow - fall_diverse).item()

    g = torch.Generator().manual_seed(0)

    def again(rows):
        return rows[torch.randint(len(rows), (len(rows),), generator=g)]

    home = seen if narrow_saw_all else gold
    every = torch.arange(len(diverse))
    value = measure(every, seen, home, unseen)
    samples = []
    for _ in range(times):
        new_gold, new_others = again(gold), again(others)
        new_seen = torch.cat([new_gold, new_others])
        samples.append(measure(again(every), new_seen, new_seen if narrow_saw_all else new_gold, again(unseen)))
    low, high = torch.tensor(samples).quantile(torch.tensor([0.025, 0.975]), dim=0).tolist()
    by_seed = [measure(every[k : k + 1], seen, home, unseen) for k in range(len(every))]
    found = {}
    for i, name in enumerate(("unseen_diverse_minus_narrow", "fall_narrow_minus_diverse")):
        found[name] = {"value": value[i], "low": low[i], "high": high[i], "n": len(unseen) * len(every)}
        found[name]["by_seed"] = [numbers[i] for numbers in by_seed]
    above = sum(found[name]["low"] > 0 for name in list(found))
    found["verdict"] = ("does not hold", "in part", "holds")[above]
    return found


# --- equal time -------------------------------------------------------------------------------------------------------


def budget(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    """What each of the models that are compared at equal time costs, in seconds of one core: a step of each, timed in turn in
    one process, times its number of steps. (The seconds in curves.json are those of the day: a busy machine takes longer.)"""
    import dataclasses
    import tempfile
    import time
    from statistics import median

    import torch

    from ldm_tutorial.baselines import BASELINES, build
    from ldm_tutorial.images import to_model
    from ldm_tutorial.lab.baselines import LATENTS, BaselineTrainer

    names = ["vae-diverse", *(name for name, baseline in BASELINES.items() if baseline.equal_time)]
    rounds, steps = (1, 4) if quick else (3, 8)
    taken: dict[str, list[float]] = {name: [] for name in names}
    encoding = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaselineTrainer(folder, weights, scale=0.02)
        trainer.latents = lambda autoencoder: torch.randn(64, 8, 16, 16)  # what they are makes no difference to the clock
        trainer.autoencoder = lambda name: (None, "")
        for k in range(rounds):
            for name in names:
                torch.manual_seed(k)
                model, recipe = build(name), dataclasses.replace(BASELINES[name].recipe, steps=steps, seed=k)
                ends: list[float] = []
                draw = BASELINES[name].data(trainer, recipe.batch)
                trainer.teach(name, model, draw, recipe, lambda *_, ends=ends: ends.append(time.process_time()), progress=False)
                seconds = [after - before for before, after in zip(ends, ends[1:], strict=False)]
                taken[name] += seconds[1:]  # the first ones warm up
                for file in Path(folder).glob("*.pt"):
                    file.unlink()
            vae, images = build("vae-diverse").eval(), to_model(trainer.data.images[:64])
            start = time.process_time()
            with torch.no_grad():
                vae.encode(images)
            encoding.append((time.process_time() - start) / len(images))
    found: dict = {}
    for name in names:
        step = median(taken[name])
        found[name] = {"seconds_a_step": step, "n": len(taken[name]), "low": min(taken[name]), "high": max(taken[name])}
        found[name]["seconds"] = step * BASELINES[name].recipe.steps
    found["encoding"] = {"seconds": median(encoding) * LATENTS}
    found["all"] = {name: found[name]["seconds"] for name in names[1:]}
    found["all"]["latent"] += found["vae-diverse"]["seconds"] + found["encoding"]["seconds"]
    return found


# --- families ---------------------------------------------------------------------------------------------------------


def noise_of(count: int, *shape: int):
    import torch

    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(11))


def diffuse(name: str, unet, count: int, steps: int = 25):
    """Scaled latents or pixels [count, ...] by DDIM, without any text."""
    import torch

    from ldm_tutorial.baselines import scheduler_of

    c, done = unet.config, []
    noise = noise_of(count, c.in_channels, c.sample_size, c.sample_size)
    for z in noise.split(64):
        scheduler = scheduler_of(name)
        scheduler.set_timesteps(steps)
        with torch.no_grad():
            for t in scheduler.timesteps:
                z = scheduler.step(unet(z, t).sample, t, z).prev_sample
        done.append(z)
    return torch.cat(done)


def decode(vae, latents):
    """Unscaled latents -> pictures uint8."""
    import torch

    from ldm_tutorial.images import to_picture

    with torch.no_grad():
        return torch.cat([to_picture(vae.decode(z).sample) for z in latents.split(64)])


def families(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    import random

    import torch

    from ldm_tutorial.baselines import NOISE, training_curve
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.curios import BACKGROUNDS, plain
    from ldm_tutorial.curios import pairs as pairs_of
    from ldm_tutorial.images import to_picture
    from ldm_tutorial.measure.judge import load_judge, predict_with_features
    from ldm_tutorial.measure.metrics import average, kernel_distance
    from ldm_tutorial.measure.pictures import expected_prompts, renders, sample_many

    n = 64 if quick else 512
    made: dict = {}
    prior, gan, latent, pixel, diverse = (load(x, weights) for x in ("vae-prior", "gan", "latent", "pixel", "vae-diverse"))
    if prior is not None:
        side = 64 // 2 ** (len(prior.config.block_out_channels) - 1)
        made["vae-prior"] = decode(prior, noise_of(n, prior.config.latent_channels, side, side))
    if gan is not None:
        with torch.no_grad():
            made["gan"] = torch.cat([to_picture(gan(z)) for z in noise_of(n, NOISE).split(128)])
    if diverse is not None:
        scale = diverse.config.scaling_factor
        made["decoded noise"] = decode(diverse, noise_of(n, 8, 16, 16) / scale)
        if latent is not None:
            made["latent"] = decode(diverse, diffuse("latent", latent, n) / scale)
    if pixel is not None:
        made["pixel"] = to_picture(diffuse("pixel", pixel, n))
    models = load_models(device="cpu")
    scenes = expected_prompts("train", len(pairs_of("train")) * len(BACKGROUNDS))  # every pair on every background
    wanted, others = (random.Random(k).choices(scenes, k=n) for k in (0, 1))  # independent, as samples without a prompt are
    if not quick:
        made["shipped"] = sample_many(models, [plain(*w) for w in others], 400_000, progress=False)
    fresh = renders(wanted, 91, progress=False)[0]
    made["renders"] = renders(others, 92, progress=False)[0]
    if diverse is not None:
        made["renders through vae-diverse"] = to_picture(reconstruct(diverse, made["renders"]))
    judge = load_judge(device="cpu")
    real = predict_with_features(judge, fresh)[1]
    found: dict = {}
    for name, pictures in made.items():
        found[name] = {"kid": kernel_distance(predict_with_features(judge, pictures)[1], real)}
        found[name]["confidence"] = average(confidence(judge, pictures))
        if name in ("vae-prior", "gan", "latent", "pixel"):
            record = training_curve(name, weights)
            found[name] |= {k: v for k, v in record.items() if k.endswith("seconds") or k in ("steps", "batch", "parameters")}
            found[name]["all_seconds"] = sum(v for k, v in record.items() if k.endswith("seconds"))
    rows = {f"{name}: KID {found[name]['kid']['value']:.3g}": pictures[:12] for name, pictures in made.items()}
    sheet(rows, sheets / "families.png")
    return found


def confidence(judge, pictures):
    """How sure the judge is of the object that it sees [N]: the probability of its answer. Renders get about 1."""
    import torch

    from ldm_tutorial.images import to_model

    with torch.no_grad():
        return torch.cat([judge(to_model(x))[0].softmax(1).max(1).values for x in pictures.split(256)])


# --- shares of the pairs ----------------------------------------------------------------------------------------------


def draw_labelled(model, vae, wanted: list, seed: int, steps: int = 20, guidance: float = 2.0):
    """Pictures uint8 [N, 64, 64, 3] of (object, material, background), by DDIM with guidance."""
    import torch

    from ldm_tutorial.baselines import scheduler_of
    from ldm_tutorial.baselines.networks import NO_LABEL, label_ids
    from ldm_tutorial.measure.judge import labels_of

    labels = label_ids(*labels_of(wanted).T)
    noise = torch.randn(len(wanted), 8, 16, 16, generator=torch.Generator().manual_seed(seed))
    done = []
    for z, told in zip(noise.split(64), labels.split(64), strict=True):
        scheduler = scheduler_of("pairs-100")
        scheduler.set_timesteps(steps)
        both = torch.cat([torch.full_like(told, NO_LABEL), told])
        with torch.no_grad():
            for t in scheduler.timesteps:
                without, with_labels = model(torch.cat([z, z]), t.expand(2 * len(z)), both).chunk(2)
                z = scheduler.step(without + guidance * (with_labels - without), t, z).prev_sample
        done.append(z)
    return decode(vae, torch.cat(done) / vae.config.scaling_factor)


def pairs(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    """What the judge sees in pictures of held-out pairs, and of pairs that every one of the models saw."""
    from ldm_tutorial.baselines import SHARES, training_curve
    from ldm_tutorial.baselines.batches import pair_order
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.curios import BACKGROUNDS
    from ldm_tutorial.curios import pairs as pairs_of
    from ldm_tutorial.measure.judge import labels_of, load_judge, predict
    from ldm_tutorial.measure.metrics import rate_by_group
    from ldm_tutorial.measure.pictures import expected_prompts

    judge, vae = load_judge(device="cpu"), load_models(device="cpu").vae
    n = 41 if quick else 328
    held_out = expected_prompts("held_out", n)
    common = pair_order()[: round(len(pairs_of("train")) * min(SHARES) / 100)]  # every model saw these
    trained = [(*common[i % len(common)], BACKGROUNDS[(i // len(common)) % len(BACKGROUNDS)]) for i in range(n)]
    found, rows = {}, {}
    for share in SHARES:
        name = f"pairs-{share}"
        model = load(name, run / "not_shipped")
        if model is None:
            continue
        figures: dict = {"pairs": round(len(pairs_of("train")) * share / 100)}
        for kind, wanted in (("held_out", held_out), ("trained", trained)):
            pictures = draw_labelled(model, vae, wanted, seed=5)
            right = predict(judge, pictures) == labels_of(wanted)
            names = [" ".join(scene[:2]) for scene in wanted]  # pictures of one pair succeed and fail together
            figures[f"{kind}_pair"] = rate_by_group(right[:, :2].all(1), names)
            for place, what in enumerate(("object", "material", "background")):
                figures[f"{kind}_{what}"] = rate_by_group(right[:, place], names)
            rows[f"{share}% of the pairs, {kind}: {figures[f'{kind}_pair']['value']:.0%} right"] = pictures[:12]
        record = training_curve(name, run / "not_shipped")
        figures |= {key: record[key] for key in ("steps", "batch", "seconds", "parameters")}
        figures["losses"] = record["losses"]
        found[name] = figures
    if rows:
        sheet(rows, sheets / "pairs.png")
        print("held out:", held_out[:12], "trained:", trained[:12], sep="\n")
    return found


# --- two CLIPs --------------------------------------------------------------------------------------------------------


def clips(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    """Both CLIPs, the same questions about the same pictures: once by text (pick the right one), once by a linear probe of the
    *image* half, which does not depend on what the text half ever read."""
    import torch

    from ldm_tutorial.baselines import build
    from ldm_tutorial.baselines.batches import label_text
    from ldm_tutorial.baselines.networks import shipped_tokenizer
    from ldm_tutorial.clip import embed_images, embed_texts
    from ldm_tutorial.curios import BACKGROUNDS, MATERIALS, OBJECTS, Curios, plain
    from ldm_tutorial.images import to_model
    from ldm_tutorial.measure.judge import labels_of
    from ldm_tutorial.measure.metrics import rate
    from ldm_tutorial.measure.pictures import expected_prompts, renders

    n = 82 if quick else 656
    wanted = expected_prompts("held_out", n)
    images, _ = renders(wanted, 77, progress=False)
    truth = labels_of(wanted)
    tokenizer = shipped_tokenizer()
    bats = [(bat, material, BACKGROUNDS[k % 8]) for k in range(4) for bat, material in bat_pairs()][: n // 2]
    bat_images, _ = renders(bats, 78, progress=False)
    data = Curios("train", 512 if quick else 4096, progress=False)
    names = {"object": OBJECTS, "material": tuple(MATERIALS), "background": BACKGROUNDS}
    bat_truth = torch.tensor([bat == "baseball bat" for bat, _, _ in bats]).long()
    found: dict = {}
    torch.manual_seed(0)
    for name in ("clip-labels", "clip-captions", "untrained"):
        clip = build("clip-captions").eval() if name == "untrained" else load(name, weights)
        if clip is None:
            continue
        points = embed_images(clip, to_model(images))
        bat_points = embed_images(clip, to_model(bat_images))
        known = embed_images(clip, to_model(data.images))
        figures: dict = {"text": {}, "probe": {}}
        for place, (kind, choices) in enumerate(names.items()):
            texts = [[*scene[:place], choice, *scene[place + 1 :]] for scene in wanted for choice in choices]
            unique = sorted({plain(*t) for t in texts})
            table = dict(zip(unique, embed_texts(clip, tokenizer, unique), strict=True))
            answers = []
            for k, point in enumerate(points):
                some = texts[k * len(choices) : (k + 1) * len(choices)]
                answers.append(torch.stack([table[plain(*t)] for t in some]) @ point)
            figures["text"][kind] = rate(torch.stack(answers).argmax(1) == truth[:, place])
            labels = (data.objects, data.materials, data.backgrounds)[place]
            figures["probe"][kind] = rate(probe(known, labels, points) == truth[:, place])
        two = [[plain(bat, m, b) for bat in ("flying bat", "baseball bat")] for _, m, b in bats]
        flat = embed_texts(clip, tokenizer, [t for pair in two for t in pair]).unflatten(0, (len(bats), 2))
        figures["text"]["which bat"] = rate((flat @ bat_points[:, :, None])[:, :, 0].argmax(1) == bat_truth)
        is_bat = torch.isin(data.objects, torch.tensor([OBJECTS.index("flying bat"), OBJECTS.index("baseball bat")]))
        kind = (data.objects[is_bat] == OBJECTS.index("baseball bat")).long()
        figures["probe"]["which bat"] = rate(probe(known[is_bat], kind, bat_points) == bat_truth)
        if name == "clip-labels":  # the question in the words that it read
            labels = list(dict.fromkeys(label_text(o) for o in OBJECTS))
            chosen = (points @ embed_texts(clip, tokenizer, labels).T).argmax(1).tolist()
            right = [labels[c] == label_text(w[0]) for c, w in zip(chosen, wanted, strict=True)]
            figures["text"]["object, as a label"] = rate(torch.tensor(right))
        found[name] = figures
    pixels = torch.nn.functional.adaptive_avg_pool2d(to_model(images), 8).flatten(1)
    known = torch.nn.functional.adaptive_avg_pool2d(to_model(data.images), 8).flatten(1)
    found["pixels 8 x 8"] = {"probe": {}}
    for place, kind in enumerate(names):
        labels = (data.objects, data.materials, data.backgrounds)[place]
        found["pixels 8 x 8"]["probe"][kind] = rate(probe(known, labels, pixels) == truth[:, place])
    return found


def bat_pairs() -> list:
    from ldm_tutorial.curios import pairs as pairs_of

    return [pair for pair in pairs_of("all") if pair[0].endswith(" bat")]


def probe(known, labels, new, strength: float = 1.0):
    """Answers [M] of a linear reader (ridge regression on one-hot labels) fitted on known [N, D]."""
    import torch
    import torch.nn.functional as F

    middle, spread = known.mean(0), known.std(0) + 1e-6
    x, x_new = (((v - middle) / spread).double() for v in (known, new))
    wanted = F.one_hot(labels).double()
    average = wanted.mean(0)
    weights = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]).double(), x.T @ (wanted - average))
    return (average + x_new @ weights).argmax(1)


# --- skip connections -------------------------------------------------------------------------------------------------


def unets(weights: Path, run: Path, sheets: Path, quick: bool) -> dict:
    """Error of the predicted noise on fresh renders, by timestep, with and without skip connections."""
    import torch

    from ldm_tutorial.baselines import scheduler_of
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.curios import Curios
    from ldm_tutorial.images import to_model
    from ldm_tutorial.measure.metrics import average

    models = load_models(device="cpu")
    images = Curios("validation", 64 if quick else 512, seed=9, progress=False).images
    latents = torch.cat([models.encode(to_model(x)) for x in images.split(64)])
    noise = noise_of(*latents.shape)
    found: dict = {}
    for name in ("unet-skips", "unet-noskips"):
        unet = load(name, weights)
        if unet is None:
            continue
        found[name] = {}
        for t in (50, 200, 400, 600, 800, 950):
            times = torch.full((len(latents),), t)
            noisy = scheduler_of(name).add_noise(latents, noise, times)
            with torch.no_grad():
                guess = torch.cat([unet(a, b).sample for a, b in zip(noisy.split(64), times.split(64), strict=True)])
            found[name][f"error_at_{t}"] = average((guess - noise).square().flatten(1).mean(1))
    return found


PARTS = {
    "autoencoders": autoencoders,
    "diversity": diversity,
    "budget": budget,
    "families": families,
    "pairs": pairs,
    "clips": clips,
    "unets": unets,
}


if __name__ == "__main__":
    main()
