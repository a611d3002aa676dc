"""What every model of clicks promises, whichever it is: functions of a card and one of its presets.

Nothing here knows a model by name. Sizes are made small by the settings that a model has; all other settings are those
of the preset.
"""

import copy
import dataclasses

import numpy as np
import polars as pl
import torch

import clickshop
from contract import careless, counting
from diffacet.app import settings
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import Fields
from diffacet.core.contract import Clicker, Trained
from diffacet.core.layers import ItemTable
from diffacet.data.clicks import cut
from diffacet.learn import checkpoint
from diffacet.learn.checkpoint import Checkpoints
from diffacet.learn.clicks import batch_at, click_facts
from diffacet.learn.fit import fit, initial_weights

LENGTH = 6
SMALL = {
    "dim": 4,
    "hidden": (12, 6),
    "search_hidden": (6,),
    "inner": 8,
    "window": LENGTH,
    "recent": 3,
    "kept": 4,
    "channels": 2,
    "keep_count": 3,
    "steps": 6,
    "sampling_steps": 2,
    "layers": 1,
}
QUICK = {
    "batch_size": 32,
    "length": LENGTH,
    "max_epochs": None,
    "max_steps": 6,
    "validate_epochs": None,
    "validate_every": 4,
    "save_every": None,
    "patience": 100,
    "anneal": 0.0,
}


def small(card, preset, **changes):
    """The preset with small sizes, where the model has a setting of that name and takes none for nothing."""
    chosen = settings.preset(card, preset)
    model, training = chosen.model, chosen.training
    names = {f.name for f in dataclasses.fields(model)} | {f.name for f in dataclasses.fields(training)}
    wanted = {name: value for name, value in SMALL.items() if getattr(model, name, None) is not None}
    return settings.apply(card, chosen, {n: v for n, v in {**wanted, **QUICK, **changes}.items() if n in names})


def build(card, chosen, log, seed=0):
    with initial_weights(seed):
        return card.build(chosen.model, click_facts(log, chosen.training))


def shaken(model, seed=0):
    """As after some training: no parameter is exactly what initialisation made it, and batches have been seen."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


def batch_of(log, rows, length=LENGTH):
    """Those samples of the log, as the loader cuts them."""
    return ClickBatch.from_arrays(cut(log, np.asarray(rows, np.int64), length))


def answer(model, batch):
    """(B,) logits in float64."""
    with torch.no_grad():
        return model.logits(batch)


def ready(card, preset, log):
    """A model in float64 and evaluation mode, as after some training."""
    return shaken(build(card, small(card, preset), log)).double().eval()


# --- what is promised ------------------------------------------------------------------------------------------


def finite_loss_of_named_terms(card, preset):
    log = clickshop.log()
    chosen = small(card, preset)
    model = build(card, chosen, log)
    assert isinstance(model, Clicker)
    assert isinstance(model, Trained)
    at = batch_at(log, clickshop.train_rows(log), chosen.training)
    for step in range(3):
        terms = model.train().loss(at(step))
        assert terms
        for name, term in terms.items():
            assert name.isidentifier()
            assert term.shape == ()
            assert term.isfinite()
            assert term.requires_grad


def gradient_where_it_should_be(card, preset):
    """Every parameter learns; the rows of tables that stand for padding never do."""
    log = clickshop.log()
    chosen = small(card, preset)
    model = shaken(build(card, chosen, log)).train()
    at = batch_at(log, clickshop.train_rows(log), chosen.training)
    learned = set()
    for step in range(4):
        model.zero_grad()
        torch.manual_seed(step)
        sum(model.loss(at(step)).values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
                if parameter.grad.any():
                    learned.add(name)
        for module in model.modules():
            if isinstance(module, ItemTable) and module.weight.grad is not None:
                assert not module.weight.grad[0].any()
            if isinstance(module, Fields):
                assert not module.table.weight.grad[module.begins].any()
                assert not module.table.weight.grad[module.other_begins].any()
    assert learned == set(dict(model.named_parameters()))


def same_answer_alone_or_in_a_batch(card, preset):
    """In float64, where the order of a sum does not show; whatever noise there is follows the case."""
    log = clickshop.log()
    model = ready(card, preset, log)
    rows = np.random.default_rng(0).permutation(len(log))[:20]
    together = answer(model, batch_of(log, rows))
    assert together.shape == (20,)
    assert together.isfinite().all()
    assert torch.equal(answer(model, batch_of(log, rows)), together)
    order = np.random.default_rng(1).permutation(20)
    assert torch.allclose(answer(model, batch_of(log, rows[order])), together[order.tolist()], atol=1e-9)
    twice = np.concatenate([rows, rows[:5]])
    assert torch.allclose(answer(model, batch_of(log, twice))[20:], together[:5], atol=1e-9)
    for place, row in enumerate(rows):
        assert torch.allclose(answer(model, batch_of(log, [row]))[0], together[place], atol=1e-9)


def labels_do_not_matter(card, preset):
    log = clickshop.log()
    model = ready(card, preset, log)
    batch = batch_of(log, range(20))
    turned = dataclasses.replace(batch, label=1 - batch.label)
    assert torch.equal(answer(model, batch), answer(model, turned))


def older_behaviours_do_not_matter(card, preset):
    """What a history holds before the `length` most recent behaviours changes nothing."""
    log = clickshop.log()

    def more(shown, done, items):
        """Five more behaviours of everyone who has as many as are read, before all others."""
        whose = done.group_by("user_id").len().filter(pl.col("len") >= LENGTH)["user_id"].sort().to_list()
        old = [
            (u, i % clickshop.ITEMS, clickshop.START - clickshop.DAY + i, "cart")
            for u in whose
            for i in range(u, u + 5)
        ]
        return shown, pl.concat([pl.DataFrame(old, schema=done.schema, orient="row"), done]), items

    longer = clickshop.log(change=more)
    rows = np.flatnonzero(log.end - log.begin >= LENGTH)[:30]
    assert len(rows) == 30
    assert (longer.end - longer.begin)[rows].min() >= LENGTH + 5
    model = ready(card, preset, log)
    # Numbers of values that training counts may be others, so the first log's vocabularies are taken.
    same = clickshop.clicks.encode(clickshop.raw(change=more), log.vocabularies, clickshop.learned().statistics)
    assert torch.allclose(answer(model, batch_of(same, rows)), answer(model, batch_of(log, rows)), atol=1e-9)
    assert not torch.equal(batch_of(same, rows, 0).behaviours, batch_of(log, rows, 0).behaviours)


def the_future_does_not_matter(card, preset):
    """Behaviours at the sample's own time and after it, planted through the real loader, change nothing."""
    log = clickshop.log()
    row = int(np.flatnonzero((log.end - log.begin >= 3) & (log.end < len(log.behaviour_time)))[7])
    time = int(log.time[row])

    def change(shown, done, items):
        user = shown["user_id"][row]
        planted = [(user, item, time + item * clickshop.HOUR, "cart") for item in range(9)]
        return shown, pl.concat([done, pl.DataFrame(planted, schema=done.schema, orient="row")]), items

    planted = clickshop.clicks.encode(clickshop.raw(change=change), log.vocabularies, clickshop.learned().statistics)
    assert planted.behaviours.shape[1] == log.behaviours.shape[1] + 9
    model = ready(card, preset, log)
    assert torch.equal(answer(model, batch_of(planted, [row], 0)), answer(model, batch_of(log, [row], 0)))


def empty_histories_are_finite(card, preset):
    """Alone, together, beside full ones; and a batch of them alone can be trained on."""
    log = clickshop.log()
    model = ready(card, preset, log)
    empty = np.flatnonzero(log.end == log.begin)
    full = np.flatnonzero(log.end - log.begin >= LENGTH)
    for rows in (empty[:1], empty[:5], np.concatenate([empty[:2], full[:3]])):
        assert answer(model, batch_of(log, rows)).isfinite().all()
    chosen = small(card, preset)
    model = build(card, chosen, log).train()
    terms = model.loss(batch_of(log, empty[:8]))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def inference_leaves_everything_alone(card, preset):
    log = clickshop.log()
    model = ready(card, preset, log)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    answer(model, batch_of(log, range(20)))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def checkpoint_round_trip(card, preset, path):
    """A model built without the data, as a run is loaded, answers as the one that was saved."""
    log = clickshop.log()
    chosen = small(card, preset)
    model = build(card, chosen, log)
    fit(
        model,
        batch_at(log, clickshop.train_rows(log), chosen.training),
        chosen.training,
        validate=counting(chosen.training.metric),
        checkpoints=Checkpoints(path),
    )
    tensors, _ = checkpoint.read(path / checkpoint.BEST)
    with initial_weights(9):
        other = card.build(chosen.model, click_facts(log, chosen.training).without_training())
    checkpoint.restore(other, tensors, path / checkpoint.BEST)
    batch = batch_of(log, range(30))
    assert torch.equal(answer(other.eval(), batch), answer(model.eval(), batch))


def resuming_equals_an_unbroken_run(card, preset, path, updates):
    """Killed between two validations, a run goes on from its last checkpoint to the same bits."""
    log = clickshop.log()
    chosen = small(card, preset, item_updates=updates, anneal=0.5, save_every=3, max_steps=9)
    at = batch_at(log, clickshop.train_rows(log), chosen.training)

    def stop(moment):
        if moment.step == 7:
            raise KeyboardInterrupt

    def run(folder, seed, watch=None):
        folder.mkdir(exist_ok=True)
        model = build(card, chosen, log, seed)
        validate = careless(chosen.training.metric)
        return model, fit(model, at, chosen.training, validate=validate, checkpoints=Checkpoints(folder), watch=watch)

    unbroken, trail = run(path / "whole", 0)
    try:
        run(path / "broken", 0, stop)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the run was not stopped")
    resumed, again = run(path / "broken", 9)
    assert all(torch.equal(resumed.state_dict()[name], value) for name, value in unbroken.state_dict().items())
    one, other = (checkpoint.read(path / part / checkpoint.LAST)[0] for part in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(other[name], value) for name, value in one.items())
    told = [[(r.step, r.metrics, r.terms, r.gauges) for r in each.records] for each in (trail, again)]
    assert told[0] == told[1]


def settings_round_trip(card, preset):
    chosen = settings.preset(card, preset)
    for value in (chosen.model, chosen.training, small(card, preset).model):
        assert settings.from_dict(type(value), dataclasses.asdict(value), "run.json") == value
    assert isinstance(chosen.model, card.config)
    assert chosen.source
    assert chosen.training.metric in {"auc", "gauc"}


def learns_what_is_liked(card, preset):
    """After some passes over the shop, held-out clicks are told from other showings better than by chance."""
    log = clickshop.log(samples=2000)
    chosen = small(card, preset, dim=8, hidden=(32, 16), batch_size=64, max_steps=90, validate_every=90, lr=0.02)
    model = build(card, chosen, log)
    train = clickshop.train_rows(log)
    at = batch_at(log, train, chosen.training)
    optimizer = torch.optim.Adam(model.parameters(), chosen.training.lr)
    torch.manual_seed(0)
    for step in range(chosen.training.max_steps):
        optimizer.zero_grad()
        sum(model.train().loss(at(step)).values()).backward()
        optimizer.step()
    test = np.flatnonzero(log.time >= clickshop.SPLIT[0])
    batch = batch_of(log, test)
    if torch.equal(answer(model.eval(), batch), answer(model, dataclasses.replace(batch, end=batch.start))):
        test = train  # a model without histories knows how often what was clicked, and no taste
    scores = answer(model, batch_of(log, test))
    label = torch.from_numpy(log.label[test].astype(bool))
    above = (scores[label].unsqueeze(1) > scores[~label]).double().mean()
    assert above > (0.55 if test is train else 0.7)  # by chance one half
