"""What every model promises, whichever it is: functions of a card and one of its presets.

Nothing here knows a model by name. Sizes are made small by the settings that a model has; all other settings
are those of the preset.
"""

import copy
import dataclasses

import numpy as np
import polars as pl
import torch

from diffacet.app import settings
from diffacet.core.batch import Histories, PositionBatch, ProfileBatch, SequenceBatch
from diffacet.core.contract import Matcher, Scorer, Trained
from diffacet.data.ids import Ids
from diffacet.data.sequences import Sequences
from diffacet.learn import batches, checkpoint
from diffacet.learn.checkpoint import Checkpoints
from diffacet.learn.fit import fit, initial_weights
from diffacet.rank.candidates import Query
from diffacet.rank.retriever import Retriever

N_ITEMS, LENGTH, USERS = 24, 7, 20
SMALL = {
    "dim": 16,
    "interests": 2,
    "steps": 5,
    "noise_scale": 1.0,
    "dims": (8,),
    "latent": 24,
    "width": 8,
    "regularization": 1.0,
}
QUICK = {"batch_size": 8, "length": LENGTH, "max_steps": 6, "validate_every": 2, "patience": 100, "anneal": 0.0}
LEARNING = {"max_steps": 150, "validate_every": 150, "lr": 0.01, "batch_size": 20}
"""With these, a model learns a checkerboard."""


def small(card, preset, **changes):
    """The preset with small sizes; negatives are as many as there are items, unless it takes all of them."""
    chosen = settings.preset(card, preset)
    names = {f.name for f in dataclasses.fields(chosen.model)} | {f.name for f in dataclasses.fields(chosen.training)}
    few = {"negatives": min(chosen.training.negatives, N_ITEMS)}
    sizes = {name: value for name, value in {**SMALL, **QUICK, **few, **changes}.items() if name in names}
    return settings.apply(card, chosen, sizes)


def log(groups=1, seed=0, users=USERS):
    """Training sequences; with two groups, users of a group meet only the odd or only the even items."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        own = np.arange(1 + user % groups, N_ITEMS + 1, groups)
        rows.append(rng.choice(own, rng.integers(6, 12)))
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    times = 86_400 * np.random.default_rng([seed, 1]).integers(0, 9, offsets[-1]).cumsum()
    return Sequences(np.concatenate(rows), offsets, np.arange(users, dtype=np.int64), times)


def facts(chosen, train=None):
    """What a constructor is told; items in two clusters, for models that ask for them."""
    clusters = np.concatenate([[-1], np.arange(N_ITEMS) % 2])
    users = USERS if train is None else len(train)
    return batches.facts(train or log(), N_ITEMS, chosen.training, users, clusters)


def build(card, chosen, train=None, seed=0):
    with initial_weights(seed):
        return card.build(chosen.model, facts(chosen, train))


def shaken(model, seed=0):
    """As after some training: no parameter is exactly what initialisation made it; padding stays zero."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            zero = parameter.ndim == 2 and not parameter[0].any()
            parameter.add_(0.1 * torch.randn_like(parameter))
            if zero and parameter.shape[0] == N_ITEMS + 1:
                parameter[0] = 0
    return model


def histories(rows, width=LENGTH, case=None):
    items = torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    case = torch.arange(len(rows)) if case is None else torch.tensor(case)
    times = 86_400 * torch.arange(width).square() * (items != 0)
    return Histories(items, torch.full((len(rows),), -1), case, times)


def answer(model, history):
    """(B, N + 1) scores of a model of either kind."""
    with torch.no_grad():
        if isinstance(model, Scorer):
            return model.scores(history)
        assert isinstance(model, Matcher)
        return torch.einsum("bkd,nd->bkn", model.interests(history), model.catalogue()).amax(1)


PASTS = [[1, 2, 3, 4, 5, 6, 7], [8], [3, 3, 9], [], [24, 1], [5, 6, 7, 8]]


# --- what is promised ------------------------------------------------------------------------------------------


def finite_loss_of_named_terms(card, preset):
    chosen = small(card, preset)
    model = build(card, chosen)
    for step in range(3):
        terms = model.train().loss(
            batches.batch_at(log(), N_ITEMS, chosen.training, batches.form(card, chosen.training))(step)
        )
        assert terms
        for name, term in terms.items():
            assert name.isidentifier()
            assert term.shape == ()
            assert term.isfinite()
            assert term.requires_grad


def gradient_where_it_should_be(card, preset):
    """Every parameter learns, padding never does, and a table only where the batch touched it."""
    chosen = small(card, preset, negatives=3)
    model = shaken(build(card, chosen)).train()
    learned, batch_at = set(), batches.batch_at(log(), N_ITEMS, chosen.training, batches.form(card, chosen.training))
    for step in range(4):
        model.zero_grad()
        torch.manual_seed(step)
        batch = batch_at(step)
        sum(model.loss(batch).values()).backward()
        touched = touched_by(batch)
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            assert parameter.grad.isfinite().all(), name
            if parameter.grad.any():
                learned.add(name)
            if parameter.shape[0] == N_ITEMS + 1 and touched:
                assert set(parameter.grad.any(-1).nonzero()[:, 0].tolist()) <= touched, name
    assert learned == set(dict(model.named_parameters()))


def touched_by(batch):
    """Items whose vectors a batch may move; none for the forms in which whole rows or graphs are read."""
    if isinstance(batch, SequenceBatch | PositionBatch):
        numbers = (batch.history.items, batch.target, batch.negatives)
        return {number for part in numbers for number in part.flatten().tolist()} - {0}
    return set()


def shapes(card, preset):
    model = shaken(build(card, small(card, preset))).eval()
    assert isinstance(model, Matcher) != isinstance(model, Scorer)
    for rows in (PASTS, PASTS[:1]):
        history = histories(rows)
        with torch.no_grad():
            if isinstance(model, Scorer):
                assert model.scores(history).shape == (len(rows), N_ITEMS + 1)
                assert model.scores(history).dtype == torch.float32
            else:
                B, K, d = model.interests(history).shape
                assert len(rows) == B
                assert K >= 1
                assert model.catalogue().shape == (N_ITEMS + 1, d)
                assert model.interests(history).dtype == model.catalogue().dtype == torch.float32


def same_answer_alone_or_in_a_batch(card, preset):
    """In float64, where the order of a sum does not show; the noise of a case follows the case."""
    chosen = small(card, preset)
    model = shaken(build(card, chosen)).double().eval()
    case = [3, 0, 2050, 1, 1023, 3]
    together = answer(model, histories(PASTS, case=case))
    assert torch.equal(answer(model, histories(PASTS, case=case)), together)
    order = [5, 2, 0, 4, 1, 3]
    turned = answer(model, histories([PASTS[i] for i in order], case=[case[i] for i in order]))
    assert torch.allclose(turned, together[order], atol=1e-9)
    for i, (row, one) in enumerate(zip(PASTS, case, strict=True)):
        assert torch.allclose(answer(model, histories([row], case=[one]))[0], together[i], atol=1e-9)


def bit_equal_in_any_company(card, preset):
    """What serving promises: through a Retriever an answer depends on its query alone, to the bit."""
    chosen = small(card, preset)
    model = shaken(build(card, chosen)).eval()
    service = Retriever(model, Ids(pl.Series(range(1, N_ITEMS + 1)), 1), length=chosen.training.length)
    rng = np.random.default_rng(0)
    asked = [Query(rng.integers(1, N_ITEMS + 1, rng.integers(1, 12)).tolist(), 5) for _ in range(20)]
    for query, found in zip(asked, service.answer(asked), strict=True):
        alone = service.answer([query])[0]
        assert found.item_id.to_list() == alone.item_id.to_list()
        assert found.score.tobytes() == alone.score.tobytes()


def explains_its_answer(card, preset):
    """For a model that explains: what it explains is what it answers with, row by row."""
    model = shaken(build(card, small(card, preset))).eval()
    history = histories(PASTS)
    with torch.no_grad():
        told = model.explain(history)
        if isinstance(model, Matcher):
            assert torch.equal(told.refined, model.interests(history))
        alone = model.explain(histories(PASTS[:1]))
    B, K, d = told.coarse.shape
    assert told.refined.shape == (B, K, d)
    assert told.items.shape == (B, LENGTH, d)
    assert told.attention.shape == (B, K, LENGTH)
    assert (told.attention >= 0).all()
    assert not told.attention[(history.items == 0).unsqueeze(1).expand_as(told.attention)].any()
    if told.kept is not None:
        assert told.kept.shape == told.attention.shape
        assert not (told.kept & (history.items == 0).unsqueeze(1)).any()
        assert (told.kept.any(-1) == (history.items != 0).any(-1, keepdim=True)).all()
    assert torch.allclose(alone.refined[0], told.refined[0], atol=1e-5)
    assert torch.allclose(alone.attention[0], told.attention[0], atol=1e-5)


def padding_is_irrelevant(card, preset):
    """The same history, padded to any width up to what the model was built for; who the user is does not matter."""
    chosen = small(card, preset)
    model = shaken(build(card, chosen)).double().eval()
    short = [row for row in PASTS if len(row) <= 4]
    expected = answer(model, histories(short))
    for width in range(4, LENGTH):
        assert torch.allclose(answer(model, histories(short, width)), expected, atol=1e-9)


def padding_row_is_irrelevant(card, preset):
    """What a table holds at row 0 reaches no answer about real items."""
    chosen = small(card, preset)
    model = shaken(build(card, chosen)).double().eval()
    expected = answer(model, histories(PASTS))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[0] == N_ITEMS + 1:
                parameter[0] = 1e3
    assert torch.allclose(answer(model, histories(PASTS))[:, 1:], expected[:, 1:], atol=1e-9)


def an_empty_history_is_finite(card, preset):
    model = shaken(build(card, small(card, preset))).eval()
    for rows in ([[]], [[], []], [[], [1, 2]]):
        assert answer(model, histories(rows))[:, 1:].isfinite().all()  # a Scorer may rule padding out by -inf


def inference_leaves_everything_alone(card, preset):
    model = shaken(build(card, small(card, preset))).eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    answer(model, histories(PASTS))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def checkpoint_round_trip(card, preset, path):
    """A model built without the data, as a run is loaded, answers as the one that was saved."""
    chosen = small(card, preset)
    train = log()
    model = build(card, chosen, train)
    validate = counting(chosen.training.metric)
    fit(
        model,
        batches.batch_at(train, N_ITEMS, chosen.training, batches.form(card, chosen.training)),
        chosen.training,
        validate=validate,
        checkpoints=Checkpoints(path),
    )
    tensors, story = checkpoint.read(path / checkpoint.BEST)
    best = max(record["step"] for record in story["records"])
    with initial_weights(9):
        other = card.build(chosen.model, facts(chosen, train).without_training())
    checkpoint.restore(other, tensors, path / checkpoint.BEST)
    last = checkpoint.read(path / checkpoint.LAST)[1]["records"][-1]["step"]
    assert best == last  # the validation below only rises, so the best is the model in hand
    assert torch.equal(answer(other.eval(), histories(PASTS)), answer(model.eval(), histories(PASTS)))


def settings_round_trip(card, preset):
    chosen = settings.preset(card, preset)
    for value in (chosen.model, chosen.training, small(card, preset).model):
        assert settings.from_dict(type(value), dataclasses.asdict(value), "run.json") == value
    assert isinstance(chosen.model, card.config)
    assert chosen.source


def resuming_equals_an_unbroken_run(card, preset, path, updates):
    """k steps, save, load into another model, k steps: the same to the bit as 2k (P24)."""
    chosen = small(card, preset, item_updates=updates, anneal=0.5)
    train = log()
    batch_at = batches.batch_at(train, N_ITEMS, chosen.training, batches.form(card, chosen.training))

    def stop(moment):
        if moment.step == 5:
            raise KeyboardInterrupt

    def run(folder, seed, watch=None):
        folder.mkdir(exist_ok=True)
        model = build(card, chosen, train, seed)
        trail = fit(
            model,
            batch_at,
            chosen.training,
            validate=careless(chosen.training.metric),
            checkpoints=Checkpoints(folder),
            watch=watch,
        )
        return model, trail

    unbroken, trail = run(path / "whole", 0)
    try:
        run(path / "broken", 0, stop)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the run was not stopped")
    resumed, again = run(path / "broken", 9)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    one, other = (checkpoint.read(path / part / checkpoint.LAST)[0] for part in ("whole", "broken"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    assert [(r.step, r.metrics, r.terms, r.gauges) for r in again.records] == [
        (r.step, r.metrics, r.terms, r.gauges) for r in trail.records
    ]


def learns_a_checkerboard(card, preset):
    """Two groups of users who share no item: a user's best unseen items are those of the own group."""
    chosen = small(card, preset, **LEARNING)
    train = log(groups=2, users=120)  # so many that no model can know each by heart
    model, batch_at = (
        build(card, chosen, train),
        batches.batch_at(train, N_ITEMS, chosen.training, batches.form(card, chosen.training)),
    )
    if isinstance(model, Trained):
        optimizer = torch.optim.Adam(model.parameters(), chosen.training.lr)
        torch.manual_seed(0)
        for step in range(chosen.training.max_steps):
            optimizer.zero_grad()
            sum(model.train().loss(batch_at(step)).values()).backward()
            optimizer.step()
    rows = [train.row(user)[-LENGTH:].tolist() for user in range(len(train))]
    best = answer(model.eval(), histories(rows))[:, 1:].topk(6).indices + 1  # (U, 6)
    own = 1 + torch.arange(len(rows)).unsqueeze(1) % 2  # odd items for even users, even ones for odd
    inside = ((best - own) % 2 == 0).float().mean()
    assert inside > 0.9  # by chance one half


def ranks_the_own_block(model, optimizer, history, rows, steps):
    """Trained on whole rows of two blocks of ten items, a model ranks what a user lacks of the own block first."""
    for _ in range(steps):
        optimizer.zero_grad()
        sum(model.loss(ProfileBatch(history)).values()).backward()
        optimizer.step()
    scores = answer(model.eval(), history)
    for user, row in enumerate(rows):
        first = 1 + 10 * (user % 2)
        own = [i for i in range(first, first + 10) if i not in row]
        other = [i for i in range(1, 21) if not first <= i < first + 10]
        assert scores[user, own].min() > scores[user, other].max()


def two_blocks(users=40):
    """Rows of which each holds seven of ten items: odd users' are 11 to 20, even users' 1 to 10."""
    rng = np.random.default_rng(0)
    return [(rng.permutation(10)[:7] + 1 + 10 * (user % 2)).tolist() for user in range(users)]


def counting(metric):
    """A validation that rises, so that the newest model is the best."""
    asked = []

    def validate(model):
        asked.append(1)
        return {metric: float(len(asked))}

    return validate


def careless(metric):
    """A validation that disturbs the global generator, as a careless one might."""

    def validate(model):
        torch.manual_seed(123)
        np.random.seed(123)  # noqa: NPY002
        return {metric: torch.rand(()).item()}

    return validate
