"""Models: what is saved is what is loaded, by us and by plain diffusers, and no damaged file goes unnoticed."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPModel, CLIPTextModel

from ldm_tutorial.autoencoder import build_vae
from ldm_tutorial.checkpoints import load_clip, load_models, save_models
from ldm_tutorial.clip import build_clip
from ldm_tutorial.diffusion import build_scheduler, build_unet
from ldm_tutorial.errors import UserError

WEIGHT_FILES = [
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "clip/model.safetensors",
]


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model, to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text, text
    return text


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- saving and loading ---------------------------------------------------------------------------------------------


def test_weights_come_back_rounded_to_half_precision(tiny, tiny_folder):
    models, clip = tiny
    loaded = load_models(tiny_folder, "cpu")
    pairs = [(getattr(models, n), getattr(loaded, n)) for n in ("vae", "unet", "text_encoder")]
    for saved, found in [*pairs, (clip, load_clip(tiny_folder, "cpu"))]:
        assert type(found) is type(saved) and not found.training
        saved, found = saved.state_dict(), found.state_dict()
        assert saved.keys() == found.keys()
        for name in saved:
            if saved[name].is_floating_point():
                assert found[name].dtype == torch.float32
                assert torch.equal(found[name], saved[name].half().float()), name
            else:
                assert torch.equal(found[name], saved[name]), name
    assert not any(p.requires_grad for p in loaded.unet.parameters())


def test_settings_come_back(tiny, tiny_folder):
    models, clip = tiny
    loaded = load_models(tiny_folder, "cpu")
    assert models.vae.config.scaling_factor == 0.7  # not the default: the first thing to be lost
    assert loaded.vae.config.scaling_factor == 0.7
    hidden = lambda config: json.dumps({k: v for k, v in config.items() if k[0] != "_"}, sort_keys=True)  # noqa: E731
    for part in ("vae", "unet", "scheduler"):
        assert hidden(getattr(loaded, part).config) == hidden(getattr(models, part).config), part
    assert loaded.tokenizer.get_vocab() == models.tokenizer.get_vocab()
    assert loaded.tokenizer.model_max_length == 77
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "max_position_embeddings"):
        assert getattr(loaded.text_encoder.config, name) == getattr(clip.config.text_config, name), name


def test_saving_leaves_the_model_as_it_was(tiny, tmp_path):
    models, clip = tiny
    before = [p.clone() for p in (*models.unet.parameters(), *clip.parameters())]
    save_models(models, tmp_path / "model", clip)
    after = [*models.unet.parameters(), *clip.parameters()]
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_files_are_small_and_safe(tiny_folder):
    found = files(tiny_folder)
    assert {Path(n).suffix for n in found} <= {".json", ".safetensors", ".txt"}  # nothing that could run code
    for name in WEIGHT_FILES:
        with safe_open(tiny_folder / name, "pt") as f:
            kinds = {f.get_tensor(k).dtype for k in f.keys()}  # noqa: SIM118
        assert torch.float16 in kinds and torch.float32 not in kinds, name
    for name in ("text_encoder", "clip"):  # transformers believes what is written here, diffusers loads float32
        assert json.loads(found[f"{name}/config.json"])["dtype"] == "float32"
    assert sorted(json.loads(found["checksums.json"])) == sorted(set(found) - {"checksums.json"})
    assert not any("\\" in name for name in found)


def test_without_clip_and_without_checksums(tiny, tmp_path):
    folder = save_models(tiny[0], tmp_path / "deep" / "model")
    assert not (folder / "clip").exists()
    (folder / "checksums.json").unlink()  # somebody else's folder
    assert load_models(folder, "cpu").unet.config.sample_size == 16


def test_plain_diffusers_loads_it_in_silence(plain):
    found, stderr = plain
    assert found["dtypes"].tolist() == ["torch.float32"] * 3
    said = [line for line in re.split(r"[\r\n]", stderr) if line.strip() and "%|" not in line]  # but for progress bars
    assert not said, said


def test_plain_transformers_loads_both_halves(tiny, tiny_folder):
    clip = CLIPModel.from_pretrained(tiny_folder / "clip")
    text = CLIPTextModel.from_pretrained(tiny_folder / "text_encoder")
    for part in (clip, text):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


def test_loading_prints_nothing(tiny_folder, capfd):
    load_models(tiny_folder, "cpu")
    load_clip(tiny_folder, "cpu")
    assert capfd.readouterr() == ("", "")


# --- over an existing folder ----------------------------------------------------------------------------------------


def test_saving_again_replaces_the_folder(tiny, folder):
    (folder / "unet" / "left_over.txt").write_text("old")
    save_models(tiny[0], folder)
    assert not (folder / "unet" / "left_over.txt").exists() and not (folder / "clip").exists()
    load_models(folder, "cpu")
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # and leaves nothing beside it


def test_a_failed_save_leaves_the_old_folder(tiny, folder, monkeypatch):
    before = files(folder)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tiny[0].tokenizer), "save_pretrained", fail)
    with pytest.raises((OSError, UserError), match="No space left"):
        save_models(tiny[0], folder, tiny[1])
    assert files(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # a full disk is not filled further


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load, damage, name",
    [
        (load_models, "missing", "vae/config.json"),
        (load_models, "cut", "unet/diffusion_pytorch_model.safetensors"),
        (load_models, "altered", "text_encoder/model.safetensors"),
        (load_models, "altered", "tokenizer/tokenizer.json"),
        (load_clip, "altered", "clip/model.safetensors"),
    ],
)
def test_a_damaged_file_is_named(folder, load, damage, name):
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError) as error:
        load(folder, "cpu")
    text = one_sentence(error)
    assert name in text and str(folder) in text and damage in text


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b'{"vae/config.json": '])
def test_a_damaged_list_of_checksums(folder, content):
    (folder / "checksums.json").write_bytes(content)
    with pytest.raises(UserError, match="checksums.json") as error:
        load_models(folder, "cpu")
    one_sentence(error)


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_no_model_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for load in (load_models, load_clip):
        with pytest.raises(UserError, match="no model") as error:
            load(tmp_path / name, "cpu")
        assert str(tmp_path / name) in one_sentence(error)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_models_work_on_the_shapes_they_promise(tiny):
    models, _ = tiny
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = models.encode(images)
    assert latents.shape == (2, 8, 16, 16)
    assert torch.equal(latents, models.vae.encode(images).latent_dist.mode() * 0.7)  # no dice: the mean
    decoded = models.decode(latents)
    assert decoded.shape == (2, 3, 64, 64)
    torch.testing.assert_close(decoded, models.vae.decode(latents / 0.7).sample)
    text = models.encode_text(["a mug", "a golden duck on pink", ""])
    assert text.shape == (3, 77, 32) and not text.requires_grad
    torch.testing.assert_close(models.encode_text(["a golden duck on pink"])[0], text[1], atol=1e-5, rtol=1e-5)
    assert models.encode_text(["mug " * 500]).shape == (1, 77, 32)  # cut, as the pipeline does


def test_moving_does_not_freeze(tiny):
    models = copy.deepcopy(tiny[0])
    models.unet.requires_grad_(True).train()
    assert models.to("cpu") is models and models.unet.training and models.unet.conv_in.weight.requires_grad
    assert models.for_inference() is models and not models.unet.training
    networks = (models.vae, models.unet, models.text_encoder)
    assert not any(p.requires_grad for network in networks for p in network.parameters())


def test_shipped_sizes(tokenizer):
    vae, unet, clip = build_vae(), build_unet(), build_clip(tokenizer)
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
        assert z.shape == (1, 8, 16, 16)
        assert unet(z, 5, torch.zeros(1, 77, 128)).sample.shape == z.shape
        text = tokenizer(["a mug"], return_tensors="pt").input_ids
        out = clip(input_ids=text, pixel_values=torch.zeros(1, 3, 64, 64))
    assert out.text_embeds.shape == out.image_embeds.shape == (1, 128)
    sizes = [sum(p.numel() for p in part.parameters()) * 2 for part in (vae, unet, clip, clip.text_model)]
    assert sum(sizes) < 16e6  # bytes in half precision


def test_the_cosine_schedule():
    """Values of Nichol and Dhariwal 2021, eq. 17, worked out by hand: cos^2((t/T + 0.008) / 1.008 * pi/2), 1 at t = 0."""
    scheduler = build_scheduler()
    remaining = scheduler.alphas_cumprod
    for step, expected in [(1, 0.99996), (250, 0.84701), (500, 0.49384), (750, 0.14427), (900, 0.02409)]:
        assert remaining[step - 1].item() == pytest.approx(expected, abs=2e-5)
    assert remaining[-1] < 1e-4 and scheduler.final_alpha_cumprod == 1
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]  # counted from the noisiest end
