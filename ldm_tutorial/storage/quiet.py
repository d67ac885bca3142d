"""Libraries that load in silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub as hub
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars (these files load in milliseconds), nor what they say to authors of checkpoints."""
    hub_off = hub.utils.are_progress_bars_disabled()
    on = [logging for logging in (diffusers_logging, transformers_logging) if logging.is_progress_bar_enabled()]
    for logging in on:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logging in on:
            logging.enable_progress_bar()  # transformers' switch turns those of the hub as well
        if hub_off:
            hub.utils.disable_progress_bars()
