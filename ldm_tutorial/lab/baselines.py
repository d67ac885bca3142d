"""`ldm train baselines`: train the small models that the notebooks compare with. What each of them is, and what it learns
from, stands in :mod:`baselines`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from ..baselines import BASELINES, build, find_baseline, load_baseline, training_curve
from ..baselines.batches import SampleBatch, pair_scenes
from ..baselines.networks import NOISE, build_discriminator, label_ids
from ..curios import BACKGROUNDS, MATERIALS, OBJECTS, Curios, scene_at
from ..curios.dataset import RENDER_VERSION
from ..curios.render import render
from ..errors import Interrupted
from ..files import WEIGHTS, atomic_folder, atomic_write, sha256, write_checksums, write_json
from ..images import to_model
from ..models import default_device
from ..storage.resume import ResumableRun, connect_processes
from ..training import SEED, Recipe, fingerprint, fit
from ..training import generator as random_stream
from .training import LowPrecision

RENDERS = 16_384
LATENTS = 4_096  # pictures whose latents the models without text learn from


def save_baseline(name: str, model: nn.Module, record: dict, folder: str | Path) -> None:
    """Put a baseline (fp16) and the record of its training into a folder, whole or not at all."""
    folder = Path(folder)
    half: Any = copy.deepcopy(model).cpu().half().to(memory_format=torch.contiguous_format)
    with atomic_folder(folder / name) as scratch:
        half.save_pretrained(scratch, safe_serialization=True)
        config = json.loads((scratch / "config.json").read_text())
        config.pop("_name_or_path", None)  # where it was loaded from is nobody's business
        if "dtype" in config:
            config["dtype"] = "float32"  # loaders compute in float32
        write_json(scratch / "config.json", config)
    curves = folder / "curves.json"
    records = json.loads(curves.read_text()) if curves.exists() else {}
    records[name] = record
    write_json(curves, {known: records[known] for known in BASELINES if known in records})
    write_checksums(folder)


class BaselineTrainer:
    """Trains baselines in ``folder`` (checkpoints) into ``out``; those that are not shipped go to ``folder/not_shipped``.

    ``scale`` multiplies steps and renders; ``vae`` is the folder of the shipped autoencoder; ``seed`` decides initial weights
    and batches (the pictures stay the same).
    """

    def __init__(
        self,
        folder: str | Path,
        out: str | Path,
        scale: float = 1.0,
        vae: str | Path = WEIGHTS / "vae",
        seed: int = SEED,
    ):
        self.folder = Path(folder)
        self.out = Path(out)
        self.scale = scale
        self.vae = Path(vae)
        self.seed = seed
        self.encoding_seconds = 0.0  # what the latents took that were asked for last
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def data(self) -> Curios:
        """The renders that all of them learn from."""
        return Curios("train", min(RENDERS, max(256, round(RENDERS * self.scale))), SEED)

    def place(self, name: str) -> Path:
        """The folder that a baseline is saved in."""
        return self.out if find_baseline(name).shipped else self.folder / "not_shipped"

    def recipe(self, name: str) -> Recipe:
        """A baseline's recipe, scaled, with this training's seed."""
        full = find_baseline(name).recipe
        return dataclasses.replace(full, steps=max(2, round(full.steps * self.scale)), seed=self.seed)

    # --- latents ----------------------------------------------------------------------------------------------------

    def autoencoder(self, name: str) -> tuple[AutoencoderKL, str]:
        """The autoencoder ("shipped", or a baseline that is trained already) and the checksum of its weights."""
        if name == "shipped":
            vae = AutoencoderKL.from_pretrained(str(self.vae), torch_dtype=torch.float32).to(default_device())
            return vae, sha256(self.vae / "diffusion_pytorch_model.safetensors")
        vae = load_baseline(name, folder=self.out)
        return vae, sha256(self.out / name / "diffusion_pytorch_model.safetensors")

    def latents(self, autoencoder: str) -> Tensor:
        """Scaled latents [N, 8, 16, 16] of the first pictures."""
        return self._encode(f"latents-{autoencoder}", autoencoder, lambda: self.data.images[:LATENTS])

    def labelled_latents(self, share: int) -> tuple[Tensor, Tensor]:
        """Scaled latents [N, 8, 16, 16] and labels [N, 3] of pictures of a share (percent) of the training pairs."""
        numbers = pair_scenes(share)
        scenes = [scene_at("train", i, SEED)[0] for i in numbers]
        objects = torch.tensor([OBJECTS.index(s.object) for s in scenes])
        materials = torch.tensor([list(MATERIALS).index(s.material) for s in scenes])
        backgrounds = torch.tensor([BACKGROUNDS.index(s.background) for s in scenes])
        latents = self._encode(f"latents-pairs-{share}", "shipped", lambda: self.pictures(numbers))
        return latents, label_ids(objects, materials, backgrounds)

    def pictures(self, numbers: list[int]) -> Tensor:
        """Pictures uint8 [N, 64, 64, 3] of scenes of the split "train"; what is not in the data set is rendered."""
        images = torch.empty(len(numbers), 64, 64, 3, dtype=torch.uint8)
        missing = []
        for place, number in enumerate(numbers):
            if number < len(self.data):
                images[place] = self.data.images[number]
            else:
                missing.append(place)
        scenes = [scene_at("train", numbers[place], SEED)[0] for place in missing]
        for i, image, _ in render(scenes, 64, "cuda" if torch.cuda.is_available() else "cpu"):
            images[missing[i]] = image
        return images

    @torch.no_grad()
    def _encode(self, file: str, autoencoder: str, pictures: Callable[[], Tensor]) -> Tensor:
        """Scaled latents of pictures, read from the run's folder or computed and put there, with the seconds that it took."""
        vae, origin = self.autoencoder(autoencoder)
        path = self.folder / f"{file}.safetensors"
        try:
            with safe_open(path, "pt") as f:
                if f.metadata()["origin"] == origin:
                    self.encoding_seconds = float(f.metadata()["seconds"])
                    return f.get_tensor("latents")
        except (OSError, SafetensorError, KeyError, TypeError):
            pass  # absent or damaged: compute it again
        images = pictures()
        start = time.process_time()
        parts = [vae.encode(to_model(some).to(vae.device)).latent_dist.mode() for some in images.split(64)]
        latents = (torch.cat(parts).cpu() * vae.config.scaling_factor).contiguous()
        self.encoding_seconds = time.process_time() - start
        with atomic_write(path) as scratch:
            save_file({"latents": latents}, scratch, {"origin": origin, "seconds": f"{self.encoding_seconds:.1f}"})
        return latents

    def autoencoder_costs(self, autoencoder: str) -> dict:
        """What a model on latents owes to its autoencoder, in seconds of one core. (The training of the shipped one is not
        among what is compared, and is not counted.)"""
        costs: dict[str, str | int] = {"autoencoder": autoencoder, "encoding_seconds": round(self.encoding_seconds)}
        if autoencoder != "shipped":
            costs["autoencoder_seconds"] = training_curve(autoencoder, self.out)["seconds"]
        return costs

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, name: str, progress: bool = True) -> None:
        """Train (or go on with) one baseline and put it among the others.

        Raises:
            Interrupted: when it was stopped before its end.
        """
        recipe = self.recipe(name)
        torch.manual_seed(self.seed)
        model = build(name)
        clock = _Clock(self.folder / f"{name}.clock.json")
        sample_batch = find_baseline(name).data(self, recipe.batch)
        losses = self.teach(name, model, sample_batch, recipe, clock, progress)
        if len(losses) < recipe.steps:
            done = f"step {len(losses)} of {recipe.steps}"
            raise Interrupted(f"{name} was stopped at {done}: the same command goes on from there.")
        if isinstance(model, AutoencoderKL):
            measure_scale(model, sample_batch)
        record = {"losses": thin(losses), "seconds": round(clock.seconds[-1]), "steps": recipe.steps, "batch": recipe.batch}
        autoencoder = find_baseline(name).autoencoder
        if autoencoder:
            record |= self.autoencoder_costs(autoencoder)
        record |= {"seed": self.seed, "parameters": sum(p.numel() for p in model.parameters())}
        save_baseline(name, model, record | {"command": "ldm train baselines"}, self.place(name))

    def teach(
        self, name: str, model: nn.Module, sample_batch: SampleBatch, recipe: Recipe, on_step=None, progress: bool = True
    ) -> Tensor:
        """The losses of one training; the model is left with averaged weights."""
        baseline = find_baseline(name)
        learned_from = [str(RENDER_VERSION), str(self.scale), baseline.what]
        if baseline.autoencoder:
            learned_from.append(self.autoencoder(baseline.autoencoder)[1])
        data = fingerprint(*learned_from)
        if baseline.loss is None:
            return self._teach_gan(name, model, sample_batch, recipe, on_step, progress, data)
        loss = baseline.loss(model)
        if baseline.low_precision:
            loss = LowPrecision(loss)
        return fit(name, loss, sample_batch, recipe, self.folder, on_step, progress, data)

    def _teach_gan(
        self, name: str, model: nn.Module, sample_batch: SampleBatch, recipe: Recipe, on_step, progress: bool, data: str
    ) -> Tensor:
        """Two networks and two optimisers, so a loop of its own; it can be stopped and goes on as ``fit`` does. Returns the
        generator's losses."""
        device = default_device()
        generator = model.to(device).to(memory_format=torch.channels_last).train()
        discriminator = build_discriminator().to(device).to(memory_format=torch.channels_last)
        average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        generator_adam = torch.optim.Adam(generator.parameters(), recipe.lr, betas=(0.5, 0.99))
        discriminator_adam = torch.optim.Adam(discriminator.parameters(), recipe.lr, betas=(0.5, 0.99))
        settings = {"name": name, **vars(recipe), "data": data}
        run = ResumableRun(self.folder / f"{name}.pt", settings, connect_processes())
        run.load(
            generator=generator,
            discriminator=discriminator,
            average=average,
            generator_adam=generator_adam,
            discriminator_adam=discriminator_adam,
        )
        generate, judge = LowPrecision(generator), LowPrecision(discriminator)
        steps = range(len(run.losses), recipe.steps)
        bar = tqdm(steps, initial=len(run.losses), total=recipe.steps, desc=f"train {name}", disable=not progress)
        with run:
            for step in bar:
                g = random_stream(recipe.seed, step)
                real = sample_batch(g)["images"].to(device)
                noise = torch.randn(recipe.batch, NOISE, generator=g).to(device)
                fake = generate(noise=noise)

                loss = discriminator_loss(judge(input=real), judge(input=fake.detach()))
                discriminator_adam.zero_grad()
                loss.backward()
                discriminator_adam.step()

                loss = generator_loss(judge(input=fake))
                generator_adam.zero_grad()
                loss.backward()
                generator_adam.step()
                average.update_parameters(generator)

                if on_step:
                    on_step(step, loss.item())
                if run.after_step(loss.item()):
                    break
        model.load_state_dict(average.module.state_dict())
        model.eval()
        return torch.tensor(run.losses)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), from the discriminator's logits (Goodfellow et al. 2014, eq. 1)."""
    return (F.softplus(-real.float()) + F.softplus(fake.float())).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)): the generator maximises log D(G(z)), as Goodfellow et al. 2014 advise in section 3."""
    return F.softplus(-fake.float()).mean()


@torch.no_grad()
def measure_scale(vae: AutoencoderKL, sample_batch: SampleBatch) -> None:
    """Set an autoencoder's scaling factor so that its latents have variance 1, as noise of variance 1 wants it."""
    batches = [sample_batch(random_stream(SEED, k))["images"] for k in range(32)]
    means = torch.cat([vae.encode(images.to(vae.device)).latent_dist.mean for images in batches])
    vae.register_to_config(scaling_factor=round(1 / means.std().item(), 4))


def thin(losses: Tensor) -> list[float]:
    """At most 200 means of neighbouring losses."""
    every = -(-len(losses) // 200)
    return [round(part.mean().item(), 4) for part in losses.split(every)]


class _Clock:
    """Seconds of one processor core, carried over an interruption (a busy machine does not make them longer)."""

    def __init__(self, path: Path):
        self.path = path
        self.last: float | None = None
        self.seconds = json.loads(path.read_text()) if path.exists() else []  # after each step

    def __call__(self, step: int, loss: float) -> None:
        now = time.process_time()
        if self.last is None:
            del self.seconds[step:]  # steps after the last checkpoint are made again
        self.seconds.append((self.seconds or [0.0])[-1] + (now - self.last if self.last else 0))
        self.last = now
        if (step + 1) % 10 == 0:
            self.path.write_text(json.dumps([round(s, 2) for s in self.seconds]))


def train_baselines(
    folder: str | Path,
    out: str | Path,
    scale: float = 1.0,
    names: list[str] | None = None,
    vae: str | Path = WEIGHTS / "vae",
    progress: bool = True,
    seed: int = SEED,
) -> Path:
    """Train all baselines (or the named ones) with checkpoints in ``folder``, saved in ``out``; interrupt at will.

    Raises:
        UserError: for an unknown name, and when a training was stopped.
    """
    trainer = BaselineTrainer(folder, out, scale, vae, seed)
    for name in names or BASELINES:
        trainer.train(name, progress)
    return Path(out)
