"""Mistakes with a GPU, found without one: tensors that say "cuda" and hold nothing refuse to be mixed with those of the CPU.

torch's ``FakeTensorMode`` makes them. What lies on the CPU alone (a scheduler's timesteps, random streams) is really
computed, so that whatever depends on numbers goes on; a value read from the fake GPU stops the test.
"""

import json
import re
from contextlib import contextmanager, nullcontext

import diffusers
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextModel

from ldm_tutorial.attention import enlarge, record_attention, record_inputs, word_attention, word_change
from ldm_tutorial.autoencoder import VAELoss, build_vae
from ldm_tutorial.clip import CLIPLoss, build_clip, embed_images, embed_texts
from ldm_tutorial.diffusion import DiffusionLoss, build_scheduler, build_unet
from ldm_tutorial.editing import edit_latents
from ldm_tutorial.models import Models
from ldm_tutorial.sampling import SAMPLERS, decode_quickly, generators, sample_latents
from tests.places import Places
from tests.run import find_notebooks
from tests.test_schedulers import WHOLE

PROMPTS, SEEDS = ["a golden mug", "a duck"], [1, 2]
FEW = {"steps": 2, "progress": False}


class RealOnTheCPU(TorchDispatchMode):
    """Operations that touch no other device are really done. Elsewhere nothing is in double precision: Apple has none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = tree_leaves((args, kwargs))
        elsewhere = [x for x in found if isinstance(x, torch.device) and x.type != "cpu"]
        if elsewhere or any(isinstance(x, FakeTensor) for x in found):
            made = function(*args, **kwargs)
            for x in tree_leaves(made):
                if isinstance(x, FakeTensor) and x.device.type != "cpu" and x.dtype == torch.float64:
                    raise TypeError("Cannot convert a MPS Tensor to float64 dtype")  # as torch says it there
            return made
        with unset_fake_temporarily():
            return function(*args, **kwargs)


@contextmanager
def fake(device: str):
    """While it lasts, tensors on ``device`` are fake."""
    with FakeTensorMode(allow_non_fake_inputs=True), RealOnTheCPU():
        yield torch.device(device)


def build(tokenizer, device: torch.device):
    """(Models, CLIPModel) on the device: small, and of no values."""
    with device:
        clip = build_clip(tokenizer, width=32, text_layers=1, vision_layers=1)
        networks = build_vae(channels=(8, 8, 16)), build_unet(channels=(16, 32), text_width=32)
        text_encoder = CLIPTextModel(clip.config.text_config)
    return Models(*networks, text_encoder, tokenizer, build_scheduler()), clip


@pytest.fixture
def gpu(tokenizer):
    """(Models, CLIPModel) on a GPU that is not there."""
    with fake("cuda") as device:
        yield build(tokenizer, device)


def on_gpu(found: torch.Tensor, *shape: int) -> bool:
    return found.device.type == "cuda" and tuple(found.shape) == shape


def test_the_control(gpu):
    models, _ = gpu
    with pytest.raises(RuntimeError, match="two devices"):
        models.unet(torch.zeros(2, 8, 16, 16), 5, torch.zeros(2, 77, 32))
    with pytest.raises(RuntimeError, match="same device|two devices"):
        models.encode_text(PROMPTS) + torch.zeros(2, 77, 32)
    assert torch.ones(3).sum().item() == 3  # what is on the CPU has values
    with pytest.raises(TypeError, match="float64"):
        models.encode_text(PROMPTS).double()


def test_encode_decode_and_text(gpu):
    models, clip = gpu
    images = torch.zeros(2, 3, 64, 64)
    assert on_gpu(models.encode(images), 2, 8, 16, 16)
    assert on_gpu(models.encode(images, generators(SEEDS)), 2, 8, 16, 16)
    assert on_gpu(models.encode_text(PROMPTS), 2, 77, 32)
    assert on_gpu(models.decode(torch.zeros(2, 8, 16, 16)), 2, 3, 64, 64)
    assert on_gpu(decode_quickly(models, models.encode(images)), 2, 3, 64, 64)
    for vectors in (embed_texts(clip, models.tokenizer, PROMPTS), embed_images(clip, images)):
        assert vectors.device.type == "cpu" and vectors.shape == (2, 128)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "own"])
def test_sampling_and_editing(gpu, sampler):
    models, _ = gpu
    sampling = {"sampler": sampler, "negative_prompt": "a bat", "guidance_interval": (0.0, 0.5), **FEW}
    start = torch.zeros(2, 8, 16, 16)
    assert on_gpu(sample_latents(models, PROMPTS, SEEDS, latents=start, **sampling), 2, 8, 16, 16)
    images = np.zeros((2, 64, 64, 3), np.uint8)
    masks = np.ones((2, 64, 64), bool)
    assert on_gpu(edit_latents(models, images, PROMPTS, SEEDS, 0.7, **sampling), 2, 8, 16, 16)
    assert on_gpu(edit_latents(models, images, PROMPTS, SEEDS, 1.0, masks=masks, **sampling), 2, 8, 16, 16)


@pytest.mark.parametrize("name", ["PNDM", "EulerAncestralDiscrete", *(pytest.param(n, marks=pytest.mark.slow) for n in WHOLE)])
def test_schedulers_of_checkpoints(gpu, name):
    models, _ = gpu
    models.scheduler = getattr(diffusers, f"{name}Scheduler")()
    few = {"steps": 4, "sampler": "own", "guidance_scale": 1.0, "progress": False}
    assert on_gpu(sample_latents(models, PROMPTS[:1], [1], **few), 1, 8, 16, 16)
    if name in ("CMStochasticIterative", "CogVideoXDDIM", "DPMSolverMultistepInverse"):
        return  # adding noise: in double precision but on "mps", in double precision (it is for videos), by a number on the GPU
    images, masks = np.zeros((1, 64, 64, 3), np.uint8), np.ones((1, 64, 64), bool)
    assert on_gpu(edit_latents(models, images, PROMPTS[:1], [1], 0.7, masks=masks, **few), 1, 8, 16, 16)


def test_maps_of_words(gpu):
    models, _ = gpu
    with record_attention(models.unet) as maps:
        sample_latents(models, PROMPTS, SEEDS, **FEW)
    attention = maps["mid_block.attentions.0.transformer_blocks.0.attn2"][-1][-2:]
    assert enlarge(word_attention(attention, [[1], [2]]).mean(1)).shape == (2, 64, 64)
    with record_inputs(models.unet) as inputs:
        sample_latents(models, PROMPTS[:1], SEEDS[:1], **FEW)
    assert word_change(models, PROMPTS[0], "mug", inputs).shape == (64, 64)


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_losses(tokenizer, device, monkeypatch):
    """Forward on a GPU that is not there; backward, for which torch asks the driver, on the device "meta", as strict."""
    with fake(device) as place:
        models, clip = build(tokenizer, place)
        with place:
            images, latents = torch.zeros(2, 3, 64, 64), torch.zeros(2, 8, 16, 16)
            ids = torch.zeros(2, 77, dtype=torch.long)
            timesteps = torch.tensor([3, 500])
        if device == "meta":  # no device that can compute
            monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        losses = {
            "vae": VAELoss(models.vae, edge_weight=0.5)(images, latents),
            "clip": CLIPLoss(clip)(images, ids),
        }
        for kind in ("epsilon", "v_prediction"):
            loss = DiffusionLoss(models.unet, build_scheduler(kind))
            losses[kind] = loss(latents, latents, timesteps, models.encode_text(PROMPTS))
            whole = DiffusionLoss(models.unet, build_scheduler(kind), models.text_encoder)
            losses[f"{kind}, text too"] = whole(latents, latents, timesteps, input_ids=ids)
        for name, loss in losses.items():
            assert loss.device.type == device and loss.shape == (), name
            if device == "meta":
                loss.backward()
        if device == "meta":
            for network in (models.vae, models.unet, models.text_encoder, clip):
                learned = [p.grad for p in network.parameters() if p.grad is not None]
                assert learned and all(gradient.device.type == "meta" for gradient in learned)


# --- the notebooks, by their text ---------------------------------------------------------------------------------------


def faults_in(cells: list[str]) -> list[str]:
    """What would stop on a GPU in the cells of a notebook."""
    places = Places()
    for text in cells:
        places.cell(text)
    return places.faults


def code_of(notebook) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", find_notebooks(), ids=lambda path: path.name[:2])
def test_notebooks_do_not_mix_places(notebook):
    assert not faults_in(code_of(notebook))


MOVES = re.compile(r"\.to\((models\.)?device\)|, device=(models\.)?device")


def test_the_control_of_places():
    """Where one of the notebooks' tensors is not moved to the models' device, that is found in about half of all cases; the
    rest is harmless, or lies in what the text does not tell."""
    found, tried = 0, 0
    for notebook in find_notebooks():
        cells = code_of(notebook)
        for number, text in enumerate(cells):
            for move in MOVES.finditer(text):
                forgotten = text[: move.start()] + text[move.end() :]
                found += bool(faults_in([*cells[:number], forgotten, *cells[number + 1 :]]))
                tried += 1
    assert found > 0.4 * tried > 20, (found, tried)
