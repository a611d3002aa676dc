"""A target's interest channels: their directions, which behaviours each gets and keeps, and what is made of these."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clicks
from diffacet.core.behaviours import Channels, Fields, Router, orthonormal, rescaled
from diffacet.core.behaviours import channels as module
from diffacet.core.behaviours.channels import Aggregate
from diffacet.errors import BadSetting
from reference import normal

ROUTINGS, FILTERS, SCOPES = ("top-1", "top-2", "none"), ("top-p", "top-k", "none"), ("routed", "column")
KINDS = ("mean", "score-mean", "released", "target", "self")


def whole_fields(seed, dim=2):
    """Fields whose vectors are small whole numbers, so that products are exact and many of them equal."""
    fields = Fields(clicks.fields(), dim).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        fields.table.weight.copy_(torch.randint(-1, 2, fields.table.weight.shape, generator=generator))
    return fields


def real_fields(seed=0, dim=3):
    """Fields whose vectors are all different, so that no two behaviours are alike unless their values are."""
    fields = Fields(clicks.fields(), dim).double()
    with torch.no_grad():
        fields.table.weight.copy_(normal(*fields.table.weight.shape, seed=seed))
    return fields


def different(seed, B=6, users=3, longest=30):
    """A batch in which no two behaviours are the same, over 500 items."""
    about = clicks.fields(sizes=(503, 7, 5))
    batch = clicks.batch(seed, B, users, longest, about)
    items = 3 + torch.randperm(500, generator=torch.Generator().manual_seed(seed))[: len(batch.behaviours)]
    return clicks.changed(batch, behaviours=torch.cat([items.unsqueeze(1), batch.behaviours[:, 1:]], 1)), about


def spread(about, dim=3, seed=0):
    fields = Fields(about, dim).double()
    with torch.no_grad():
        fields.table.weight.copy_(normal(*fields.table.weight.shape, seed=seed))
    return fields


def omie(d, c=3, *, router=None, aggregation="score-mean", seed=0, **how):
    torch.manual_seed(seed)
    return Channels(d, c, router or Router(), aggregation, **how).double()


def directions(B, c, d, seed=0):
    return orthonormal(normal(B, d, c, seed=seed))


# --- directions ------------------------------------------------------------------------------------------------


def harmless(c, d=9):
    return normal(50, d, c, dtype=torch.float32)


def nearly_parallel(c, d=9, B=50):
    """Columns whose cosines are 1 - 1e-6."""
    one = torch.nn.functional.normalize(normal(B, d, 1, dtype=torch.float32), dim=1)
    rest = normal(B, d, c, seed=1, dtype=torch.float32)
    rest = torch.nn.functional.normalize(rest - one * (one * rest).sum(1, keepdim=True), dim=1)
    return one + math.sqrt(1e-6) * rest


@pytest.mark.parametrize("kind", ["qr", "symmetric"])
@pytest.mark.parametrize("c", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "make",
    [
        harmless,
        nearly_parallel,
        lambda c: torch.zeros(5, 9, c),
        lambda c: torch.ones(5, 9, c),
        lambda c: 1e-12 * harmless(c),
        lambda c: 1e3 * harmless(c),
    ],
    ids=["random", "parallel", "zero", "equal", "tiny", "large"],
)
def test_directions_are_orthonormal_with_finite_gradients(make, c, kind):
    columns = make(c).requires_grad_()
    found = orthonormal(columns, kind)
    assert found.shape == (len(columns), c, 9)
    assert found.dtype == torch.float32
    assert (found @ found.transpose(1, 2) - torch.eye(c)).abs().max() <= 1e-5
    (found * normal(*found.shape, seed=2).float()).sum().backward()
    assert columns.grad.isfinite().all()


@pytest.mark.parametrize("c", [1, 3, 6])
def test_directions_are_those_of_householder_with_a_positive_diagonal(c):
    columns = normal(30, 7, c, dtype=torch.float32)
    jittered = columns + 1e-4 * torch.eye(7, c)
    q, r = torch.linalg.qr(jittered)
    expected = (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).transpose(1, 2)
    assert torch.allclose(orthonormal(columns), expected, atol=1e-4)
    upper = orthonormal(columns) @ jittered
    assert (upper.diagonal(dim1=1, dim2=2) > 0).all()
    assert upper.tril(-1).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["qr", "symmetric"])
def test_directions_span_the_columns(kind):
    columns = normal(30, 7, 3)
    found = orthonormal(columns, kind)
    jittered = columns + 1e-4 * torch.eye(7, 3, dtype=torch.float64)
    back = found.transpose(1, 2) @ (found @ jittered)
    assert (back - jittered).norm(dim=1).div(jittered.norm(dim=1)).max() < 1e-4


def test_symmetric_directions_are_the_polar_factor():
    columns = normal(30, 7, 3)
    u, _, v = torch.linalg.svd(columns + 1e-4 * torch.eye(7, 3, dtype=torch.float64), full_matrices=False)
    assert torch.allclose(orthonormal(columns, "symmetric"), (u @ v).transpose(1, 2), atol=1e-9)
    order = [2, 0, 1]  # but for the jitter no channel is favoured
    turned = orthonormal(columns[:, :, order], "symmetric")
    assert torch.allclose(turned, orthonormal(columns, "symmetric")[:, order], atol=1e-2)


def test_zeros_have_the_canonical_axes():
    for kind in ("qr", "symmetric"):
        assert torch.allclose(orthonormal(torch.zeros(2, 5, 3), kind), torch.eye(3, 5).expand(2, -1, -1), atol=1e-6)


def test_scale_and_sign_without_jitter(monkeypatch):
    monkeypatch.setattr(module, "JITTER", 0.0)
    columns = normal(30, 7, 4)
    found = orthonormal(columns)
    for scale in (1e-3, 0.7, 300.0):
        assert torch.allclose(orthonormal(scale * columns), found, atol=1e-10)
    for j in range(4):
        signs = torch.ones(4, dtype=torch.float64)
        signs[j] = -1
        assert torch.equal(orthonormal(columns * signs), found * signs.unsqueeze(1))


def test_directions_are_never_found_in_half_precision():
    columns = harmless(4)
    assert orthonormal(columns.bfloat16()).dtype == torch.float32
    made = Channels(9, 4, Router(), "mean")
    target = normal(6, 9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.directions(target), made.directions(target))
        inside = made.directions(target)
    assert torch.equal(inside, made.directions(target))
    assert inside.dtype == torch.float32


def test_directions_come_from_a_projection_of_the_target():
    """Component q c + j of the product is row q of column j."""
    made = omie(6, 3)
    target = normal(4, 6)
    found = made.directions(target)
    for b in range(4):
        columns = torch.zeros(6, 3, dtype=torch.float64)
        for q in range(6):
            for j in range(3):
                columns[q, j] = sum(target[b, p] * made.weight[p, q * 3 + j] for p in range(6))
        assert torch.allclose(found[b], orthonormal(columns.unsqueeze(0))[0], atol=1e-9)


def test_by_target_there_is_one_channel_of_the_targets_direction():
    made = omie(6, 3, by_target=True, aggregation="mean")
    target = normal(4, 6)
    assert made.count == 1
    assert not list(made.parameters())
    assert torch.allclose(made.directions(target)[:, 0], target / target.norm(dim=1, keepdim=True))


def test_more_channels_than_dimensions_are_refused():
    with pytest.raises(BadSetting, match=r"no more than 4 channels .* got 5"):
        Channels(4, 5, Router(), "mean")
    Channels(4, 4, Router(), "mean")
    Channels(4, 5, Router(), "mean", by_target=True)


# --- routing and filtering -------------------------------------------------------------------------------------


def limit_by_hand(router, n):
    if router.filter == "top-p":
        return math.ceil(Fraction(round(router.percent * 100), 10_000) * n)
    return min(n, router.count) if router.filter == "top-k" else n


@torch.no_grad()
def routed_by_hand(router, fields, batch, channels):
    """(kept (sample, channel, behaviour), behaviours that each channel got), sample by sample."""
    B, c, _ = channels.shape
    kept, got = set(), torch.zeros(B, c, dtype=torch.int64)
    for b in range(B):
        history = range(int(batch.start[b]), int(batch.end[b]))
        vector = {i: fields.behaviours(batch, torch.tensor(i)) for i in history}
        score = {(i, j): float(vector[i] @ channels[b, j]) for i in history for j in range(c)}
        own = [set() for _ in range(c)]
        for i in history:
            nearest = sorted(range(c), key=lambda j: (-score[i, j], j))
            for j in nearest[: {"top-1": 1, "top-2": 2, "none": c}[router.routing]]:
                own[j].add(i)
        for j in range(c):
            got[b, j] = len(own[j])
            among = own[j] if router.scope == "routed" else set(history)
            best = sorted(among, key=lambda i: (-score[i, j], -i))[: limit_by_hand(router, len(among))]
            kept |= {(b, j, i) for i in best if i in own[j]}
    return kept, got


def told(routed, c):
    triples = [(row // c, row % c, i) for row, i in zip(routed.row.tolist(), routed.place.tolist(), strict=True)]
    assert len(set(triples)) == len(triples)
    assert routed.sample.tolist() == [b for b, _, _ in triples]
    return set(triples)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("keeps", FILTERS)
@pytest.mark.parametrize("routing", ROUTINGS)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 999),
    c=st.integers(1, 4),
    longest=st.integers(0, 9),
    percent=st.sampled_from([0.01, 20.0, 33.33, 70.0, 100.0]),
    count=st.integers(1, 4),
    budget=st.sampled_from([1, 7, 10_000]),
)
def test_routing_and_filter_equal_their_loop(routing, keeps, scope, seed, c, longest, percent, count, budget):
    router = Router(routing, keeps, percent, count, scope, budget)
    fields, batch = whole_fields(seed), clicks.batch(seed, B=5, users=2, longest=longest)
    channels = torch.randint(-1, 2, (5, c, 6), generator=torch.Generator().manual_seed(seed)).double()
    found = router(fields, batch, channels)
    kept, got = routed_by_hand(router, fields, batch, channels)
    assert told(found, c) == kept
    assert torch.equal(found.got, got)
    for b in range(5):
        for j in range(c):
            assert int(found.kept[b, j]) == sum((b, j) == told[:2] for told in kept)
    assert torch.equal(found.active, found.kept > 0)
    if scope == "routed":
        assert torch.equal(found.active, got > 0)


def test_every_behaviour_has_exactly_one_channel():
    batch, about = different(0, B=20)
    found = Router(filter="none")(spread(about), batch, directions(20, 4, 9))
    assert torch.equal(found.got.sum(1), batch.lengths)
    assert torch.equal(found.kept, found.got)
    pairs = sorted(zip(found.sample.tolist(), found.place.tolist(), strict=True))
    expected = [(b, i) for b in range(20) for i in range(int(batch.start[b]), int(batch.end[b]))]
    assert pairs == expected


def test_a_behaviour_whose_scores_are_all_negative_is_routed_too():
    batch, about = different(1)
    fields = spread(about)
    found = Router(filter="none")(fields, batch, torch.cat([directions(6, 2, 9)] * 2, 1) * -1)
    assert torch.equal(found.got.sum(1), batch.lengths)
    assert not found.got[:, 2:].any()  # of equals the first
    score = fields.behaviours(batch, found.place) * -directions(6, 2, 9).view(12, 9)[found.row // 4 * 2 + found.row % 4]
    assert (score.sum(1) < 0).any()


def lengths_up_to(longest):
    """One user; sample n sees its first n behaviours, all different."""
    about = clicks.fields(sizes=(longest + 3, 7, 5))
    batch = clicks.batch(0, B=longest + 1, users=1, longest=longest, click=about)
    behaviours = torch.stack([torch.arange(3, longest + 3)] + [torch.full((longest,), 3)] * 2, 1)
    zeros = torch.zeros(longest + 1, dtype=torch.int64)
    return clicks.changed(batch, behaviours=behaviours, start=zeros, end=torch.arange(longest + 1)), about


@pytest.mark.parametrize("c", [1, 3])
def test_the_best_fifth_is_kept_rounded_up(c):
    batch, about = lengths_up_to(200)
    fields, channels = spread(about).requires_grad_(False), directions(1, c, 9).expand(201, -1, -1)
    found, every = (Router(filter=keeps)(fields, batch, channels) for keeps in ("top-p", "none"))
    assert found.kept.tolist() == [[-(-n // 5) for n in row] for row in found.got.tolist()]
    kept = told(found, c)
    score = fields.behaviours(batch, torch.arange(200)) @ channels[0].T
    lowest, highest = {}, {}
    for b, j, i in told(every, c):
        if (b, j, i) in kept:
            lowest[b, j] = min(lowest.get((b, j), math.inf), float(score[i, j]))
        else:
            highest[b, j] = max(highest.get((b, j), -math.inf), float(score[i, j]))
    assert highest.keys() <= lowest.keys()
    assert all(lowest[key] >= highest[key] for key in highest)


@given(st.integers(0, 10**6), st.integers(1, 10_000))
def test_limits_are_exact(n, points):
    router = Router(percent=points / 100)
    expected = math.ceil(Fraction(points, 10_000) * n)
    assert router.limits(torch.tensor([n])).tolist() == [expected]
    assert expected >= min(n, 1)


def test_windows_of_any_size_route_alike():
    batch, about = different(2, B=12, users=4)
    fields, channels = spread(about), directions(12, 4, 9)
    made = omie(9, 4)
    target = fields.target(batch)
    expected = told(Router()(fields, batch, channels), 4)
    whole = made(fields, batch, target)[0]
    for budget in (1, 7, 30, 512):
        router = Router(budget=budget)
        found = router(fields, batch, channels)
        assert told(found, 4) == expected
        assert torch.equal(found.got, Router()(fields, batch, channels).got)
        made.router = router
        assert torch.allclose(made(fields, batch, target)[0], whole, atol=1e-12)


def test_routing_is_not_in_half_precision():
    batch, about = different(3, B=12, users=4)
    fields, channels = spread(about).float(), directions(12, 4, 9).float()
    expected = told(Router()(fields, batch, channels), 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert told(Router()(fields, batch, channels), 4) == expected


def test_nobody_has_behaviours():
    batch = clicks.batch(0, B=3, users=2, longest=0)
    assert not len(batch.behaviours)
    fields, made = real_fields(), omie(9)
    raw, channels, routed = made(fields, batch, fields.target(batch))
    assert torch.equal(raw, torch.zeros(3, 3, 9, dtype=torch.float64))
    assert not routed.got.any()
    assert not routed.active.any()
    assert not len(routed.row)
    raw.sum().backward()
    assert channels.isfinite().all()


# --- aggregation -----------------------------------------------------------------------------------------------


def aggregated_by_hand(aggregate, fields, batch, routed, channels, target):
    B, c, d = channels.shape
    out = torch.zeros(B, c, d, dtype=torch.float64)
    kept = told(routed, c)
    for b in range(B):
        for j in range(c):
            mine = [i for owner, of, i in kept if (owner, of) == (b, j)]
            if not mine:
                continue
            vectors = [fields.behaviours(batch, torch.tensor(i)) for i in mine]
            if aggregate.kind == "self":
                joined = torch.stack(vectors).unsqueeze(0)
                nothing = torch.zeros(1, 1, len(mine), dtype=torch.float64)
                out[b, j] = aggregate.block(joined, nothing)[0].mean(0)
                continue
            score = [float(vector @ channels[b, j]) for vector in vectors]
            near = [math.exp(float(vector @ target[b]) / math.sqrt(d)) for vector in vectors]
            weight = {
                "mean": [1 / len(mine)] * len(mine),
                "score-mean": [s / len(mine) for s in score],
                "released": [s / aggregate.length for s in score],
                "target": [n / sum(near) for n in near],
            }[aggregate.kind]
            out[b, j] = sum(w * vector for w, vector in zip(weight, vectors, strict=True))
    return out


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 999), c=st.integers(1, 4), longest=st.integers(0, 9), routing=st.sampled_from(ROUTINGS))
def test_aggregation_equals_its_loop(kind, seed, c, longest, routing):
    fields, batch = real_fields(seed), clicks.batch(seed, B=5, users=2, longest=longest)
    made = omie(9, c, router=Router(routing, percent=50.0), aggregation=kind, heads=3, length=17)
    target = fields.target(batch)
    raw, channels, routed = made(fields, batch, target)
    expected = aggregated_by_hand(made.aggregate, fields, batch, routed, channels, target)
    assert torch.allclose(raw, expected, atol=1e-9)
    assert not raw[~routed.active].any()


def test_released_sums_are_over_the_longest_history_where_there_is_one():
    assert Aggregate("released", 4, 2, 50).length == 50
    assert Aggregate("released", 4, 2, 0).length == 1


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_behaviours_is_irrelevant(kind):
    batch, about = different(4)
    fields, made = spread(about), omie(9, aggregation=kind, heads=3)
    once = clicks.changed(batch, start=batch.start * 0, end=torch.full_like(batch.end, len(batch.behaviours)))
    target = fields.target(batch)
    order = torch.randperm(len(batch.behaviours), generator=torch.Generator().manual_seed(1))
    turned = clicks.changed(once, behaviours=batch.behaviours[order])
    assert torch.allclose(made(fields, turned, target)[0], made(fields, once, target)[0], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_sample_sees_is_irrelevant_and_learns_nothing(kind):
    batch, about = different(5)
    fields, made = spread(about), omie(9, aggregation=kind, heads=3)
    raw = made(fields, batch, fields.target(batch))[0]
    more = clicks.padded(batch, 7)
    strangers = torch.tensor([[502, 6, 4]]).expand(7, -1)
    more = clicks.changed(more, behaviours=torch.cat([strangers, batch.behaviours]))
    found = made(fields, more, fields.target(more))[0]
    assert torch.allclose(found, raw, atol=1e-12)
    (found * normal(*found.shape)).sum().backward()
    gradient = fields.table.weight.grad
    seen = {int(v) for b in range(6) for v in batch.behaviours[int(batch.start[b]) : int(batch.end[b]), 0]}
    seen |= set(batch.target[:, 0].tolist())
    assert set(gradient[:503].any(1).nonzero()[:, 0].tolist()) <= seen
    assert not gradient[fields.begins].any()


# --- gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "learns"), [(kind, kind in {"score-mean", "released"}) for kind in KINDS])
def test_only_scores_carry_gradient_to_the_projection(kind, learns):
    """Routing and filter are hard: a mean of what they leave says nothing of the channels."""
    batch, about = different(6)
    fields, made = spread(about), omie(9, aggregation=kind, heads=3)
    raw = made(fields, batch, fields.target(batch))[0]
    (raw * normal(*raw.shape)).sum().backward()
    assert (made.weight.grad is not None and bool(made.weight.grad.any())) == learns
    assert fields.table.weight.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dropped_learns_nothing(kind):
    batch, about = different(7)
    targets = torch.cat([torch.ones(6, 1, dtype=torch.int64), batch.target[:, 1:]], 1)  # an unknown item
    batch = clicks.changed(batch, target=targets)
    fields, made = spread(about), omie(9, aggregation=kind, heads=3)
    raw, _, routed = made(fields, batch, fields.target(batch))
    (raw * normal(*raw.shape)).sum().backward()
    learned = fields.table.weight.grad[3:503].any(1).nonzero()[:, 0] + 3
    kept = batch.behaviours[routed.place, 0].unique()
    assert torch.equal(learned, kept)
    assert len(kept) < len(batch.behaviours) / 2


# --- small parts -----------------------------------------------------------------------------------------------


def test_rescaled_interests_have_one_length():
    interests = normal(3, 4, 9)
    interests[1, 2] = 0
    for scale, length in (("one", 1.0), ("root-d", 3.0)):
        found = rescaled(interests, scale)
        lengths = found.norm(dim=-1)
        assert not found[1, 2].any()
        lengths[1, 2] = length
        assert torch.allclose(lengths, torch.tensor(length, dtype=torch.float64))
        assert torch.allclose(
            torch.nn.functional.cosine_similarity(found, interests, dim=-1).sum(), torch.tensor(11.0).double()
        )


def test_gauges_equal_their_loops():
    batch, about = different(8, B=7)
    fields, made = spread(about), omie(9, 4)
    raw, _, routed = made(fields, batch, fields.target(batch))
    assert "gradient" not in made.diagnose(raw, routed)
    (raw * normal(*raw.shape)).sum().backward()
    raw = raw.detach()
    found = {name: float(value) for name, value in made.diagnose(raw, routed).items()}
    got = routed.got.tolist()
    assert found["active"] == pytest.approx(sum(n > 0 for row in got for n in row) / 28)
    assert found["largest"] == pytest.approx(
        sum(max(row) / sum(row) for row in got if any(row)) / sum(any(row) for row in got)
    )
    for j in range(4):
        assert found[f"got_{j + 1}"] == pytest.approx(sum(row[j] for row in got) / 7)
    cosines = [
        (raw[a, j] @ raw[b, j] / raw[a, j].norm() / raw[b, j].norm()).item()
        for j in range(4)
        for a in range(7)
        for b in range(7)
        if a != b and got[a][j] and got[b][j]
    ]
    assert found["alike"] == pytest.approx(sum(cosines) / len(cosines))
    assert found["gradient"] == pytest.approx(math.sqrt(float(made.weight.grad.square().sum())))


def test_gauges_without_behaviours_are_numbers():
    batch = clicks.batch(0, B=3, users=2, longest=0)
    fields, made = real_fields(), omie(9)
    raw, _, routed = made(fields, batch, fields.target(batch))
    assert all(math.isfinite(value) and not value for value in made.diagnose(raw.detach(), routed).values())


def test_settings_are_values():
    assert dataclasses.asdict(Router())["percent"] == 20.0
