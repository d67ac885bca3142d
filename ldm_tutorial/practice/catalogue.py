"""All exercises by number, with what the notebooks and `ldm progress` say of them. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "predict": "say the answer before anything runs",
    "build": "write a function from its formula",
    "mend": "find out what is wrong with a function, and repair it",
    "measure": "a number with its uncertainty",
    "find": "something that shows what was claimed",
    "make": "something of your own",
}


@dataclass(frozen=True)
class Entry:
    """One exercise: its number, what the answer is called in the notebook, its kind, difficulty (1 to 3), and minutes."""

    number: str
    name: str
    kind: str
    difficulty: int
    minutes: int
    title: str

    @property
    def notebook(self) -> str:
        """The notebook that it belongs to: "03"."""
        return f"{int(self.number.split('.')[0]):02}"

    @property
    def heading(self) -> str:
        """What stands above it in the notebook."""
        return f"## Exercise {self.number}: {self.title}"

    @property
    def line(self) -> str:
        """The line below its heading."""
        return f"*{self.kind}: {KINDS[self.kind]} · difficulty {self.difficulty} of 3 · about {self.minutes} minutes*"


CATALOGUE = [
    Entry("0.1", "text_to_image", "build", 1, 10, "the whole path in a few lines"),
    Entry("0.2", "how_often", "predict", 1, 3, "which part works how often?"),
    Entry("0.3", "unknown_to_it", "find", 1, 5, "a prompt that the model cannot follow"),
    Entry("0.4", "distance_to_go", "build", 1, 10, "how far is it to the picture?"),
    Entry("0.5", "my_object", "make", 2, 25, "an object of your own"),
    Entry("1.1", "normalise", "build", 1, 10, "from bytes to what a model reads"),
    Entry("1.2", "mean_picture", "mend", 1, 10, "the mean of some pictures"),
    Entry("1.3", "megabytes", "predict", 1, 5, "how much memory?"),
    Entry("1.4", "my_material", "make", 2, 20, "a material of your own"),
    Entry("1.5", "read_folder", "make", 2, 25, "a folder of your own pictures"),
    Entry("2.1", "kl", "build", 2, 15, "how far from N(0, 1)?"),
    Entry("2.2", "psnr", "mend", 1, 10, "a PSNR that is too good"),
    Entry("2.3", "ruined_picture", "find", 2, 15, "a picture that the autoencoder ruins"),
    Entry("2.4", "noisy_picture", "mend", 2, 15, "latents that are too large"),
    Entry("2.5", "split", "mend", 1, 10, "a probe that names nothing"),
    Entry("3.1", "add_noise", "build", 1, 10, "any timestep in one line"),
    Entry("3.2", "noisy_variance", "predict", 1, 5, "how large are the numbers?"),
    Entry("3.3", "forward_steps", "mend", 2, 15, "a thousand small steps, with two faults"),
    Entry("3.4", "training_batches", "mend", 2, 15, "the same noise again and again"),
    Entry("3.5", "hidden_strength", "measure", 2, 15, "how strong is the hidden picture?"),
    Entry("4.1", "sinusoidal_embedding", "build", 2, 15, "the time embedding"),
    Entry("4.2", "train", "mend", 2, 20, "a loss that does not fall"),
    Entry("4.3", "learned_numbers", "predict", 1, 5, "how many numbers does a layer learn?"),
    Entry("4.4", "validation_loss", "mend", 2, 15, "a loss that is never the same"),
    Entry("4.5", "from_v", "build", 2, 15, "picture and noise from v"),
    Entry("5.1", "ddim_step", "build", 2, 15, "one step of DDIM"),
    Entry("5.2", "sample", "mend", 2, 20, "a loop that leaves noise behind"),
    Entry("5.3", "paired_difference", "measure", 3, 20, "is the other sampler better?"),
    Entry("5.4", "repeatable", "predict", 1, 5, "which pictures come again?"),
    Entry("5.5", "my_timesteps", "find", 3, 20, "five steps, better placed"),
    Entry("6.1", "merge_pair", "build", 2, 15, "one merge of byte-pair encoding"),
    Entry("6.2", "long_prompt", "find", 1, 10, "few words, many tokens"),
    Entry("6.3", "attention", "mend", 2, 15, "attention that looks the wrong way"),
    Entry("6.4", "causal_weights", "build", 2, 15, "no look at what comes later"),
    Entry("6.5", "margin_test", "measure", 3, 25, "do two meanings separate, or is it chance?"),
    Entry("7.1", "contrastive_loss", "build", 2, 20, "the loss of CLIP"),
    Entry("7.2", "search", "mend", 1, 10, "a search that finds the wrong pictures"),
    Entry("7.3", "first_loss", "predict", 2, 5, "the loss before anything is learned"),
    Entry("7.4", "zero_shot", "mend", 2, 15, "answers that are never certain"),
    Entry("7.5", "recall_at_k", "measure", 2, 15, "how often is it among the first five?"),
    Entry("8.1", "cross_attention", "build", 2, 15, "cross-attention"),
    Entry("8.2", "drop_captions", "mend", 1, 10, "captions that are dropped all at once"),
    Entry("8.3", "exchanged_tokens", "predict", 3, 10, "does the order of the tokens count?"),
    Entry("8.4", "many_heads", "mend", 3, 20, "heads that get the wrong numbers"),
    Entry("8.5", "misleading", "find", 2, 15, "an attention map that misleads"),
    Entry("9.1", "guide", "build", 1, 10, "classifier-free guidance"),
    Entry("9.2", "interval", "measure", 2, 15, "twelve of twelve, and how sure that is"),
    Entry("9.3", "noise_for", "mend", 2, 15, "the same seed, another picture"),
    Entry("9.4", "guide_in_interval", "build", 2, 15, "guidance in the middle of the run only"),
    Entry("9.5", "steered_away", "find", 2, 15, "a negative prompt that works"),
    Entry("10.1", "keep_outside", "build", 2, 15, "inpainting keeps what is outside the mask"),
    Entry("10.2", "lora", "build", 3, 20, "a layer with LoRA"),
    Entry("10.3", "learned_by_lora", "predict", 1, 5, "how much does LoRA learn?"),
    Entry("10.4", "start_of_edit", "mend", 2, 15, "an edit that begins in the wrong place"),
    Entry("10.5", "my_pictures", "make", 2, 20, "pictures of your own, with captions"),
]


def entry(number: str) -> Entry:
    """The exercise with this number."""
    return next(e for e in CATALOGUE if e.number == number)


def of_notebook(name: str) -> list[Entry]:
    """The exercises of a notebook, "03"."""
    return [e for e in CATALOGUE if e.notebook == name]
