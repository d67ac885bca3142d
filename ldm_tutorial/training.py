"""One training loop for all models, and the recipe that trains the three of them from nothing.

Everything random in step ``k`` is drawn from a generator keyed by (seed, k) for the *global* batch, and each process takes
its rows of it. So a resumed run continues as if nothing had happened (bit for bit on a CPU with one thread count),
and several processes see what one would have seen.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import UserError
from .files import whole
from .models import Models, build_clip, build_scheduler, build_unet, build_vae, default_device, profile, save_models

SEED = 0


@dataclass(frozen=True)
class Recipe:
    """steps, batch size (over all processes), peak learning rate; warm-up in steps, share of steps of the linear decay at
    the end, gradient-norm limit, decay of the exponential moving average of the weights (EMA)."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.4
    clip: float = 1.0
    ema: float = 0.995
    seed: int = SEED

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, a plateau, linear decay towards zero."""
        return self.lr * min(1, (step + 1) / self.warmup, (self.steps - step) / (self.decay * self.steps))


# --- what each model is asked to do: a module that holds the model and returns the loss -------------------------------


class VAELoss(nn.Module):
    """|x - x'| + (x - x')^2 + weight * KL(q(z|x) || N(0, 1)) (Kingma and Welling 2014, eq. 10, with its appendix B).

    ``edge_weight`` adds the mean absolute error of the differences between neighbouring pixels, along both axes (compare
    Mathieu, Couprie and LeCun 2016, eq. 6): textures are learned sooner (benchmarks/training.md)."""

    def __init__(self, vae: nn.Module, kl_weight: float = 1e-6, edge_weight: float = 0.0):
        super().__init__()
        self.vae, self.kl_weight, self.edge_weight = vae, kl_weight, edge_weight

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise  # the reparameterisation
        error = self.vae.decode(latents).sample - images
        loss = error.abs().mean() + error.square().mean() + self.kl_weight * posterior.kl().mean()
        if self.edge_weight:
            loss = loss + self.edge_weight * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
        return loss


class CLIPLoss(nn.Module):
    """Symmetric cross-entropy over the matrix of matches (Radford et al. 2021, figure 3), gathered from all processes."""

    splits = False  # the matrix needs the whole batch at once

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, input_ids: Tensor) -> Tensor:
        out = self.clip(input_ids=input_ids, pixel_values=images)
        image, text = out.image_embeds, out.text_embeds  # [B, 128], of length 1
        if dist.is_initialized():
            from torch.distributed.nn.functional import all_gather

            image, text = torch.cat(all_gather(image)), torch.cat(all_gather(text))
        with torch.autocast(image.device.type, enabled=False):  # times 100, bfloat16's rounding would be half a unit
            logits = self.clip.logit_scale.exp().clamp(max=100) * image.float() @ text.float().T
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class DiffusionLoss(nn.Module):
    """Mean squared error of the U-Net's prediction of v = sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho 2022).

    The text comes as ``encoder_hidden_states`` [B, 77, 128], or as ``input_ids`` [B, 77] of a ``text_encoder`` that learns too.
    """

    def __init__(self, unet: nn.Module, scheduler, text_encoder: nn.Module | None = None):
        super().__init__()
        self.unet, self.scheduler, self.text_encoder = unet, scheduler, text_encoder

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, encoder_hidden_states=None, input_ids=None) -> Tensor:
        if self.text_encoder is not None:
            encoder_hidden_states = self.text_encoder(input_ids)[0]
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps, encoder_hidden_states).sample, target)


# --- the loop -----------------------------------------------------------------------------------------------------


def digest(*items: Tensor | str) -> str:
    """Twelve hex digits that change with any of the tensors or texts."""
    total = hashlib.sha256()
    for item in items:
        total.update(item.encode() if isinstance(item, str) else item.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:12]


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, on the CPU so that every machine draws the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def fit(
    name: str,
    loss: nn.Module,
    draw: Callable[[torch.Generator], dict[str, Tensor]],
    recipe: Recipe,
    folder: str | Path,
    progress: bool = True,
    save_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
    about: str = "",
    accumulate: int = 1,
    cpu_bfloat16: bool = False,
) -> Tensor:
    """Train ``loss`` (a module whose forward returns a scalar) and leave the averaged weights in it.

    ``draw(generator)`` makes the global batch, tensors with ``recipe.batch`` rows. Progress is a bar, ``on_step(step,
    loss)`` is called after each step. The run checkpoints to ``folder/<name>.safetensors`` and continues from there;
    interrupting it (Ctrl-C, a notebook's Stop) ends it after the current step, saved. ``about`` names what it learns from:
    a checkpoint of anything else is refused. Returns the losses so far, earlier runs' included.

    Under ``accelerate launch`` or ``torchrun`` the processes share each batch; one of them writes. ``accumulate`` computes a
    process's share in so many parts, one after the other, for less memory (not for CLIP, whose loss needs the batch whole).
    Neither changes what is learned. Precision: what accelerate is told to use, else bfloat16 on GPUs that have it, and with
    ``cpu_bfloat16`` on CPUs that have it (:func:`cpu_has_bfloat16`).

    Raises:
        UserError: when the folder holds a run with other settings, the loss is not finite, the folder can't be written, or
            another process has died.
    """
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    native_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    default_device()  # before the Accelerator, which would not see that several processes on a CPU belong together
    told = "ACCELERATE_MIXED_PRECISION" in os.environ  # by accelerate launch: its flag or its configuration
    precision = None if told else "bf16" if native_bf16 else "no"
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate)
    parts = accelerator.gradient_accumulation_steps if getattr(loss, "splits", True) else 1
    accelerator.gradient_accumulation_steps = parts
    rank, world = accelerator.process_index, accelerator.num_processes
    lower = cpu_bfloat16 and not told and accelerator.device.type == "cpu" and cpu_has_bfloat16()
    precise = _cpu_bfloat16 if lower else accelerator.autocast
    if recipe.batch % (world * parts):
        share = f"{world} processes" + (f" in {parts} parts each" if parts > 1 else "")
        raise UserError(f"A batch of {recipe.batch} can't be shared by {share}: choose a number that divides it.")
    optimizer = torch.optim.AdamW(loss.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01)
    ema = EMAModel(loss.parameters(), decay=recipe.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    path = Path(folder) / f"{name}.safetensors"
    settings = json.dumps(
        {"name": name, **asdict(recipe), "weights": sum(p.numel() for p in loss.parameters()), "about": about}
    )
    losses = _load(path, settings, loss, optimizer, ema)
    model, optimizer = accelerator.prepare(loss, optimizer)
    ema.to(accelerator.device)

    def save() -> None:
        if accelerator.is_main_process:
            _save(path, settings, losses, accelerator.unwrap_model(model), optimizer.optimizer, ema)

    model.train()
    bar = tqdm(
        total=recipe.steps,
        initial=len(losses),
        desc=f"train {name}",
        disable=not (progress and accelerator.is_main_process),
    )
    with _interrupt_noted() as interrupted, _others_alive(name, path, world), bar:
        for step in range(len(losses), recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            batch, values = draw(generator(recipe.seed, step)), []
            for part in range(parts):
                first = rank * parts + part
                rows = {k: v[first :: world * parts].to(accelerator.device) for k, v in batch.items()}
                # gradients go round among the processes once a step, with the last part
                with accelerator.no_sync(model) if part + 1 < parts else nullcontext():
                    with precise():
                        value = model(**rows)
                    accelerator.backward(value)  # a mean over the parts
                values.append(value.detach().float())
            number = accelerator.reduce(torch.stack(values).mean(), "mean").item()
            if not math.isfinite(number):
                kept = f"the last good state is in {path}; " if path.exists() else ""
                raise UserError(
                    f"The loss of {name} is no longer a number at step {step}: {kept}lower the learning rate (now {recipe.lr}) "
                    "and start again in another folder."
                )
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(model.parameters())
            losses.append(number)
            bar.update()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{sum(losses[-10:]) / len(losses[-10:]):.4f}")
            if on_step:
                on_step(step, number)
            stop = bool(interrupted)
            if world > 1:  # all processes stop after the same step
                stop = accelerator.reduce(torch.tensor(float(stop), device=accelerator.device), "sum").item() > 0
            if (step + 1) % save_every == 0 or step + 1 == recipe.steps or stop:
                save()
            if stop:
                break
    accelerator.wait_for_everyone()
    ema.copy_to(loss.parameters())
    loss.eval()
    return torch.tensor(losses)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 by itself (AVX512-BF16, AMX): elsewhere it would only be slower."""
    asked = (getattr(torch.cpu, f"_is_{units}_supported", None) for units in ("avx512_bf16", "amx_tile"))
    return any(ask() for ask in asked if ask)


@contextmanager
def _cpu_bfloat16():
    """Convolutions and products in bfloat16. Attention as plain products: its fused kernel's way back is slow in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _others_alive(name: str, path: Path, world: int):
    """Say what happened when a call that all processes make together fails because one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        kept = f"the last saved state is in {path}" if path.exists() else "nothing was saved yet"
        raise UserError(
            f"Another of the {world} processes that train {name} has ended: {kept}; the same command goes on from there, "
            "with any number of processes."
        ) from None


@contextmanager
def _interrupt_noted():
    """Let Ctrl-C, a notebook's Stop, or a cluster's SIGTERM wait for the end of a step: yields a list that is no longer
    empty after it."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread may handle signals
        return

    def note(number, _):
        noted.append(number)
        signal.signal(number, before[number])  # a second one interrupts at once

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def flat(part: nn.Module | torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of a model or an optimizer as tensors by name: what safetensors can hold."""
    state = part.state_dict()
    if isinstance(part, nn.Module):
        return state
    return {f"{i}/{k}": torch.as_tensor(v) for i, values in state["state"].items() for k, v in values.items()}


def restore(part: nn.Module | torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The way back from :func:`flat`."""
    if isinstance(part, nn.Module):
        part.load_state_dict(tensors)
        return
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        i, name = key.split("/")
        state.setdefault(int(i), {})[name] = value
    part.load_state_dict({**part.state_dict(), "state": state})


def _save(path: Path, settings: str, losses: list[float], loss: nn.Module, optimizer, ema) -> None:
    tensors = {f"model/{k}": v for k, v in loss.state_dict().items()}
    tensors |= {f"ema/{i}": v for i, v in enumerate(ema.shadow_params)}
    tensors |= {f"optimizer/{k}": v for k, v in flat(optimizer).items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as scratch:
            save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, scratch, {"settings": settings})
    except (OSError, SafetensorError) as error:
        advice = "free some space or choose another folder; the last saved state is kept"
        raise UserError(f"Can't save the training state to {path} ({error}): {advice}.") from None


def _load(path: Path, settings: str, loss: nn.Module, optimizer, ema) -> list[float]:
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as f:
            found = f.metadata()["settings"]
        tensors = load_file(path)
    except (OSError, SafetensorError, KeyError, TypeError):
        raise UserError(f"{path} is damaged and can't be resumed: delete it to start this part again.") from None
    if found != settings:
        raise UserError(f"{path} belongs to a run with other settings: choose another folder, or delete it to start again.")
    loss.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
    ema.shadow_params = [tensors[f"ema/{i}"] for i in range(len(ema.shadow_params))]
    restore(optimizer, {k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")})
    ema.optimization_step = len(tensors["losses"])
    return tensors["losses"].tolist()


# --- from nothing to a picture ----------------------------------------------------------------------------------------


class Run:
    """One training of all three models in a folder; each part is made once, from the parts before it, and kept there.

    ``scale`` multiplies the profile's steps. It learns from Curios, or from the pictures of ``source``
    (:class:`data.Pictures`), at ``resolution`` or the profile's. Use ``part("vae")``, ``part("clip")``, ``part("unet")`` or
    ``finish(out)``.
    """

    def __init__(
        self,
        folder: str | Path,
        profile_name: str | None = None,
        scale: float = 1.0,
        progress: bool = True,
        source: str | Path | None = None,
        resolution: int | None = None,
        accumulate: int = 1,
    ):
        self.name, self.profile = profile(profile_name)
        self.folder, self.scale, self.progress = Path(folder), scale, progress
        self.source, self.accumulate = source, accumulate
        self.resolution = resolution or self.profile.resolution
        self._data = self._tokenizer = None
        self._parts: dict[str, nn.Module] = {}

    def recipe(self, part: str) -> Recipe:
        steps, batch, lr = getattr(self.profile, part)
        if self.source is not None and part == "clip":  # no picture twice in a batch: it would be its own wrong answer
            batch = min(batch, len(self.data) // 16 * 16)
        return Recipe(max(1, round(steps * self.scale)), batch, lr)

    @property
    def data(self):
        if self._data is None:
            from accelerate import PartialState

            from .curios import Curios
            from .data import Pictures

            default_device()  # gives each process its own GPU before anything is rendered
            self.progress &= PartialState().is_main_process
            if self.source is None:
                self._data = Curios("train", self.profile.renders, SEED, self.resolution, self.progress)
            else:
                self._data = Pictures(self.source, self.resolution, self.folder, SEED, self.progress)
        return self._data

    @property
    def tokenizer(self):
        if self._tokenizer is None:
            from accelerate import PartialState
            from transformers import CLIPTokenizer

            from .curios import scene_at
            from .tokenizer import train_tokenizer

            path = self.folder / "tokenizer"
            default_device()
            with PartialState().main_process_first():  # the others find it
                if not path.exists():
                    own = self.source is not None
                    texts = self.data.captions if own else [scene_at("train", i, SEED)[1] for i in range(4000)]
                    scratch = path.with_suffix(f".{os.getpid()}.part")
                    train_tokenizer(texts).save_pretrained(scratch)
                    os.replace(scratch, path)
            self._tokenizer = CLIPTokenizer.from_pretrained(path)
        return self._tokenizer

    def part(self, name: str, **options) -> nn.Module:
        """Train (or continue, or just load) one part; ``options`` go to :func:`fit` (``on_step``, ``save_every``).

        Raises:
            UserError: for an unknown name.
        """
        if name not in ("vae", "clip", "unet", "judge"):
            raise UserError(f"There is no part {name!r} to train: choose vae, clip, unet, judge, companions or all.")
        if name not in self._parts:
            torch.manual_seed(SEED)  # initial weights
            self._parts[name] = getattr(self, f"_{name}")(self.recipe(name), options)
        return self._parts[name]

    def _fit(self, name: str, loss: nn.Module, draw, recipe: Recipe, options: dict) -> Tensor:
        options = {"accumulate": self.accumulate, "cpu_bfloat16": name in ("vae", "unet"), **options}
        losses = fit(name, loss, draw, recipe, self.folder, self.progress, about=self.origin(name), **options)
        if len(losses) < recipe.steps:
            raise UserError(f"{name} was stopped at step {len(losses)} of {recipe.steps}: the same command goes on from there.")
        return losses

    def origin(self, name: str) -> str:
        """A digest of what a part learns from: the world and its captions; for the U-Net the two models before it."""
        if name == "unet":
            return digest(*self.part("vae").state_dict().values(), *self.part("clip").state_dict().values())
        if name in ("vae", "judge"):
            return digest(self.data.images)
        return digest(self.data.images, json.dumps([self.data.captions, sorted(self.tokenizer.get_vocab().items())]))

    def _vae(self, recipe: Recipe, options: dict) -> nn.Module:
        from .curios import to_model

        vae = build_vae(self.profile.latent_channels, resolution=self.resolution).to(memory_format=torch.channels_last)
        images = self.data.images
        size = (vae.config.latent_channels, images.shape[1] // 4, images.shape[2] // 4)

        def draw(g):
            chosen = torch.randint(len(images), (recipe.batch,), generator=g)
            return {"images": to_model(images[chosen]), "noise": torch.randn(recipe.batch, *size, generator=g)}

        # The error is a mean over the picture, not a sum: even 1e-6 lets channels of the latents die (benchmarks/training.md).
        self._fit("vae", VAELoss(vae, kl_weight=1e-7, edge_weight=2.0), draw, recipe, options)
        with torch.no_grad():  # latents of variance 1, so that noise of variance 1 fits them
            some = [to_model(images[i : i + 64]).to(vae.device) for i in range(0, min(1024, len(images)), 64)]
            sample = torch.cat([vae.encode(x).latent_dist.mean for x in some])
        vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 4))
        return vae

    def _clip(self, recipe: Recipe, options: dict) -> nn.Module:
        from .curios import to_model

        clip = build_clip(self.tokenizer, resolution=self.resolution)
        images = self.data.images
        ids = self.tokenizer(self.data.captions, padding="longest", truncation=True, return_tensors="pt").input_ids

        def draw(g):
            if self.source is None:
                chosen = torch.randint(len(images), (recipe.batch,), generator=g)
            else:
                chosen = torch.randperm(len(images), generator=g)[: recipe.batch]
            return {"images": to_model(images[chosen]), "input_ids": ids[chosen]}

        self._fit("clip", CLIPLoss(clip), draw, recipe, options)
        return clip

    def _unet(self, recipe: Recipe, options: dict) -> nn.Module:
        """Learns together with its text encoder, which starts as the text half of CLIP: frozen, it is worse at unseen pairs."""
        unet = build_unet(self.profile.latent_channels, self.profile.unet_channels, sample_size=self.resolution // 4)
        models = self.models(unet=unet).to(default_device())
        latents, data = self.latents(models), self.data
        for part in (models.unet, models.text_encoder):
            part.requires_grad_(True)

        def words(i: int, rng: random.Random) -> str:
            if rng.random() < 0.1:
                return ""  # caption dropout: what guidance needs
            return data.wording(i, rng)

        def draw(g):
            n = recipe.batch
            chosen = torch.randint(len(latents), (n,), generator=g)
            noise = torch.randn(n, *latents.shape[1:], generator=g)
            timesteps = torch.randint(models.scheduler.config.num_train_timesteps, (n,), generator=g)
            rng = random.Random(torch.randint(2**31, (1,), generator=g).item())
            ids = models.tokenize([words(i, rng) for i in chosen.tolist()])
            return {"latents": latents[chosen], "noise": noise, "timesteps": timesteps, "input_ids": ids}

        self._fit("unet", DiffusionLoss(models.unet, models.scheduler, models.text_encoder), draw, recipe, options)
        self._parts["text_encoder"] = models.text_encoder
        return models.unet

    def _judge(self, recipe: Recipe, options: dict) -> nn.Module:
        """Learns from renders of all pairs, 64 x 64: the training pictures, and as many of each held-out pair."""
        from .curios import Curios, pairs
        from .evaluation import Judge, JudgeLoss

        judge, seen = Judge(), Curios("train", len(self.data), SEED, progress=self.progress)
        rest = Curios("held_out", len(seen) * len(pairs("held_out")) // len(pairs("train")), SEED, progress=self.progress)
        images = torch.cat([seen.images, rest.images])
        labels = torch.cat([torch.stack([d.objects, d.materials, d.backgrounds], 1) for d in (seen, rest)])

        def draw(g):
            from .curios import to_model

            chosen = torch.randint(len(images), (recipe.batch,), generator=g)
            x, n = to_model(images[chosen]), recipe.batch
            spoil, grain = torch.rand(n, 2, generator=g) ** 2, torch.randn(x.shape, generator=g)
            dx, dy = torch.randint(-2, 3, (2,), generator=g).tolist()
            return {"images": x.roll((dx, dy), (2, 3)), "labels": labels[chosen], "spoil": spoil, "grain": grain}

        self._fit("judge", JudgeLoss(judge), draw, recipe, options)
        return judge

    def models(self, unet: nn.Module | None = None) -> Models:
        """The parts joined; around a new ``unet``, the text encoder is the text half of CLIP."""
        from transformers import CLIPTextModel

        vae, clip = self.part("vae"), self.part("clip")
        if unet is None:
            unet = self.part("unet")
            return Models(vae, unet, self._parts["text_encoder"], self.tokenizer, build_scheduler())
        text_encoder = CLIPTextModel(clip.config.text_config)
        half = clip.text_model.state_dict()
        text_encoder.load_state_dict({k: half[k.removeprefix("text_model.")] for k in text_encoder.state_dict()})
        return Models(vae, unet, text_encoder.eval(), self.tokenizer, build_scheduler())

    @torch.no_grad()
    def latents(self, models: Models) -> Tensor:
        """Latents [N, 8, 16, 16] of all training pictures: computed once and cached in the run's folder."""
        from accelerate import PartialState
        from tqdm.auto import tqdm

        from .curios import to_model

        n, path, origin = len(self.data), self.folder / "latents.safetensors", self.origin("unet")
        try:
            with safe_open(path, "pt") as f:
                if f.metadata()["origin"] == origin:
                    return f.get_tensor("latents")
        except (OSError, SafetensorError, KeyError, TypeError):
            pass  # absent or damaged: compute it again
        chunks = tqdm(range(0, n, 128), desc="encode", disable=not self.progress)
        latents = torch.cat([models.encode(to_model(self.data.images[i : i + 128])).cpu() for i in chunks]).contiguous()
        if PartialState().is_main_process:
            with whole(path) as scratch:
                save_file({"latents": latents}, scratch, {"origin": origin})
        return latents

    def finish(self, out: str | Path) -> Path:
        """Train whatever is missing and write the folder that plain diffusers loads (one process writes); of own pictures
        also ``evaluation.html`` and ``evaluation.json`` in it."""
        from accelerate import PartialState

        models, clip = self.models(), self.part("clip")
        PartialState().wait_for_everyone()  # the others are done then
        if PartialState().is_main_process:
            save_models(models, out, clip)
            if self.source is not None:
                from .page import write_evaluation

                steps = {part: self.recipe(part).steps for part in ("vae", "clip", "unet")}
                write_evaluation(out, self.data, steps, self.progress)
        return Path(out)
