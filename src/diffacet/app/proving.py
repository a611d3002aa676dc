"""A model from elsewhere is asked once before it is trained: what it would break in hours is refused at once.

Diffacet's own models are held to more by the tests; what is told here is what a first model gets wrong.
"""

import torch
from torch import nn

from diffacet.app import cards
from diffacet.core.batch import Histories
from diffacet.core.contract import Card, Clicker, Matcher, Scorer, Trained, Training
from diffacet.errors import BadSetting
from diffacet.rank.evaluate import evaluating

HOW = "docs/adding-a-model.md has a whole one"


def check_verbs(card: Card, model: nn.Module, training: Training) -> None:
    """Refuse a model from elsewhere that cannot be asked what its task asks, or not be trained; raises BadSetting."""
    if cards.origin(card.name) is None:
        return
    if card.task == "click":
        there, wanted = isinstance(model, Clicker), "logits(batch)"
    else:
        there, wanted = isinstance(model, Matcher | Scorer), "interests(history) with catalogue(), or scores(history)"
    if not there:
        raise BadSetting(f"{card.name}, a model of the task {card.task}, has no {wanted}; {HOW}")
    if training.max_steps > 0 and not isinstance(model, Trained):
        raise BadSetting(
            f"{card.name} has no loss(batch), so {training.max_steps:,} steps would teach it nothing; give it one, or"
            f" a preset with Training(max_steps=0); {HOW}"
        )


def check_answers(card: Card, model: nn.Module, asked: Histories, n_items: int) -> None:
    """Refuse a model from elsewhere whose answers to B histories have wrong shapes; raises BadSetting."""
    if cards.origin(card.name) is None:
        return
    rows = len(asked.items)
    with evaluating(model):
        if isinstance(model, Matcher):
            interests, catalogue = model.interests(asked), model.catalogue()
            if interests.dim() != 3 or len(interests) != rows:
                _refuse(card, "interests(history)", "(B, K, d)", f"B = {rows}", interests)
            if catalogue.shape != (n_items + 1, interests.shape[2]):
                fits = f"N = {n_items} items, row 0 being padding, and d = {interests.shape[2]}"
                _refuse(card, "catalogue()", "(N + 1, d)", fits, catalogue)
        elif isinstance(model, Scorer):
            scores = model.scores(asked)
            if scores.shape != (rows, n_items + 1):
                fits = f"B = {rows} and N = {n_items} items, column 0 being padding"
                _refuse(card, "scores(history)", "(B, N + 1)", fits, scores)


def _refuse(card: Card, verb: str, wanted: str, fits: str, found: torch.Tensor) -> None:
    raise BadSetting(f"{verb} of {card.name} gave {tuple(found.shape)}, wanted is {wanted} with {fits}; {HOW}")
