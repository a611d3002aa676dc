"""Small random batches of showings for tests of click models: shared users, empty histories, ties, unknown values."""

import dataclasses

import numpy as np
import torch

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import windows
from diffacet.core.contract import ClickFields, Facts
from diffacet.core.layers import ItemTable

HOUR = 3_600_000


def fields(timed=True, numeric=2, sizes=(20, 7, 5)):
    """An item, its category, and the type of a behaviour, which no target has; a user's number and two more fields."""
    return ClickFields(
        names=("item", "category", "kind")[: len(sizes)],
        sizes=tuple(sizes),
        shared=(True, True, False)[: len(sizes)],
        other_names=("user_id", "gender", "slot"),
        other_sizes=(9, 5, 6),
        numeric=numeric,
        timed=timed,
    )


def facts(timed=True, numeric=2, sizes=(20, 7, 5), length=0):
    """What the constructor of a click model is told."""
    return Facts(n_items=sizes[0] - 3, length=length, n_users=6, click=fields(timed, numeric, sizes))


def batch(seed, B=8, users=4, longest=9, click=None, sized=False):
    """B showings to some of `users` users with at most `longest` behaviours each; showing 0 has an empty history.

    Behaviours repeat, some values are unknown, and showings of a user see beginnings of its history that overlap.
    """
    click = fields() if click is None else click
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, users)
    if users:
        lengths[rng.integers(users)] = longest
    begins = np.cumsum([0, *lengths])
    n = int(begins[-1])
    drawn = np.stack([rng.choice([1, *range(3, size)], n) for size in click.sizes], 1).reshape(n, len(click.sizes))
    if n > 1:  # the same behaviour twice, side by side and far apart
        drawn[rng.integers(1, n, n // 3)] = drawn[0]
    hours = np.sort(rng.integers(0, 200, n)) if n else np.zeros(0)
    user = rng.integers(0, users, B)
    end = begins[user] + rng.integers(0, lengths[user] + 1)
    start = np.maximum(begins[user], end - rng.integers(1, max(longest, 1) + 1, B))
    end[0] = start[0]
    target = np.stack(
        [
            rng.choice([1, *range(3, size)], B) if shared else np.full(B, 2)
            for size, shared in zip(click.sizes, click.shared, strict=True)
        ],
        1,
    )
    other = np.stack([rng.choice([1, *range(3, size)], B) for size in click.other_sizes], 1)
    return ClickBatch(
        behaviours=torch.from_numpy(drawn.astype(np.int64)),
        times=torch.from_numpy((hours * HOUR).astype(np.int64)) if click.timed else None,
        sizes=torch.from_numpy(rng.integers(1, 6, n).astype(np.float32)) if sized else None,
        start=torch.from_numpy(start),
        end=torch.from_numpy(end),
        target=torch.from_numpy(target.astype(np.int64)),
        other=torch.from_numpy(other.astype(np.int64)),
        numeric=torch.from_numpy(rng.normal(size=(B, click.numeric)).astype(np.float32)),
        label=torch.from_numpy(rng.integers(0, 2, B).astype(np.float32)),
        user=torch.from_numpy(user.astype(np.int64)),
        time=torch.from_numpy(rng.integers(200, 400, B) * HOUR + rng.integers(0, HOUR, B)),
        case=torch.from_numpy(rng.integers(0, 2**62, B)),
    )


def model(card, preset="best", seed=0, about=None, **changes):
    """The model of a card in float64 with small sizes, no parameter of which is what initialisation made it."""
    small = {"hidden": (12, 7), "dim": 4, "recent": 3, "kept": 4}
    told = {field.name for field in dataclasses.fields(card.config)}
    settings = dataclasses.replace(
        card.presets[preset].model, **{k: v for k, v in (small | changes).items() if k in told}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = card.build(settings, facts() if about is None else about)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for name, buffer in built.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
                if name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
    return built.double()


def padded(told, extra=5):
    """The same batch with `extra` behaviours that no sample sees in front of all others."""
    front = told.behaviours[:1].expand(extra, -1) if len(told.behaviours) else told.target[:1].expand(extra, -1)
    times = None if told.times is None else torch.cat([torch.zeros(extra, dtype=torch.int64), told.times])
    sizes = None if told.sizes is None else torch.cat([torch.ones(extra), told.sizes])
    return changed(
        told,
        behaviours=torch.cat([front, told.behaviours]),
        times=times,
        sizes=sizes,
        start=told.start + extra,
        end=told.end + extra,
    )


def changed(told, **values):
    """The same batch with some of its tensors exchanged."""
    return dataclasses.replace(told, **values)


def alone(told, b):
    """Sample b in a batch of its own, with its own behaviours only."""
    rows = slice(int(told.start[b]), int(told.end[b]))
    own = {name: getattr(told, name)[b : b + 1] for name in ("target", "other", "numeric", "label", "user", "time")}
    return changed(
        told,
        **own,
        case=told.case[b : b + 1],
        behaviours=told.behaviours[rows],
        times=None if told.times is None else told.times[rows],
        sizes=None if told.sizes is None else told.sizes[rows],
        start=torch.zeros(1, dtype=torch.int64),
        end=told.end[b : b + 1] - told.start[b : b + 1],
    )


def seen(told, b, longest=None):
    """Rows of the behaviours that sample b sees, oldest first."""
    rows = list(range(int(told.start[b]), int(told.end[b])))
    return rows if longest is None else rows[-longest:]


def embedding(fields, values):
    """(F,) values of a behaviour or target -> (d,), field by field."""
    return torch.cat([fields.table.weight[int(b) + int(v)] for b, v in zip(fields.begins, values, strict=True)])


def age(told, b, row):
    """Bucket of a behaviour's age: whole hours, halved until one is left."""
    hours, bucket = int(told.time[b] - told.times[row]) // HOUR, 0
    while hours > 1:
        hours, bucket = hours // 2, bucket + 1
    return min(bucket, 15)


def best(scores, rows, k):
    """The k rows of highest score in float32, the later row first where scores are equal."""
    told = [float(torch.as_tensor(score).detach().float()) for score in scores]
    order = sorted(range(len(rows)), key=lambda i: (-told[i], -rows[i]))
    return [rows[i] for i in order[:k]]


def in_small_windows(monkeypatch, budget=9):
    """From here on, first stages see windows of at most `budget` behaviours."""
    place = "diffacet.core.behaviours"
    monkeypatch.setattr(f"{place}.sums.windows", lambda told, _, longest: windows(told, budget, longest))
    monkeypatch.setattr(f"{place}.search.windows", lambda told, _: windows(told, budget))


def sparse_as_dense(model, told):
    """Checks that row-sparse gradients of all tables are the dense ones."""
    tables = [module for module in model.modules() if isinstance(module, ItemTable)]
    found = []
    for sparse in (False, True):
        for table in tables:
            table.sparse = sparse
        model.zero_grad()
        sum(model.train().loss(told).values()).backward()
        found.append([table.weight.grad for table in tables])
    for dense, rows in zip(*found, strict=True):
        assert rows.is_sparse
        assert torch.allclose(rows.to_dense(), dense, atol=1e-12)


def together(model, told, long):
    """Log odds from the long-term vectors (B, .), by the model's own branch and head."""
    target = model.fields.target(told)
    return model.head(long, model.short(model.fields, told, target), target, model.fields.other(told))


def dice(module, x, training):
    """p x + alpha (1 - p) x by its definition, p the sigmoid of x standardised, in evaluation by running values."""
    norm = module.norm
    mean = x.mean(0) if training else norm.running_mean
    variance = (x - x.mean(0)).square().mean(0) if training else norm.running_var
    p = 1 / (1 + torch.exp(-(x - mean) / (variance + 1e-9).sqrt()))
    return p * x + module.alpha * (1 - p) * x


def attention(module, query, rows):
    """Multi-head target attention of one query (q,) over rows (n, m), head by head; 0 without rows."""
    heads, size = module.heads, module.size
    joined = torch.zeros(heads * size, dtype=query.dtype)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        if len(rows):
            q = module.query.weight[part] @ query
            logits = torch.stack([q @ (module.key.weight[part] @ row) / size**0.5 for row in rows])
            weights = logits.exp() / logits.exp().sum()
            joined[part] = sum(w * (module.value.weight[part] @ row) for w, row in zip(weights, rows, strict=True))
    return module.out.weight @ joined
