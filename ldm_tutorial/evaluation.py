"""How good is a model? A judge that learned from renders only, and every number of the model card from it.

The judge reads object, material and background off a picture, so "the prompt was followed" is a verdict and not an
impression. Fréchet distance: Heusel et al. 2017, eq. 6, in the judge's features instead of Inception's.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .curios import BACKGROUNDS, MATERIALS, OBJECTS, to_model
from .errors import UserError
from .models import default_device

JUDGE = Path(__file__).parent / "weights" / "judge"
FEATURES = 128


# --- small measures -------------------------------------------------------------------------------------------------


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB of pictures [B, C, H, W] in -1..1: 20 dB is a tenth of the range off, 40 dB a hundredth."""
    error = ((images - others.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp(min=1e-10).log10()


def interval(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a rate (Wilson 1927): where the true rate lies, as far as ``hits`` of ``n`` can tell."""
    from scipy.stats import binomtest

    found = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


class _Given(nn.Module):
    """Tells torchmetrics that what it gets are features already."""

    num_features = FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance between two sets of features [N, D] and [M, D], each seen as one Gaussian; 0 for equal sets. It grows as
    the sets get smaller: compare only figures from equal numbers of pictures."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    given = _Given()
    given.num_features = a.shape[1]
    metric = FrechetInceptionDistance(feature=given).set_dtype(torch.float64)
    metric.update(a.double().cpu(), real=True)
    metric.update(b.double().cpu(), real=False)
    return max(0.0, metric.compute().item())


# --- the judge ------------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """A small convolutional classifier with three answers: object, material, background (0.6 M parameters)."""

    def __init__(self, width: int = 48):
        super().__init__()

        def block(before: int, after: int, size: int, stride: int) -> nn.Sequential:
            conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
            return nn.Sequential(conv, nn.GroupNorm(8, after), nn.SiLU())

        w = width
        self.body = nn.Sequential(
            block(3, w, 7, 4),  # 16 x 16
            block(w, w, 3, 1),
            block(w, 2 * w, 3, 2),  # 8 x 8
            block(2 * w, 2 * w, 3, 1),
            block(2 * w, 3 * w, 3, 2),  # 4 x 4
            block(3 * w, 3 * w, 3, 1),
            nn.Flatten(),
            nn.Linear(16 * 3 * w, FEATURES),
            nn.SiLU(),
        )
        self.heads = nn.ModuleList(nn.Linear(FEATURES, len(names)) for names in (OBJECTS, MATERIALS, BACKGROUNDS))

    def features(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] in -1..1 -> [B, 128], the layer before the verdicts."""
        return self.body(images)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, 3, 64, 64] in -1..1 -> logits [B, 18], [B, 16], [B, 8]."""
        features = self.features(images)
        return tuple(head(features) for head in self.heads)


class JudgeLoss(nn.Module):
    """Cross-entropy of the three answers. Pictures come shifted, blurred and grainy, so that softness alone misleads nobody."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor, labels: Tensor, spoil: Tensor, grain: Tensor) -> Tensor:
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        images = torch.lerp(images, blurred, spoil[:, 0, None, None, None]) + 0.1 * spoil[:, 1, None, None, None] * grain
        return sum(F.cross_entropy(answer, labels[:, i]) for i, answer in enumerate(self.judge(images)))


def save_judge(judge: Judge, folder: str | Path = JUDGE) -> Path:
    """Write ``judge.safetensors`` (fp16) with its checksum beside it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{os.getpid()}.part"
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, scratch)
    os.replace(scratch, folder / "judge.safetensors")
    sums = {"judge.safetensors": hashlib.sha256((folder / "judge.safetensors").read_bytes()).hexdigest()}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n")
    return folder


def load_judge(folder: str | Path = JUDGE, device: str | torch.device | None = None) -> Judge:
    """The judge, ready to be asked.

    Raises:
        UserError: when it is missing, cut short or altered.
    """
    file = Path(folder) / "judge.safetensors"
    try:
        wanted = json.loads((Path(folder) / "checksums.json").read_text())[file.name]
        if hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
            raise UserError(f"{file} is damaged: get the file again, or make a new judge with `ldm train judge`.")
        judge = Judge()
        judge.load_state_dict({k: v.float() for k, v in load_file(file).items()})
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"There is no judge in {folder}: make one with `ldm train judge`.") from None
    return judge.to(device or default_device()).requires_grad_(False).eval()


@torch.no_grad()
def examine(judge: Judge, pictures, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, 64, 64, 3] -> (verdicts [B, 3]: indices of object, material, background; features [B, 128])."""
    device = next(judge.parameters()).device
    answers, features = [], []
    for some in torch.as_tensor(pictures).split(batch):
        features.append(judge.features(to_model(some).to(device)))
        answers.append(torch.stack([head(features[-1]).argmax(1) for head in judge.heads], 1).cpu())
    return torch.cat(answers), torch.cat(features).cpu()


def verdicts(judge: Judge, pictures) -> Tensor:
    """What the judge sees in pictures uint8 [B, 64, 64, 3]: indices [B, 3] into OBJECTS, MATERIALS, BACKGROUNDS."""
    return examine(judge, pictures)[0]
