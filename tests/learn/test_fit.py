import dataclasses
import math

import pytest
import torch
from torch import nn

from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import Training
from diffacet.core.layers import ItemTable
from diffacet.errors import BadRun, BadSetting
from diffacet.learn import checkpoint, fit
from diffacet.learn.checkpoint import Checkpoints
from diffacet.learn.optim import Optimizer

N, D = 8, 3


class Toy(nn.Module):
    """Random in its loss and in its report, so that a disturbed stream shows."""

    def __init__(self):
        super().__init__()
        self.items = ItemTable(N, D)
        self.register_buffer("calls", torch.zeros(()))
        self.modes = []

    def loss(self, batch):
        self.modes.append(self.training)
        self.calls += 1
        drift = torch.randn(len(batch.target), D)
        return {
            "pull": (self.items(batch.target) - drift).square().mean(),
            "size": self.items(batch.target).square().mean(),
        }

    def diagnose(self, batch):
        return {"gauge": torch.randn(()) + self.items(batch.target).mean()}


class Untrained(nn.Module):
    """A model that only counts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("counts", torch.arange(4.0))


def toy(seed=0):
    with fit.initial_weights(seed):
        return Toy()


def batch_at(step):
    target = torch.randint(1, N + 1, (4,), generator=torch.Generator().manual_seed(step))
    history = Histories(target.unsqueeze(1), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    return SequenceBatch(history, target, target, step=step)


def training(**changes):
    return dataclasses.replace(Training(max_steps=12, validate_every=4, lr=0.05, patience=100), **changes)


def careless(model):
    """A validation that draws random numbers, as a careless one might."""
    assert not model.training
    torch.manual_seed(0)
    return {"recall@50": torch.rand(()).item()}


def scripted(*values):
    """A validation that answers these, one after another, and how often it was asked."""
    answers = iter(values)
    return lambda model: {"recall@50": next(answers)}


def rising(model):
    return {"recall@50": float(getattr(model, "calls", torch.zeros(())))}


def run(path, model=None, validate=rising, watch=None, at=batch_at, **changes):
    model = model or toy()
    path.mkdir(exist_ok=True)
    trail = fit.fit(model, at, training(**changes), validate=validate, checkpoints=Checkpoints(path), watch=watch)
    return model, trail


def weights_of(path):
    tensors, _ = checkpoint.read(path)
    return {name: value for name, value in tensors.items() if name.startswith("model.")}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_time(trail):
    return [dataclasses.replace(record, seconds=0.0) for record in trail.records]


def test_the_loop_is_the_loop(tmp_path):
    """Reseed, loss, backward, Adam: the same weights as a few lines written here."""
    model, trail = run(tmp_path / "run")
    other = toy()
    optimizer = torch.optim.Adam(other.parameters(), 0.05)
    sums = []
    for step in range(12):
        torch.manual_seed(fit.seeds.number(0, "model", step))
        terms = other.train().loss(batch_at(step))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        sums.append({name: term.item() for name, term in terms.items()})
    assert torch.allclose(model.items.weight, other.items.weight, atol=1e-6)
    assert [record.step for record in trail.records] == [4, 8, 12]
    for number, record in enumerate(trail.records):
        for name in ("pull", "size"):
            expected = sum(step[name] for step in sums[4 * number : 4 * number + 4]) / 4
            assert math.isclose(record.terms[name], expected, rel_tol=1e-4)
        assert set(record.gauges) == {"gauge"}
    assert all(model.modes)  # every loss in training mode, though validation evaluates in between


def test_validating_more_often_changes_no_weight(tmp_path):
    found = [run(tmp_path / str(every), validate=careless, validate_every=every)[0] for every in (1, 3, 5, 12, 1000)]
    for model in found[1:]:
        assert torch.equal(model.items.weight, found[0].items.weight)
        assert model.calls == 12


def test_the_global_generator_is_left_as_it_was(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path / "run", validate=careless)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    toy()
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_moves_weights_and_draws(tmp_path):
    one, _ = run(tmp_path / "one")
    other, _ = run(tmp_path / "other", seed=1)
    assert not torch.equal(one.items.weight, other.items.weight)  # the same start and batches: only draws differ
    assert not torch.equal(toy(0).items.weight, toy(1).items.weight)
    assert torch.equal(toy(3).items.weight, toy(3).items.weight)


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(4, 12, [4, 8, 12]), (5, 12, [5, 10, 12]), (50, 12, [12]), (1, 3, [1, 2, 3])]
)
def test_the_last_step_is_always_validated(tmp_path, every, steps, expected):
    _, trail = run(tmp_path / "run", validate_every=every, max_steps=steps)
    assert [record.step for record in trail.records] == expected


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_early_stopping_counts_validations_without_a_rise(tmp_path, patience):
    """It stops when more than `patience` in a row bring nothing new; an equal value is nothing new."""
    values = [0.1, 0.3, 0.3, 0.2, 0.3, 0.1, 0.2, 0.1]
    _, trail = run(tmp_path / "run", validate=scripted(*values), validate_every=1, max_steps=8, patience=patience)
    assert len(trail.records) == 2 + patience + 1
    assert trail.best.step == 2


def test_a_rise_restarts_the_patience(tmp_path):
    values = [0.1, 0.0, 0.2, 0.0, 0.3, 0.0, 0.0, 0.9]
    _, trail = run(tmp_path / "run", validate=scripted(*values), validate_every=1, max_steps=8, patience=1)
    assert [record.step for record in trail.records][-1] == 7
    assert trail.best.step == 5


def test_the_best_checkpoint_is_the_best(tmp_path):
    path, seen = tmp_path / "run", {}

    def validate(model):
        seen[int(model.calls)] = model.items.weight.detach().clone()
        return {"recall@50": {3: 0.2, 6: 0.7, 9: 0.7, 12: 0.1}[int(model.calls)]}

    run(path, validate=validate, validate_every=3)
    assert torch.equal(weights_of(path / checkpoint.BEST)["model.items.weight"], seen[6])
    assert torch.equal(weights_of(path / checkpoint.LAST)["model.items.weight"], seen[12])


def test_a_metric_that_is_no_number_is_never_best(tmp_path):
    values = [math.nan, 0.1, math.nan, 0.0]
    _, trail = run(tmp_path / "run", validate=scripted(*values), validate_every=3)
    assert trail.best.step == 6


def test_a_metric_that_validation_does_not_give_is_a_wrong_setting(tmp_path):
    with pytest.raises(BadSetting, match=r"recal@50.*recall@50"):
        run(tmp_path / "run", metric="recal@50")


@pytest.mark.parametrize(("anneal", "steps"), [(0.0, 10), (0.5, 10), (1.0, 10), (0.25, 8), (0.3, 10)])
def test_the_learning_rate_falls_linearly_at_the_end(anneal, steps):
    settings = training(anneal=anneal, max_steps=steps, lr=0.4)
    rates = [fit.rate(settings, step) for step in range(steps)]
    falling = anneal * steps
    for step, rate in enumerate(rates):
        left = steps - step
        assert math.isclose(rate, 0.4 if left >= falling else 0.4 * left / falling)
    assert all(rate > 0 for rate in rates)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.4


def test_annealing_reaches_the_optimizer(tmp_path):
    constant, _ = run(tmp_path / "constant")
    falling, _ = run(tmp_path / "falling", anneal=0.5)
    assert not torch.equal(constant.items.weight, falling.items.weight)
    early = {}
    for anneal in (0.0, 0.5):
        run(tmp_path / f"early{anneal}", anneal=anneal, watch=lambda m, a=anneal: early.setdefault(a, []).append(m))
    for one, other in zip(early[0.0][:7], early[0.5][:7], strict=True):  # until half of the steps, nothing differs
        assert all(torch.equal(one.terms[name], other.terms[name]) for name in one.terms)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(tmp_path, bad):
    path = tmp_path / "run"

    class Exploding(Toy):
        def loss(self, batch):
            terms = super().loss(batch)
            return terms | {"pull": terms["pull"] * bad} if batch.step == 6 else terms

    with fit.initial_weights(0):
        model = Exploding()
    with pytest.raises(BadRun, match=r"not finite at step 8.*lower lr \(it is 0.05\)"):
        run(path, model=model)
    good, _ = run(tmp_path / "good", max_steps=4)
    assert torch.equal(weights_of(path / checkpoint.LAST)["model.items.weight"], good.items.weight)


def test_a_batch_that_cannot_be_cut_stops_the_loop(tmp_path):
    def broken(step):
        if step == 5:
            raise KeyboardInterrupt
        return batch_at(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", at=broken)
    _, story = checkpoint.read(tmp_path / "run" / checkpoint.LAST)
    assert [record["step"] for record in story["records"]] == [4]


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
@pytest.mark.parametrize("killed_after", [1, 4, 5, 8, 11])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, updates, killed_after):
    unbroken, trail = run(tmp_path / "whole", item_updates=updates, validate=careless, anneal=0.5)

    def watch(moment):
        if moment.step == killed_after:
            raise KeyboardInterrupt

    path = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(path, item_updates=updates, validate=careless, anneal=0.5, watch=watch)
    # Whatever the weights were before, a checkpoint replaces them; without one it is a fresh run.
    start = toy(9 if killed_after >= 4 else 0)
    resumed, again = run(path, model=start, item_updates=updates, validate=careless, anneal=0.5)
    assert torch.equal(resumed.items.weight, unbroken.items.weight)
    assert resumed.calls == unbroken.calls
    assert without_time(again) == without_time(trail)
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert equal(weights_of(path / name), weights_of(tmp_path / "whole" / name))


def test_killed_between_best_and_last(tmp_path, monkeypatch):
    """The best is newer than the last: resuming validates that step again and writes the same."""
    whole, trail = run(tmp_path / "whole")
    path = tmp_path / "broken"
    run(path, max_steps=4)
    write = checkpoint._write

    def killed(target, *rest):
        if target.name == checkpoint.LAST:
            raise KeyboardInterrupt
        write(target, *rest)

    monkeypatch.setattr(checkpoint, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(path, model=toy(9))
    assert weights_of(path / checkpoint.BEST)["model.calls"] == 8
    assert weights_of(path / checkpoint.LAST)["model.calls"] == 4
    monkeypatch.undo()
    model, again = run(path, model=toy(9))
    assert torch.equal(model.items.weight, whole.items.weight)
    assert without_time(again) == without_time(trail)
    assert equal(weights_of(path / checkpoint.BEST), weights_of(tmp_path / "whole" / checkpoint.BEST))


def test_a_finished_run_does_nothing_when_resumed(tmp_path):
    path = tmp_path / "run"
    run(path)
    files = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.glob("*.safetensors")}

    def never(*arguments):
        raise AssertionError("a finished run was continued")

    model, trail = run(path, model=toy(9), validate=never, at=never)
    assert len(trail.records) == 3
    assert torch.equal(model.items.weight, weights_of(path / checkpoint.LAST)["model.items.weight"])
    assert files == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.glob("*.safetensors")}


def test_a_run_that_stopped_early_does_nothing_when_resumed(tmp_path):
    path = tmp_path / "run"
    run(path, validate=scripted(0.3, 0.2, 0.1), validate_every=2, patience=1)
    _, trail = run(path, model=toy(9), validate=scripted(), validate_every=2, patience=1)
    assert [record.step for record in trail.records] == [2, 4, 6]


@pytest.mark.parametrize("steps", [0, 12])
def test_a_model_without_a_loss_is_validated_once(tmp_path, steps):
    path = tmp_path / "run"
    for _ in range(2):  # resumed, nothing more happens
        _, trail = run(path, model=Untrained(), max_steps=steps)
        assert [(record.step, record.terms) for record in trail.records] == [(0, {})]
    assert equal(weights_of(path / checkpoint.BEST), {"model.counts": torch.arange(4.0)})


def test_no_steps_keep_the_initial_weights(tmp_path):
    model, trail = run(tmp_path / "run", max_steps=0)
    assert torch.equal(model.items.weight, toy().items.weight)
    assert [record.step for record in trail.records] == [0]


def test_watchers_see_every_step(tmp_path):
    seen = []
    _, trail = run(tmp_path / "run", watch=seen.append)
    assert [moment.step for moment in seen] == list(range(1, 13))
    assert [moment.record for moment in seen if moment.record] == trail.records
    for moment in seen:
        assert not any(term.requires_grad for term in moment.terms.values())


def test_each_batch_is_cut_once_and_in_order(tmp_path):
    cut = []

    def counted(step):
        cut.append(step)
        return batch_at(step)

    run(tmp_path / "run", at=counted)
    assert cut == list(range(12))


# --- checkpoints between validations ---------------------------------------------------------------------------


def killed(path, after, model=None, **changes):
    """A run that is interrupted after step `after`."""

    def watch(moment):
        if moment.step == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, model=model, watch=watch, **changes)


def steps_cut(path, **changes):
    """The steps that a run still does."""
    seen = []

    def at(step):
        seen.append(step)
        return batch_at(step)

    model, trail = run(path, model=toy(9), at=at, **changes)
    return seen, model, trail


@pytest.mark.parametrize("updates", ["dense", "row-sparse"])
@pytest.mark.parametrize(("after", "start"), [(2, 2), (3, 2), (4, 4), (7, 6), (8, 8), (11, 10)])
def test_a_run_goes_on_between_validations_to_the_same_end(tmp_path, updates, after, start):
    """Weights, optimiser, trail and the means of the loss terms, to the bit."""
    changes = {"item_updates": updates, "validate": careless, "anneal": 0.5, "save_every": 2}
    whole, trail = run(tmp_path / "whole", **changes)
    path = tmp_path / "broken"
    killed(path, after, **changes)
    seen, model, again = steps_cut(path, **changes)
    assert seen == list(range(start, 12))
    assert equal(model.state_dict(), whole.state_dict())
    assert without_time(again) == without_time(trail)
    assert all(record.terms for record in again.records)
    for name in (checkpoint.LAST, checkpoint.BEST):
        assert equal(checkpoint.read(path / name)[0], checkpoint.read(tmp_path / "whole" / name)[0])


def test_saving_in_between_changes_nothing_else(tmp_path):
    plain, trail = run(tmp_path / "plain", validate=careless)
    for every in (1, 3, 5, 100):
        path = tmp_path / str(every)
        model, found = run(path, validate=careless, save_every=every)
        assert equal(model.state_dict(), plain.state_dict())
        assert without_time(found) == without_time(trail)
        for name in (checkpoint.LAST, checkpoint.BEST):
            assert equal(checkpoint.read(path / name)[0], checkpoint.read(tmp_path / "plain" / name)[0])


def test_killed_twice_before_the_first_validation(tmp_path):
    changes = {"save_every": 1, "validate_every": 12}
    whole, trail = run(tmp_path / "whole", **changes)
    path = tmp_path / "broken"
    killed(path, 3, **changes)
    assert not (path / checkpoint.BEST).exists()
    assert checkpoint.read_trail(path).records == []
    killed(path, 8, model=toy(9), **changes)
    seen, model, again = steps_cut(path, **changes)
    assert seen == [8, 9, 10, 11]
    assert equal(model.state_dict(), whole.state_dict())
    assert without_time(again) == without_time(trail)


def test_seconds_go_on_counting(tmp_path):
    path = tmp_path / "run"
    killed(path, 6, save_every=6)
    model = toy(9)
    progress = Checkpoints(path).resume(model, Optimizer(model, training()), "recall@50").progress
    assert progress.step == 6
    assert set(progress.sums) == {"pull", "size"}
    assert progress.seconds > 0
    _, trail = run(path, model=toy(9), save_every=6)
    assert trail.records[-1].seconds >= progress.seconds


def test_a_checkpoint_without_a_step_is_that_of_its_newest_record(tmp_path):
    """As runs were kept before there were checkpoints between validations."""
    path = tmp_path / "run"
    killed(path, 6)
    _, story = checkpoint.read(path / checkpoint.LAST)
    assert set(story) == {"metric", "records"}
    seen, *_ = steps_cut(path, save_every=2)
    assert seen == list(range(4, 12))


def test_a_killed_best_is_written_again(tmp_path, monkeypatch):
    """Killed between best and last, the last is that of a step before, without the validation."""
    whole, trail = run(tmp_path / "whole", save_every=3)
    path = tmp_path / "broken"
    write = checkpoint._write

    def stop(target, tensors, story):
        if (
            target.name == checkpoint.LAST
            and story["records"]
            and story["records"][-1]["step"] == 8
            and "step" not in story
        ):
            raise KeyboardInterrupt
        write(target, tensors, story)

    monkeypatch.setattr(checkpoint, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        run(path, save_every=3)
    monkeypatch.undo()
    assert weights_of(path / checkpoint.BEST)["model.calls"] == 8
    assert weights_of(path / checkpoint.LAST)["model.calls"] == 6
    _, again = run(path, model=toy(9), save_every=3)
    assert without_time(again) == without_time(trail)
    assert equal(weights_of(path / checkpoint.BEST), weights_of(tmp_path / "whole" / checkpoint.BEST))
    assert (path / checkpoint.METRICS).read_text().count("\n") == 3
    assert equal(
        weights_of(path / checkpoint.LAST), {f"model.{name}": value for name, value in whole.state_dict().items()}
    )


def test_a_model_that_diverges_between_validations_does_not_replace_the_last_good_checkpoint(tmp_path):
    class Exploding(type(toy())):
        def loss(self, batch):
            terms = super().loss(batch)
            return terms | {"pull": terms["pull"] * float("nan")} if batch.step == 5 else terms

    torch.manual_seed(0)
    path = tmp_path / "run"
    with pytest.raises(BadRun, match=r"not finite at step 6"):
        run(path, model=Exploding(), save_every=3)
    assert weights_of(path / checkpoint.LAST)["model.calls"] == 4


def test_a_full_disk_names_the_step(tmp_path, monkeypatch):
    path = tmp_path / "run"

    def full(target, tensors, story):
        raise OSError(28, "No space left on device")

    killed(path, 4, validate=rising)
    before = (path / checkpoint.LAST).read_bytes()
    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(BadRun, match=r"the checkpoint of step 6 was not written: the disk is full.*--resume"):
        run(path, model=toy(9), save_every=3)
    assert (path / checkpoint.LAST).read_bytes() == before
