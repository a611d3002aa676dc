"""How the tables of the papers train, one value a data set, shared by every model compared in them.

The protocol of the matching papers is that of REMI's code with DMI's learning rate (DMI Sec. 4.1.2): batch 128,
1,280 shared uniform negatives with the target kept among them, targets from the fifth item on, dense Adam at 0.002.
Its printed budget, a million steps with a patience of 50 validations, is cut where validation has been flat for long.
"""

from dataclasses import replace

from diffacet.core.contract import Search, Training

BOOK = Training(item_updates="dense")
"""Amazon Book: the printed budget, a validation every 1,000 steps."""

BEAUTY = replace(BOOK, max_steps=6_000, validate_every=200, patience=5)
"""Amazon Beauty: models peak between 2,000 and 4,500 steps."""

GOWALLA = replace(BOOK, length=40, max_steps=15_000, validate_every=1_000, patience=5)
"""Gowalla: histories of 40."""

BEST = Training(first_target=1, max_steps=8_000, anneal=0.5, validate_every=500, patience=8)
"""Ours, for any log: every position but the first is a target, which matters most where users are short, and the
learning rate falls over the second half of a fixed budget."""

PROFILES = Training(
    length=0, lr=1e-3, batch_size=400, max_epochs=1000, validate_epochs=5, patience=3, metric="recall@20"
)
"""DiffRec's table (its code): whole rows, 400 users a batch, a validation every fifth epoch, stopped 20 epochs after
the best. Collaborative models that learn from users train so."""

PROFILES_SEARCH = {"lr": Search(1e-4, 3e-3, log=True), "negatives": None}
"""Where their settings are looked for; there are no shared negatives."""

PAIRS = replace(PROFILES, batch_size=2048)
"""The same for models that learn from single interactions."""

PAIRS_SEARCH = {"lr": Search(5e-4, 1e-2, log=True), "negatives": None}
"""Where their settings are looked for."""

ROWS = Training(length=0, max_steps=0, metric="recall@20")
"""For untrained models under that protocol: whole rows."""

NEXT_ITEM = Training(
    lr=0.005,
    batch_size=256,
    length=10,
    first_target=1,
    sampling="epochs",
    negatives=10,
    own_negatives=True,
    max_epochs=200,
    validate_epochs=1,
    patience=10,
    metric="hit_rate@20",
    item_updates="dense",
)
"""DimeRec's table: every pair of a history of 10 and its next item once an epoch, ten negatives of its own for each,
stopped 10 epochs after the best. All that it compares train so; DreamRec and DiffuRec keep their own losses."""

NEXT_ITEM_LONG = replace(NEXT_ITEM, length=70)
"""The same with its histories of MovieLens-10M."""

NEXT_ITEM_EVERY = replace(
    NEXT_ITEM,
    lr=0.001,
    batch_size=128,
    length=50,
    negatives=0,
    own_negatives=False,
    targets="every",
    weighting="target",
    metric="ndcg@10",
    validate_epochs=2,
)
"""Ours, for models with a state at every position: each position of a window of 50 is a target among all items."""

NEXT_ITEM_LONG_EVERY = replace(
    NEXT_ITEM_EVERY, length=100, batch_size=32, lr=0.0015, anneal=0.8, max_epochs=36, validate_epochs=4
)
"""The same where users are long, as on MovieLens: fewer of them a batch, so that an epoch has steps enough, and a rate
that falls for most of a fixed budget."""

NEXT_ITEM_SEARCH = {"lr": Search(5e-4, 5e-3, log=True), "negatives": None}
"""Where settings of these models are looked for; their number of negatives is the protocol's."""

CLICK = Training(
    lr=0.001,
    batch_size=1024,
    length=1000,
    negatives=0,
    max_epochs=1,
    validate_epochs=1,
    patience=0,
    metric="auc",
    clip=10.0,
    save_every=200,
)
"""Click models: one pass over the showings in a random order, the same for all models; histories of 1,000."""

CLICK_SEARCH = {"lr": Search(choices=(3e-4, 1e-3, 3e-3)), "negatives": None}
"""Where their settings are looked for."""
