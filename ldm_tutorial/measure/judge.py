"""The judges: two small classifiers that learned from renders only. They read object, material and background off a picture,
so "the prompt was followed" is a measurement and not an impression. The first one counts; the second one, of another
architecture, says how far the first can be trusted on pictures that no renderer made."""

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
    """A small convolutional classifier with three answers: object, material, background (0.8 M parameters)."""

    def __init__(self):
        super().__init__()
        w = 48  # channels

        def block(before: int, after: int, size: int, stride: int) -> nn.Sequential:
            conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
            return nn.Sequential(conv, nn.GroupNorm(8, after), nn.SiLU())

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

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pictures [B, 3, 64, 64] in -1..1 -> logits [B, 18], [B, 16], [B, 8]."""
        features = self.features(images)
        return tuple(head(features) for head in self.heads)


class SecondJudge(Judge):
    """The same three answers from a ResNet (He et al. 2016): residual blocks, batch normalisation and a mean over all places,
    where the first judge has plain convolutions, group normalisation and a linear layer that knows places. It starts at
    32 x 32, not 16 x 16, and subtracts the mean colour of the renders (0.7 M parameters)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self):
        nn.Module.__init__(self)
        from transformers import ResNetConfig, ResNetModel

        widths = [32, 64, 128, 144]
        config = ResNetConfig(embedding_size=32, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic")
        self.body = ResNetModel(config)
        self.heads = nn.ModuleList(nn.Linear(widths[-1], len(names)) for names in (OBJECTS, MATERIALS, BACKGROUNDS))
        # mean and deviation of 8,192 training renders, each colour, in -1..1
        self.register_buffer("mean", torch.tensor([0.369, 0.205, 0.102]).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.448, 0.431, 0.529]).view(3, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] in -1..1 -> [B, 144], the layer before the verdicts."""
        return self.body((images - self.mean) / self.deviation).pooler_output.flatten(1)


class JudgeLoss(nn.Module):
    """Cross-entropy of the three answers. Pictures come shifted, blurred and grainy, so that softness alone misleads nobody."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor, labels: Tensor, corruption: Tensor, noise: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] in -1..1, labels [B, 3], how far each is blurred and how grainy it is [B, 2] from 0 to 1, and
        standard normal noise like the pictures -> the loss."""
        blur, grain = corruption[:, :, None, None, None].unbind(1)  # each [B, 1, 1, 1]
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        images = torch.lerp(images, blurred, blur) + 0.1 * grain * noise
        answers = self.judge(images)
        return torch.stack([F.cross_entropy(answer, labels[:, i]) for i, answer in enumerate(answers)]).sum()


JUDGES = {"judge": Judge, "second": SecondJudge}


def save_judge(judge: Judge, folder: str | Path = JUDGE, name: str = "judge") -> Path:
    """Write ``<name>.safetensors`` (fp16) and the checksums of the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = judge.state_dict().items()
    tensors = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in state}
    with atomic_write(folder / f"{name}.safetensors") as scratch:
        save_file(tensors, scratch)
    write_checksums(folder)
    return folder


def load_judge(name: str = "judge", folder: str | Path = JUDGE, device: str | torch.device | None = None) -> Judge:
    """A judge, ready to be asked: "judge", the one that counts, or "second".

    Raises:
        UserError: when it is missing, cut short or altered.
    """
    folder = Path(folder)
    try:
        damaged = verify_checksums(folder, name)
        judge = JUDGES[name]()
        if not damaged:
            judge.load_state_dict(load_file(folder / f"{name}.safetensors"))
    except (OSError, SafetensorError, ValueError, RuntimeError):
        raise UserError(f"There is no judge in {folder}: make one with `ldm train judge`.") from None
    if damaged:
        raise UserError(f"The judge in {folder} is damaged: get its file again, or make a new one with `ldm train judge`.")
    return judge.to(device or default_device()).requires_grad_(False).eval()


@torch.no_grad()
def predict_with_features(judge: Judge, pictures, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [B, 64, 64, 3] -> (verdicts [B, 3]: indices of object, material, background; features [B, 128])."""
    device = next(judge.parameters()).device
    answers, features = [], []
    for some in torch.as_tensor(pictures).split(batch):
        seen = judge.features(to_model(some).to(device))
        features.append(seen.cpu())
        answers.append(torch.stack([head(seen).argmax(1) for head in judge.heads], 1).cpu())
    return torch.cat(answers), torch.cat(features)


def predict(judge: Judge, pictures) -> Tensor:
    """What the judge sees in pictures uint8 [B, 64, 64, 3]: indices [B, 3] into OBJECTS, MATERIALS, BACKGROUNDS."""
    return predict_with_features(judge, pictures)[0]


def labels_of(wanted: list[tuple[str, str, str]]) -> Tensor:
    """Names to indices [N, 3], as :func:`predict` gives them."""
    return torch.tensor([[OBJECTS.index(o), list(MATERIALS).index(m), BACKGROUNDS.index(b)] for o, m, b in wanted])


def names_of(verdicts: Tensor) -> list[tuple[str, str, str]]:
    """Indices [N, 3] to names, the reverse of :func:`labels_of`."""
    materials = list(MATERIALS)
    return [(OBJECTS[o], materials[m], BACKGROUNDS[b]) for o, m, b in verdicts.tolist()]
