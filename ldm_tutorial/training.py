"""One training loop for all models (notebooks 02, 04, 07 and 08 write it out before they use it).

Everything random in step ``k`` is drawn from a generator keyed by (seed, k) for the *whole* batch, and each process takes
its rows of it. So a resumed run continues as if nothing had happened (bit for bit on a CPU with one thread count), and
several processes see what one would have seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .storage.resume import ResumableRun, build_accelerator

SEED = 0


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    ``lr`` is the peak learning rate, ``warmup`` in steps, ``decay`` the share of the steps in which it falls to zero at the
    end; ``ema`` the decay of the exponential moving average of the weights. ``batch`` counts the rows of all processes.
    ``accumulate`` computes a batch in so many parts, one after the other, for less memory: up to rounding, what is learned
    stays the same.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.4
    max_grad_norm: float = 1.0
    ema: float = 0.995
    seed: int = SEED
    accumulate: int = 1

    def lr_at(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, a plateau, linear decay towards zero."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (self.steps - step) / max(1, self.decay * self.steps)
        return self.lr * min(1, rising, falling)


def train_step(
    model: nn.Module, parts: list[dict[str, Tensor]], optimizer: torch.optim.Optimizer, accelerator, max_grad_norm: float
) -> float:
    """One step: the loss of a batch, its gradient, and every parameter a little against it. Returns the loss.

    ``model(**part)`` returns the mean loss of one part of the batch; usually there is one part. ``accelerator`` averages over
    the parts, and over the processes that share the batch. A loss that is not finite teaches nothing: it is only returned.
    """
    optimizer.zero_grad()
    losses = []
    for part in parts:
        loss = model(**part)  # forward pass
        accelerator.backward(loss)  # backward pass: adds to the gradient of every parameter
        losses.append(loss.detach().float())
    value = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
    if math.isfinite(value):
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
    return value


def fit(
    name: str,
    loss: nn.Module,
    sample_batch: Callable[[torch.Generator], dict[str, Tensor]],
    recipe: Recipe,
    folder: str | Path,
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = True,
    data_fingerprint: str = "",
) -> Tensor:
    """Train ``loss`` (a module whose forward returns a scalar) and leave the averaged weights (EMA) in it.

    ``sample_batch(generator)`` makes the whole batch, tensors with ``recipe.batch`` rows. Progress is a bar;
    ``on_step(step, loss)`` is called after each step. The run is saved in ``folder/<name>.pt`` and continues from there.
    Ctrl-C, or a notebook's Stop, ends it after the current step, saved. ``data_fingerprint`` names what it learns from: a
    run that was begun with anything else is refused. Returns the losses so far, those of earlier runs included.

    Under ``accelerate launch`` or ``torchrun`` the processes share each batch, and one of them writes.

    Raises:
        UserError: when the folder holds a run with other settings, the loss is not finite, the folder can't be written, or
            another process has died or does not answer.
    """
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    parts = recipe.accumulate if getattr(loss, "splits", True) else 1
    accelerator = build_accelerator(recipe.batch, parts)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01)
    ema = EMAModel(loss.parameters(), decay=recipe.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    run = ResumableRun(Path(folder) / f"{name}.pt", _settings(name, loss, recipe, data_fingerprint), accelerator)
    run.load(model=loss, optimizer=optimizer, ema=ema)
    model, optimizer = accelerator.prepare(loss, optimizer)
    ema.to(accelerator.device)
    model.train()
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(total=recipe.steps, initial=len(run.losses), desc=f"train {name}", disable=hidden)
    with bar, run:
        for step in range(len(run.losses), recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(step)
            batch = sample_batch(generator(recipe.seed, step))
            value = train_step(model, split_batch(batch, accelerator), optimizer, accelerator, recipe.max_grad_norm)
            run.check_finite(value)
            ema.step(model.parameters())
            bar.update()
            bar.set_postfix(loss=f"{value:.4f}", refresh=False)
            if on_step:
                on_step(step, value)
            if run.after_step(value):
                break
    accelerator.wait_for_everyone()
    ema.copy_to(loss.parameters())
    loss.eval()
    return torch.tensor(run.losses)


def split_batch(batch: dict[str, Tensor], accelerator) -> list[dict[str, Tensor]]:
    """This process's rows of a whole batch, in as many parts as it is computed in, on its device."""
    parts = accelerator.gradient_accumulation_steps
    every = parts * accelerator.num_processes
    first = accelerator.process_index * parts
    rows = []
    for part in range(first, first + parts):
        rows.append({key: values[part::every].to(accelerator.device) for key, values in batch.items()})
    return rows


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, on the CPU so that every machine draws the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def fingerprint(*items: Tensor | str) -> str:
    """Twelve hex digits that change with any of the tensors or texts."""
    total = hashlib.sha256()
    for item in items:
        content = item.encode() if isinstance(item, str) else item.detach().cpu().contiguous().numpy().tobytes()
        total.update(content)
    return total.hexdigest()[:12]


def _settings(name: str, loss: nn.Module, recipe: Recipe, data_fingerprint: str) -> dict:
    """What must be the same for a run to go on: all that changes what is learned."""
    settings = {key: value for key, value in vars(recipe).items() if key != "accumulate"}
    weights = sum(p.numel() for p in loss.parameters())
    return {"name": name, **settings, "weights": weights, "data": data_fingerprint}
