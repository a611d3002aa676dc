"""The literal table of models: name on the command line -> file in this folder. One line adds a model."""

import importlib

from diffacet.core.contract import Card
from diffacet.errors import BadSetting, nearest

MODELS = {
    "pop": "pop",
    "random": "random",
    "item-knn": "itemknn",
    "ease": "ease",
    "y-dnn": "ydnn",
    "gru4rec": "gru4rec",
    "sasrec": "sasrec",
    "mind": "mind",
    "comirec-sa": "comirec",
    "comirec-dr": "comirecdr",
    "re4": "re4",
    "pimirec": "pimirec",
    "remi": "remi",
    "dmi": "dmi",
    "facet": "facet",
    "dimerec": "dimerec",
    "dreamrec": "dreamrec",
    "diffurec": "diffurec",
    "mf": "mf",
    "lightgcn": "lightgcn",
    "als": "als",
    "cdae": "cdae",
    "multi-dae": "multidae",
    "multi-dae++": "multidae",
    "multi-vae": "multivae",
    "codigem": "codigem",
    "acvae": "acvae",
    "diffrec": "diffrec",
    "t-diffrec": "diffrec",
    "l-diffrec": "ldiffrec",
    "lt-diffrec": "ldiffrec",
    "logistic": "logistic",
    "din": "din",
    "can": "can",
    "sim": "sim",
    "eta": "eta",
    "sdim": "sdim",
    "twin": "twin",
    "twin-v2": "twin_v2",
    "diffumin": "diffumin",
    "diffumin-vae": "diffumin_vae",
}


def card(name: str) -> Card:
    """The card of the model called `name`; raises BadSetting with the nearest name for an unknown one."""
    if name not in MODELS:
        raise BadSetting(f"unknown model '{name}'{nearest(name, MODELS)}. See 'diffacet models'")
    module = importlib.import_module(f"diffacet.models.{MODELS[name]}")
    return next(card for card in module.CARDS if card.name == name)
