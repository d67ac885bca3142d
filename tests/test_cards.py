"""The cards say what was measured."""

import importlib.util
import json

from ldm_tutorial.models import WEIGHTS
from tests.run import ROOT

spec = importlib.util.spec_from_file_location("cards", ROOT / "benchmarks" / "cards.py")
cards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cards)


def test_cards_are_made_from_the_measured_numbers():
    again = "write them again with `python benchmarks/cards.py`"
    assert (WEIGHTS.parent / "README.md").read_text(encoding="utf-8") == cards.model_card(), again
    assert (WEIGHTS.parent / "DATA_CARD.md").read_text(encoding="utf-8") == cards.data_card(), again


def test_measured_numbers_have_counts_and_intervals():
    found = json.loads((WEIGHTS.parent / "evaluation.json").read_text())
    assert found.keys() == cards.GOALS.keys()
    for key, number in found.items():
        assert number["low"] <= number["value"] <= number["high"], key
        assert number["n"] >= 5, key
