"""The judge: a small classifier that learned from renders only. It reads object, material and background off a picture, so
"the prompt was followed" is a measurement and not an impression."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..checkpoints import WEIGHTS
from ..curios import BACKGROUNDS, MATERIALS, OBJECTS
from ..errors import UserError
from ..files import atomic_write, verify_checksums, write_checksums
from ..images import to_model
from ..models import default_device

JUDGE = WEIGHTS.parent / "judge"
FEATURES = 128


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

    def forward(self, images: Tensor, labels: Tensor, corruption: Tensor, noise: Tensor) -> Tensor:
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        images = torch.lerp(images, blurred, corruption[:, 0, None, None, None]) + 0.1 * corruption[:, 1, None, None, None] * noise
        return sum(F.cross_entropy(answer, labels[:, i]) for i, answer in enumerate(self.judge(images)))


def save_judge(judge: Judge, folder: str | Path = JUDGE) -> Path:
    """Write ``judge.safetensors`` (fp16) with its checksum beside it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "judge.safetensors") as scratch:
        save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, scratch)
    write_checksums(folder)
    return folder


def load_judge(folder: str | Path = JUDGE, device: str | torch.device | None = None) -> Judge:
    """The judge, ready to be asked.

    Raises:
        UserError: when it is missing, cut short or altered.
    """
    folder = Path(folder)
    try:
        if verify_checksums(folder):
            raise UserError(f"The judge in {folder} is damaged: get its file again, or make a new one with `ldm train judge`.")
        judge = Judge()
        judge.load_state_dict({k: v.float() for k, v in load_file(folder / "judge.safetensors").items()})
    except UserError:
        raise
    except (OSError, SafetensorError, ValueError, RuntimeError):
        raise UserError(f"There is no judge in {folder}: make one with `ldm train judge`.") from None
    return judge.to(device or default_device()).requires_grad_(False).eval()


@torch.no_grad()
def predict_with_features(judge: Judge, pictures, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, 64, 64, 3] -> (verdicts [B, 3]: indices of object, material, background; features [B, 128])."""
    device = next(judge.parameters()).device
    answers, features = [], []
    for some in torch.as_tensor(pictures).split(batch):
        features.append(judge.features(to_model(some).to(device)))
        answers.append(torch.stack([head(features[-1]).argmax(1) for head in judge.heads], 1).cpu())
    return torch.cat(answers), torch.cat(features).cpu()


def predict(judge: Judge, pictures) -> Tensor:
    """What the judge sees in pictures uint8 [B, 64, 64, 3]: indices [B, 3] into OBJECTS, MATERIALS, BACKGROUNDS."""
    return predict_with_features(judge, pictures)[0]


def labels_of(wanted: list[tuple[str, str, str]]) -> Tensor:
    """Names to indices [N, 3], as :func:`predict` gives them."""
    return torch.tensor([[OBJECTS.index(o), list(MATERIALS).index(m), BACKGROUNDS.index(b)] for o, m, b in wanted])
