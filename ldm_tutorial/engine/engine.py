"""The engine: text encoder, U-Net and decoder as ONNX graphs, the loop between them in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import CHECKSUMS, WEIGHTS, verify_checksums
from ..settings import DEFAULT_SAMPLING, Sampling, adjust
from ..storage.threads import engine_threads
from .noise import randn
from .steps import SAMPLERS

GRAPHS = {"text_encoder": "text_encoder/model.onnx", "unet": "unet/model.onnx", "decoder": "vae/decoder.onnx"}
SETTINGS = "engine.json"


def missing(folder: str | Path) -> list[str]:
    """The files that a model's folder lacks to be run by the engine: none, or what `ldm export` would write."""
    folder = Path(folder)
    wanted = [*GRAPHS.values(), SETTINGS, "tokenizer/tokenizer.json"]
    return [name for name in wanted if not (folder / name).exists()]


def read_settings(folder: str | Path) -> dict:
    """What the export wrote beside the graphs.

    Raises:
        UserError: for what an older version exported, and for a file that can't be read.
    """
    path = Path(folder) / SETTINGS
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{str(path)!r} can't be read: `ldm export {folder}` makes it anew.") from None
    if "schedulers" not in settings:
        raise UserError(f"{folder} was exported by an older version of ldm: `ldm export {folder}` makes it anew.")
    return settings


def unsupported(sampling: Sampling, folder: str | Path = WEIGHTS) -> str:
    """What the engine can't do of this way of sampling with an exported model, as a phrase; "" when it can do all."""
    if sampling.sampler not in SAMPLERS:
        return f"the sampler {sampling.sampler!r}"
    if sampling.sampler not in read_settings(folder)["schedulers"]:
        return f"the sampler {sampling.sampler!r} for the noise schedule of {folder}"
    return ""


def check_files(folder: Path) -> None:
    """Compare the folder with its ``checksums.json``, if it has one.

    Raises:
        UserError: naming the first file that is missing, cut short or altered.
    """
    if (folder / CHECKSUMS).exists():
        for name, state in verify_checksums(folder).items():
            raise UserError(f"In {folder}, {name} is {state}: copy the folder again, or train and export it again.")


class Tokenizer:
    """A prompt's token ids, as transformers' ``CLIPTokenizer`` gives them; ``text.check_prompt`` takes it too."""

    def __init__(self, file: Path, model_max_length: int, pad_token_id: int):
        from tokenizers import Tokenizer as Backend

        self.backend = Backend.from_file(str(file))
        self.model_max_length = model_max_length
        self.pad_token_id = pad_token_id

    def __call__(self, prompt: str, verbose: bool = False):
        """Itself, with the prompt's ``input_ids``, neither cut nor padded."""
        self.backend.no_padding()
        self.backend.no_truncation()
        self.input_ids = self.backend.encode(prompt).ids
        return self

    def pad(self, prompts: list[str]) -> np.ndarray:
        """Texts -> int64 [B, 77], cut or padded to the model's length."""
        self.backend.enable_truncation(self.model_max_length)
        self.backend.enable_padding(length=self.model_max_length, pad_id=self.pad_token_id)
        return np.array([encoding.ids for encoding in self.backend.encode_batch(prompts)], np.int64)


class Engine:
    """A saved and exported model, on the CPU.

    ``threads`` is how many cores one network call may use [``OMP_NUM_THREADS``, or all that this process has].

    Raises:
        UserError: for a folder without graphs, and for files that don't fit this ONNX Runtime.
    """

    def __init__(self, folder: str | Path = WEIGHTS, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("The engine needs onnxruntime: `pip install onnxruntime`, or choose the engine torch.") from None

        folder = Path(folder)
        lacks = missing(folder)
        if lacks:
            raise UserError(
                f"{str(folder)!r} can't be run by the engine (no {lacks[0]}): `ldm export {folder}` makes it ready."
            )
        check_files(folder)
        self.folder = folder
        self.settings = read_settings(folder)
        self.alphas_cumprod = np.array(self.settings["alphas_cumprod"], np.float32)
        self.tokenizer = Tokenizer(
            folder / "tokenizer" / "tokenizer.json", self.settings["model_max_length"], self.settings["pad_token_id"]
        )
        options = onnxruntime.SessionOptions()
        allowed, spinning = engine_threads()
        options.intra_op_num_threads = threads or allowed
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        self.sessions = {}
        for name, file in GRAPHS.items():
            try:
                self.sessions[name] = onnxruntime.InferenceSession(
                    str(folder / file), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # the runtime's errors have no common kind
                reason = str(error).splitlines()[0][:120]
                raise UserError(
                    f"{str(folder / file)!r} can't be read ({reason}): `ldm export {folder}` makes it anew."
                ) from None

    def encode_text(self, prompts: list[str]) -> np.ndarray:
        """Texts -> ``encoder_hidden_states`` float32 [B, 77, 128]."""
        return self.sessions["text_encoder"].run(None, {"input_ids": self.tokenizer.pad(prompts)})[0]

    def predict(self, z: np.ndarray, t: int, text: np.ndarray) -> np.ndarray:
        """The U-Net's answer for noisy latents [B, 8, 16, 16] at timestep ``t``."""
        inputs = {"sample": z, "timestep": np.array(t, np.int64), "encoder_hidden_states": text}
        return self.sessions["unet"].run(None, inputs)[0]

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Scaled latents -> pixels [B, 3, H, W], about -1..1."""
        return self.sessions["decoder"].run(None, {"latents": z})[0]

    def sample_latents(
        self,
        prompts: list[str],
        seeds: list[int],
        sampling: Sampling = DEFAULT_SAMPLING,
        on_step: Callable[[int, int, np.ndarray], None] | None = None,
        progress: bool = False,
        **options,
    ) -> np.ndarray:
        """Prompts and seeds to clean latents float32 [B, 8, 16, 16], as ``sampling.sample_latents`` makes them."""
        from tqdm.auto import tqdm

        sampling = adjust(sampling, **options)
        reason = unsupported(sampling, self.folder)
        if reason:
            raise UserError(f"The engine does not have {reason}: choose one of {', '.join(SAMPLERS)}, or the engine torch.")
        if len(prompts) != len(seeds):
            raise UserError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}.")
        config = self.settings["schedulers"][sampling.sampler]
        trained = config["num_train_timesteps"]
        if sampling.steps > trained:
            raise UserError(f"{sampling.steps} steps are more than the {trained} that the model was trained with: give fewer.")
        sampler = SAMPLERS[sampling.sampler](config, self.alphas_cumprod, sampling.steps)
        text, both = self._texts(prompts, sampling.negative_prompt)
        z = np.concatenate([randn(seed, (1, *self.settings["latent_shape"])) for seed in seeds])
        n = len(sampler.timesteps)
        first, last = (int(share * n) for share in sampling.guidance_interval)
        for i in tqdm(range(n), desc="denoise", disable=not progress, leave=False):
            t = sampler.timesteps[i]
            if sampling.guidance_scale > 1 and first <= i < last:
                unconditional, conditional = np.split(self.predict(np.concatenate([z, z]), t, both), 2)
                predicted = unconditional + np.float32(sampling.guidance_scale) * (conditional - unconditional)
            else:
                predicted = self.predict(z, t, text)
            z = sampler.step(i, predicted, z)
            if on_step:
                on_step(i, int(t), z)
        return z

    def sample(self, prompts: list[str], seeds: list[int], sampling: Sampling = DEFAULT_SAMPLING, **options) -> np.ndarray:
        """Prompts and seeds to pictures uint8 [B, 64, 64, 3], as ``sampling.sample`` makes them, to 1 of 255."""
        pixels = self.decode(self.sample_latents(prompts, seeds, sampling, **options))
        if not np.isfinite(pixels).all():
            raise UserError("What was sampled is not finite: choose another sampler, or the engine torch.")
        return to_picture(pixels)

    def _texts(self, prompts: list[str], negative: str) -> tuple[np.ndarray, np.ndarray]:
        """The prompts' states [B, 77, 128], and those of the negative prompt and the prompts in one batch [2 B, 77, 128]."""
        texts = list(dict.fromkeys([*prompts, negative]))  # each text is encoded once
        states = self.encode_text(texts)
        text = states[[texts.index(prompt) for prompt in prompts]]
        unconditional = states[[texts.index(negative)] * len(prompts)]
        return text, np.concatenate([unconditional, text])


def to_picture(pixels: np.ndarray) -> np.ndarray:
    """Floats [B, 3, H, W] in -1..1 -> pictures uint8 [B, H, W, 3]."""
    share = (pixels / 2 + 0.5).clip(0, 1)
    return (share.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
