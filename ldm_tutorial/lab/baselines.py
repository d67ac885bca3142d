"""`ldm train baselines`: train the small models that the notebooks compare with."""

from __future__ import annotations

import copy
import functools
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..autoencoder import VAELoss
from ..baselines import BASELINES, NOISE, UNSEEN, VAES, _known, _tokenizer, build, build_discriminator, scheduler_of
from ..checkpoints import WEIGHTS
from ..clip import CLIPLoss
from ..curios import MATERIALS, OBJECTS, Curios
from ..curios.dataset import RENDER_VERSION
from ..diffusion import DiffusionLoss
from ..errors import Interrupted
from ..files import atomic_folder, sha256, write_checksums, write_json
from ..images import to_model
from ..models import default_device
from ..storage.resume import ResumableRun, connect_processes
from ..training import SEED, Recipe, fingerprint, fit
from ..training import generator as random_stream

RENDERS = 16_384
# gan, pixel and latent: as many steps as one CPU core did in the same four minutes
RECIPES = {
    **{name: Recipe(260, 16, 2e-3, warmup=40) for name in BASELINES if name.startswith("vae")},
    **{name: Recipe(220, 64, 2e-3, warmup=30) for name in BASELINES if name.startswith("unet")},
    **{name: Recipe(250, 128, 1e-3, warmup=40) for name in BASELINES if name.startswith("clip")},
    "vae-prior": Recipe(400, 16, 2e-3, warmup=50),
    "gan": Recipe(400, 64, 5e-4),
    "pixel": Recipe(170, 32, 1e-3, warmup=30),
    "latent": Recipe(800, 32, 1e-3),
}


def save_baseline(name: str, model: nn.Module, record: dict, folder: str | Path) -> None:
    """Put a baseline (fp16) and the record of its training into a folder, whole or not at all."""
    folder, curves = Path(folder), Path(folder) / "curves.json"
    half: Any = copy.deepcopy(model).cpu().half()  # diffusers' and transformers' classes, or the GAN's
    with atomic_folder(folder / name) as scratch:
        if name == "gan":
            save_file(half.state_dict(), scratch / "model.safetensors")
        else:
            half.save_pretrained(scratch, safe_serialization=True)
            config = json.loads((scratch / "config.json").read_text())
            if "dtype" in config:
                write_json(scratch / "config.json", {**config, "dtype": "float32"})  # loaders compute in float32
    records = json.loads(curves.read_text()) if curves.exists() else {}
    records[name] = record
    write_json(curves, {known: records[known] for known in BASELINES if known in records})
    write_checksums(folder)


class BaselineTrainer:
    """Trains baselines in ``folder`` (checkpoints) into ``out``; ``scale`` multiplies steps and renders, ``vae`` is the
    folder of the autoencoder on whose latents the latent ones learn."""

    def __init__(self, folder: str | Path, out: str | Path, scale: float = 1.0, vae: str | Path = WEIGHTS / "vae"):
        self.folder, self.out, self.scale, self.vae = Path(folder), Path(out), scale, vae
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def data(self):
        """The renders that all of them learn from."""
        return Curios("train", min(RENDERS, max(256, round(RENDERS * self.scale))), SEED)

    @functools.cached_property
    def latents(self) -> Tensor:
        """Scaled latents [N, 8, 16, 16] of the first 8,192 pictures."""
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(str(self.vae), torch_dtype=torch.float32).to(default_device())
        with torch.no_grad():
            parts = [vae.encode(to_model(x).to(vae.device)).latent_dist.mode() for x in self.data.images[:8192].split(64)]
        return torch.cat(parts).cpu() * vae.config.scaling_factor

    def train(self, name: str, progress: bool = True) -> None:
        """Train (or go on with) one baseline and put it among the others."""
        _known(name)
        before = RECIPES[name]
        recipe = Recipe(**{**vars(before), "steps": max(2, round(before.steps * self.scale))})
        torch.manual_seed(SEED)
        model = build(name)
        clock = _Clock(self.folder / f"{name}.clock.json")
        kind = name.split("-")[0]
        teach = getattr(self, f"_{kind}" if kind in ("vae", "gan", "clip") else "_diffusion")
        losses = teach(name, model, recipe, {"on_step": clock, "progress": progress})
        if len(losses) < recipe.steps:
            done = f"step {len(losses)} of {recipe.steps}"
            raise Interrupted(f"{name} was stopped at {done}: the same command goes on from there.")
        every = -(-len(losses) // 200)
        thin = [round(part.mean().item(), 4) for part in torch.as_tensor(losses).split(every)]
        record = {"losses": thin, "seconds": round(clock.seconds[-1]), "steps": recipe.steps, "batch": recipe.batch}
        record |= {"parameters": sum(p.numel() for p in model.parameters()), "command": "ldm train baselines"}
        save_baseline(name, model, record, self.out)

    def _fit(self, name: str, loss: nn.Module, draw, recipe: Recipe, options: dict, *learnt_from) -> Tensor:
        learned_from = fingerprint(str(RENDER_VERSION), str(self.scale), *learnt_from)
        return fit(name, loss, draw, recipe, self.folder, data_fingerprint=learned_from, **options)

    def _vae(self, name: str, vae, recipe: Recipe, options: dict) -> Tensor:
        _, depth, weight = VAES.get(name, (0, 8, 1e-6))
        kinds, materials = list(MATERIALS), self.data.materials
        gold = materials == kinds.index("gold")
        seen = torch.isin(materials, torch.tensor([kinds.index(m) for m in UNSEEN]), invert=True)
        chosen = gold if name == "vae-narrow" else seen
        images = self.data.images[chosen][: int(gold.sum())]  # equally many pictures for all that are compared
        images = self.data.images if name == "vae-prior" else images
        side = 64 // 2 ** (len(vae.config.block_out_channels) - 1)

        def draw(g):
            rows = torch.randint(len(images), (recipe.batch,), generator=g)
            return {"images": to_model(images[rows]), "noise": torch.randn(recipe.batch, depth, side, side, generator=g)}

        losses = self._fit(name, VAELoss(vae, weight), draw, recipe, options, f"{weight} {dict(vae.config)}")
        with torch.no_grad():
            sample = vae.encode(to_model(images[:256]).to(vae.device)).latent_dist.mean
        vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 4))
        return losses

    def _clip(self, name: str, clip: nn.Module, recipe: Recipe, options: dict) -> Tensor:
        def label(i: int) -> str:
            word = OBJECTS[i].split()[-1] if OBJECTS[i].endswith(" bat") else OBJECTS[i]
            return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"

        texts = self.data.captions if name == "clip-captions" else [label(i) for i in self.data.objects.tolist()]
        ids = _tokenizer()(texts, padding="longest", return_tensors="pt").input_ids

        def draw(g):
            rows = torch.randint(len(ids), (recipe.batch,), generator=g)
            return {"images": to_model(self.data.images[rows]), "input_ids": ids[rows]}

        return self._fit(name, CLIPLoss(clip), draw, recipe, options)

    def _diffusion(self, name: str, unet: nn.Module, recipe: Recipe, options: dict) -> Tensor:
        scheduler = scheduler_of(name)

        def draw(g):
            n = recipe.batch
            if name == "pixel":
                clean = to_model(self.data.images[torch.randint(len(self.data), (n,), generator=g)])
            else:
                clean = self.latents[torch.randint(len(self.latents), (n,), generator=g)]
            timesteps = torch.randint(scheduler.config.num_train_timesteps, (n,), generator=g)
            return {"latents": clean, "noise": torch.randn(clean.shape, generator=g), "timesteps": timesteps}

        file = Path(self.vae) / "diffusion_pytorch_model.safetensors"
        world = "" if name == "pixel" else sha256(file)
        return self._fit(name, DiffusionLoss(unet, scheduler), draw, recipe, options, world)

    def _gan(self, name: str, generator: nn.Module, recipe: Recipe, options: dict) -> list[float]:
        """Two networks and two optimisers, so a loop of its own; it can be stopped and goes on as ``fit`` does. Returns the
        generator's losses."""
        device = default_device()
        discriminator = build_discriminator().to(device)
        generator.to(device).train()
        generator_adam = torch.optim.Adam(generator.parameters(), recipe.lr, betas=(0.5, 0.99))
        discriminator_adam = torch.optim.Adam(discriminator.parameters(), recipe.lr, betas=(0.5, 0.99))
        settings = {"name": name, **vars(recipe), "scale": self.scale}
        run = ResumableRun(self.folder / "gan.pt", settings, connect_processes())
        run.load(
            generator=generator,
            discriminator=discriminator,
            generator_adam=generator_adam,
            discriminator_adam=discriminator_adam,
        )
        steps = range(len(run.losses), recipe.steps)
        bar = tqdm(steps, initial=len(run.losses), total=recipe.steps, desc="train gan", disable=not options["progress"])
        with run:
            for step in bar:
                g = random_stream(recipe.seed, step)
                rows = torch.randint(len(self.data), (recipe.batch,), generator=g)
                real = to_model(self.data.images[rows]).to(device)
                fake = generator(torch.randn(recipe.batch, NOISE, generator=g).to(device))
                # Goodfellow et al. 2014, eq. 1
                discriminator_loss = (F.softplus(-discriminator(real)) + F.softplus(discriminator(fake.detach()))).mean()
                discriminator_adam.zero_grad()
                discriminator_loss.backward()
                discriminator_adam.step()
                generator_loss = F.softplus(-discriminator(fake)).mean()  # maximises log D(G(z)), as their section 3 advises
                generator_adam.zero_grad()
                generator_loss.backward()
                generator_adam.step()
                options["on_step"](step, generator_loss.item())
                if run.after_step(generator_loss.item()):
                    break
        generator.eval()
        return run.losses


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
) -> Path:
    """Train all baselines (or the named ones) with checkpoints in ``folder``, saved in ``out``; interrupt at will.

    Raises:
        UserError: for an unknown name, and when a training was stopped.
    """
    work = BaselineTrainer(folder, out, scale, vae)
    for name in names or BASELINES:
        work.train(name, progress)
    return Path(out)
