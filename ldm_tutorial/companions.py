"""The companions: small models that the notebooks compare with, all made by ``ldm train companions`` and shipped.

Each differs from another in one thing only (what it saw, how far it compresses, whether it has skip connections ...),
so that what comes out differently has one reason. Their loss curves are shipped too: :func:`curve`.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import UserError
from .files import damage, seal, sha256, whole, write_json
from .models import WEIGHTS, build_clip, build_scheduler, build_vae, default_device
from .training import SEED, CLIPLoss, Recipe, VAELoss, digest, fit, flat, generator, restore

FOLDER = WEIGHTS.parent / "companions"
RENDERS = 16_384
UNSEEN = ("zebra", "galaxy")  # materials that none of the compared autoencoders ever sees
NOISE = 64  # numbers that the adversarial generator starts from
COMPANIONS = {
    "vae-diverse": "autoencoder, f=4, every material but zebra and galaxy",
    "vae-narrow": "the same, as many pictures and steps, of gold alone",
    "vae-f2": "vae-diverse with each side halved once",
    "vae-f8": "vae-diverse with each side halved three times",
    "vae-nokl": "vae-diverse without the KL term",
    "vae-prior": "autoencoder, f=16, with so strong a KL term that N(0, 1) can be decoded",
    "gan": "a tiny adversarial model: a generator that was trained against a critic",
    "pixel": "diffusion on 64 x 64 pixels (v), no text, trained for the same time as gan and latent",
    "clip-labels": "a small CLIP that read the object's name only",
    "clip-captions": "the same, that read whole captions",
    "unet-skips": "diffusion on latents (epsilon), no text, 220 steps",
    "unet-noskips": "the same with its skip connections cut",
    "latent": "diffusion on latents (v), no text, trained for the same time as gan and pixel",
}
# gan, pixel and latent: as many steps as one CPU core did in the same four minutes
RECIPES = {
    **{name: Recipe(260, 16, 2e-3, warmup=40) for name in COMPANIONS if name.startswith("vae")},
    **{name: Recipe(220, 64, 2e-3, warmup=30) for name in COMPANIONS if name.startswith("unet")},
    **{name: Recipe(250, 128, 1e-3, warmup=40) for name in COMPANIONS if name.startswith("clip")},
    "vae-prior": Recipe(400, 16, 2e-3, warmup=50),
    "gan": Recipe(400, 64, 5e-4),
    "pixel": Recipe(170, 32, 1e-3, warmup=30),
    "latent": Recipe(800, 32, 1e-3),
}
VAES = {  # channels, latent channels, weight of the KL term
    "vae-f2": ((8, 16), 8, 1e-6),
    "vae-f8": ((8, 16, 32, 32), 8, 1e-6),
    "vae-nokl": ((8, 16, 32), 8, 0.0),
    "vae-prior": ((8, 16, 32, 48, 64), 16, 5e-4),
}


class Generator(nn.Module):
    """The making half of an adversarial pair (Goodfellow et al. 2014), convolutional as in Radford et al. 2016.

    Noise [B, 64] of N(0, 1) -> pictures [B, 3, 64, 64] in -1..1; 0.3 M parameters.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        sizes = [NOISE, 8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layers += [nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise[:, :, None, None])


def critic(width: int = 24) -> nn.Module:
    """The other half: pictures [B, 3, 64, 64] -> [B, 1, 1, 1], above 0 where it believes them; Lipschitz-bound layers keep
    it from winning too soon (Miyato et al. 2018). It is thrown away after training."""
    from torch.nn.utils.parametrizations import spectral_norm

    sizes = [3, width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(8 * width, 1, 4)))


class UnconditionalLoss(nn.Module):
    """Mean squared error of a U-Net that is told the timestep and nothing else; the scheduler says whether it predicts
    the noise (epsilon; Ho et al. 2020, eq. 14) or v (Salimans and Ho 2022)."""

    def __init__(self, unet: nn.Module, scheduler):
        super().__init__()
        self.unet, self.scheduler = unet, scheduler

    def forward(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        epsilon = self.scheduler.config.prediction_type == "epsilon"
        target = noise if epsilon else self.scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps).sample, target)


def cut_skips(unet: nn.Module) -> nn.Module:
    """Let zeros arrive where a ``UNet2DModel``'s up blocks expect what the down blocks saw: same class, same parameters."""

    def cut(block, inputs):
        hidden, skips, *rest = inputs
        return hidden, tuple(torch.zeros_like(s) for s in skips), *rest

    for block in unet.up_blocks:
        block.register_forward_pre_hook(cut)
    return unet


def scheduler_of(name: str):
    """The noise schedule that a diffusion companion was trained with: the course's own, predicting epsilon or v."""
    kind = "epsilon" if name.startswith("unet") else "v_prediction"
    return build_scheduler().from_config(build_scheduler().config, prediction_type=kind)


def build(name: str) -> nn.Module:
    """A companion before its training (for the two CLIPs: with the shipped tokenizer's vocabulary)."""
    from diffusers import AutoencoderKL, UNet2DModel

    if name.startswith("vae"):
        channels, latent_channels, _ = VAES.get(name, ((8, 16, 32), 8, 1e-6))
        config = dict(build_vae(latent_channels, channels).config)
        # One group of channels: so narrow a layer, normalised in eight groups, forgets how bright and of what colour it is.
        return AutoencoderKL.from_config(config, norm_num_groups=1)
    if name.startswith("clip"):
        return build_clip(_tokenizer(), width=64, text_layers=2, vision_layers=3)
    if name == "gan":
        return Generator()
    side, depth, channels = (64, 3, (16, 32, 40, 56)) if name == "pixel" else (16, 8, (32, 64))
    ends = ("DownBlock2D", "UpBlock2D") if name.startswith("unet") else ("AttnDownBlock2D", "AttnUpBlock2D")
    n = len(channels) - 1
    unet = UNet2DModel(
        sample_size=side, in_channels=depth, out_channels=depth, block_out_channels=channels, layers_per_block=1,
        down_block_types=("DownBlock2D",) * n + ends[:1], up_block_types=ends[1:] + ("UpBlock2D",) * n,
        add_attention=not name.startswith("unet"), attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    return cut_skips(unet) if name == "unet-noskips" else unet


def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")


# --- shipped files --------------------------------------------------------------------------------------------------


def _checked(start: str, folder: Path) -> None:
    """Compare the files whose names begin with ``start`` with checksums.json."""
    try:
        damaged = list(damage(folder, start))
    except (OSError, ValueError):
        what = start.strip("/")
        raise UserError(f"{what} is not in {folder}: make it with `ldm train companions --out {folder}`.") from None
    if damaged:
        cure = "run `git checkout -- ldm_tutorial/weights`, or train it again"
        raise UserError(f"{folder / damaged[0]} is missing or damaged: {cure}.")


def _known(name: str) -> None:
    if name not in COMPANIONS:
        raise UserError(f"There is no companion {name!r}: choose one of {', '.join(COMPANIONS)}.")


def load_companion(name: str, device: str | torch.device | None = None, folder: str | Path = FOLDER) -> nn.Module:
    """A trained companion, in float32, ready for inference: ``AutoencoderKL``, ``UNet2DModel``, ``CLIPModel`` or
    :class:`Generator`.

    Raises:
        UserError: for an unknown name, and for files that are missing or damaged.
    """
    from diffusers import AutoencoderKL, UNet2DModel
    from transformers import CLIPModel
    from transformers.utils import logging

    _known(name)
    _checked(f"{name}/", Path(folder))
    logging.disable_progress_bar()
    path = Path(folder) / name
    if name == "gan":
        model = Generator()
        model.load_state_dict({k: v.float() for k, v in load_file(path / "model.safetensors").items()})
    elif name.startswith("clip"):
        model = CLIPModel.from_pretrained(str(path), dtype=torch.float32)
    else:
        model = (AutoencoderKL if name.startswith("vae") else UNet2DModel).from_pretrained(str(path), torch_dtype=torch.float32)
    if name == "unet-noskips":
        cut_skips(model)
    return model.to(device or default_device()).requires_grad_(False).eval()


def curve(name: str, folder: str | Path = FOLDER) -> dict:
    """How a companion was trained: ``losses`` (at most 200, evenly spaced, each the mean of the steps around it),
    ``seconds`` of one processor core, ``steps``, ``batch``, ``parameters``, ``command`` and a digest of the ``source``.

    Raises:
        UserError: for an unknown name, and when the file is missing or damaged.
    """
    _known(name)
    _checked("curves.json", Path(folder))
    found = json.loads((Path(folder) / "curves.json").read_text(encoding="utf-8"))
    if name not in found:
        raise UserError(f"{name} is not in {folder}: make it with `ldm train companions --out {folder}`.")
    return found[name]


def save_companion(name: str, model: nn.Module, record: dict, folder: str | Path) -> None:
    """Put a companion (fp16) and the record of its training into a folder, whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    half = copy.deepcopy(model).cpu().half()
    if name == "gan":
        save_file(half.state_dict(), scratch / "model.safetensors")
    else:
        half.save_pretrained(scratch, safe_serialization=True)
        if "dtype" in (config := json.loads((scratch / "config.json").read_text())):
            write_json(scratch / "config.json", {**config, "dtype": "float32"})  # loaders compute in float32
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(scratch, folder / name)
    curves = json.loads((folder / "curves.json").read_text()) if (folder / "curves.json").exists() else {}
    write_json(folder / "curves.json", {n: r for n in COMPANIONS if (r := {**curves, name: record}.get(n))})
    seal(folder)


# --- training -------------------------------------------------------------------------------------------------------


class Companions:
    """Trains companions in ``folder`` (checkpoints) into ``out``; ``scale`` multiplies steps and renders, ``vae`` is the
    folder of the autoencoder on whose latents the latent ones learn."""

    def __init__(self, folder: str | Path, out: str | Path, scale: float = 1.0, vae: str | Path = WEIGHTS / "vae"):
        self.folder, self.out, self.scale, self.vae = Path(folder), Path(out), scale, vae
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def data(self):
        from .curios import Curios

        return Curios("train", min(RENDERS, max(256, round(RENDERS * self.scale))), SEED)

    @functools.cached_property
    def latents(self) -> Tensor:
        """Scaled latents [N, 8, 16, 16] of the first 8,192 pictures."""
        from diffusers import AutoencoderKL

        from .curios import to_model

        vae = AutoencoderKL.from_pretrained(str(self.vae), torch_dtype=torch.float32).to(default_device())
        with torch.no_grad():
            parts = [vae.encode(to_model(x).to(vae.device)).latent_dist.mode() for x in self.data.images[:8192].split(64)]
        return torch.cat(parts).cpu() * vae.config.scaling_factor

    def train(self, name: str, progress: bool = True) -> None:
        """Train (or go on with) one companion and put it among the others."""
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
            raise UserError(f"{name} was stopped at step {len(losses)} of {recipe.steps}: the same command goes on from there.")
        every = -(-len(losses) // 200)
        thin = [round(part.mean().item(), 4) for part in torch.as_tensor(losses).split(every)]
        source = digest(*(Path(__file__).with_name(f"{f}.py").read_text() for f in ("companions", "models", "training")))
        record = {"losses": thin, "seconds": round(clock.seconds[-1]), "steps": recipe.steps, "batch": recipe.batch}
        record |= {"parameters": sum(p.numel() for p in model.parameters()), "command": "ldm train companions"}
        save_companion(name, model, {**record, "source": source}, self.out)

    def _fit(self, name: str, loss: nn.Module, draw, recipe: Recipe, options: dict, *learnt_from) -> Tensor:
        from .curios.dataset import _version

        return fit(name, loss, draw, recipe, self.folder, about=digest(_version(), str(self.scale), *learnt_from), **options)

    def _vae(self, name: str, vae: nn.Module, recipe: Recipe, options: dict) -> Tensor:
        from .curios import MATERIALS, to_model

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
        from .curios import OBJECTS, to_model

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
        from .curios import to_model

        scheduler = scheduler_of(name)

        def draw(g):
            n = recipe.batch
            if name == "pixel":
                clean = to_model(self.data.images[torch.randint(len(self.data), (n,), generator=g)])
            else:
                clean = self.latents[torch.randint(len(self.latents), (n,), generator=g)]
            timesteps = torch.randint(scheduler.config.num_train_timesteps, (n,), generator=g)
            return {"clean": clean, "noise": torch.randn(clean.shape, generator=g), "timesteps": timesteps}

        file = Path(self.vae) / "diffusion_pytorch_model.safetensors"
        world = "" if name == "pixel" else sha256(file)
        return self._fit(name, UnconditionalLoss(unet, scheduler), draw, recipe, options, world)

    def _gan(self, name: str, maker: nn.Module, recipe: Recipe, options: dict) -> list[float]:
        """Two optimisers, so a loop of its own; it is checkpointed and resumed as ``fit`` does. Returns the maker's losses."""
        from tqdm.auto import tqdm

        from .curios import to_model

        device = default_device()
        players = {"maker": maker.to(device).train(), "judge": critic().to(device)}
        players |= {f"{k}_adam": torch.optim.Adam(p.parameters(), recipe.lr, betas=(0.5, 0.99)) for k, p in players.items()}
        path, losses = self.folder / "gan.safetensors", []
        if path.exists():
            state = load_file(path)
            losses = state.pop("losses").tolist()
            for key, player in players.items():
                restore(player, {k.removeprefix(f"{key}/"): v for k, v in state.items() if k.startswith(f"{key}/")})
        judge = players["judge"]
        steps = range(len(losses), recipe.steps)
        for step in tqdm(steps, initial=len(losses), total=recipe.steps, desc="train gan", disable=not options["progress"]):
            g = generator(recipe.seed, step)
            real = to_model(self.data.images[torch.randint(len(self.data), (recipe.batch,), generator=g)]).to(device)
            fake = maker(torch.randn(recipe.batch, NOISE, generator=g).to(device))
            doubt = (F.softplus(-judge(real)) + F.softplus(judge(fake.detach()))).mean()  # Goodfellow et al. 2014, eq. 1
            players["judge_adam"].zero_grad()
            doubt.backward()
            players["judge_adam"].step()
            deceit = F.softplus(-judge(fake)).mean()  # the maker maximises log D(G(z)), as their section 3 advises
            players["maker_adam"].zero_grad()
            deceit.backward()
            players["maker_adam"].step()
            losses.append(deceit.item())
            options["on_step"](step, losses[-1])
            if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
                state = {f"{key}/{k}": v.cpu() for key, player in players.items() for k, v in flat(player).items()}
                with whole(path) as scratch:
                    save_file({**state, "losses": torch.tensor(losses, dtype=torch.float64)}, scratch)
        maker.eval()
        return losses


class _Clock:
    """Seconds of one processor core, carried over an interruption (a busy machine does not make them longer)."""

    def __init__(self, path: Path):
        self.path, self.last = path, None
        self.seconds = json.loads(path.read_text()) if path.exists() else []  # after each step

    def __call__(self, step: int, loss: float) -> None:
        now = time.process_time()
        if self.last is None:
            del self.seconds[step:]  # steps after the last checkpoint are made again
        self.seconds.append((self.seconds or [0.0])[-1] + (now - self.last if self.last else 0))
        self.last = now
        if (step + 1) % 10 == 0:
            self.path.write_text(json.dumps([round(s, 2) for s in self.seconds]))


def train_companions(
    folder: str | Path,
    out: str | Path,
    scale: float = 1.0,
    names: list[str] | None = None,
    vae: str | Path = WEIGHTS / "vae",
    progress: bool = True,
) -> Path:
    """Train all companions (or the named ones) with checkpoints in ``folder``, saved in ``out``; interrupt at will.

    Raises:
        UserError: for an unknown name, and when a training was stopped.
    """
    work = Companions(folder, out, scale, vae)
    for name in names or COMPANIONS:
        work.train(name, progress)
    return Path(out)
