"""The training loop; there is one."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffacet import seeds
from diffacet.core.batch import Batch
from diffacet.core.contract import Diagnosed, Trained, Training
from diffacet.core.draws import widened
from diffacet.core.world import World, current, dealt, entered
from diffacet.errors import BadRun, BadSetting, nearest
from diffacet.learn.checkpoint import Checkpoints, Progress, Record, Trail
from diffacet.learn.optim import Optimizer
from diffacet.learn.sharing import Share, share, table_size


@dataclass(frozen=True)
class Moment:
    """What a watcher of the loop sees after each step.

    Attributes:
        step: steps done.
        terms: of the loss, still as tensors.
        trail: of the validations.
        record: the validation after this step, if there was one.
        total: steps at most.
    """

    step: int
    terms: dict[str, Tensor]
    trail: Trail
    record: Record | None = None
    total: int = 0


def fit(
    model: nn.Module,
    batch_at: Callable[[int], Batch],
    training: Training,
    *,
    validate: Callable[[nn.Module], dict[str, float]],
    checkpoints: Checkpoints,
    watch: Callable[[Moment], None] | None = None,
    world: World | None = None,
) -> Trail:
    """Train `model` in place from its last checkpoint on, and return the trail of validations.

    Step s draws its batch from (seed, "batch", s) and everything else from (seed, "model", s), so a resumed
    run equals an unbroken one bit for bit, and validation disturbs nothing. The last checkpoint is that of the
    newest validation, or with `training.save_every` of a later step.

    With `world` all its processes call this at once, each with the same arguments and its own part of a model that was
    built inside `core.world.entered(world)`. `batch_at` gives the whole batch in each of them. `validate` is called
    inside the world, and what it gives in process 0 counts; `watch` sees terms that are the whole batch's. Weights
    are those of one process but for the order of sums in float32.

    Raises:
        BadRun: when the loss stops being finite, when a checkpoint cannot be written, or the one there is
            cannot be read.
        BadSetting: when `training.metric` is not among those that `validate` gives; with `world`, when the model is
            trained by one process only.
    """
    with entered(world or current()):
        return _fit(model, batch_at, training, validate, checkpoints, watch)


def _fit(
    model: nn.Module,
    batch_at: Callable[[int], Batch],
    training: Training,
    validate: Callable[[nn.Module], dict[str, float]],
    checkpoints: Checkpoints,
    watch: Callable[[Moment], None] | None,
) -> Trail:
    """See `fit`, in the world that was entered."""
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    share_at = _shares(model, batch_at)
    optimizer = Optimizer(model, training)
    trail = checkpoints.resume(model, optimizer, training.metric)
    progress = trail.progress
    clock = time.perf_counter() - progress.seconds
    steps = training.max_steps if isinstance(model, Trained) else 0
    if trail.stale(training.patience) or (trail.records and progress.step >= steps):
        return trail
    if not isinstance(model, Trained) or not steps:
        only = Record(0, _validated(model, training, validate), seconds=time.perf_counter() - clock)
        _keep(only, model, optimizer, trail, checkpoints)
        return trail

    sums = {name: total.to(device) for name, total in progress.sums.items()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step, share in _ahead(share_at, progress.step, training.max_steps, device):
            torch.manual_seed(seeds.number(training.seed, "model", step))
            with dealt(share.part), widened(share.part), _autocast(training, device):
                terms = model.train().loss(share.own)
                if not isinstance(terms, Mapping):
                    raise BadSetting(
                        f"loss(batch) of {type(model).__name__} gave a {type(terms).__name__}; wanted is a dict of"
                        " named terms, whose sum is minimised"
                    )
                terms = share.counted(terms)
            told = torch.stack([term.detach() for term in terms.values()])
            optimizer.step(torch.stack(list(terms.values())).sum(), rate(training, step), [told])
            terms = dict(zip(terms, told.unbind(), strict=True))
            sums = {name: sums.get(name, 0.0) + term for name, term in terms.items()}
            done = step + 1
            record: Record | None = None
            if done % training.validate_every == 0 or done == training.max_steps:
                means = _means(sums, done, trail, training)
                metrics = _validated(model, training, validate)
                record = Record(done, metrics, means, _gauges(model, share.whole, device), time.perf_counter() - clock)
                _keep(record, model, optimizer, trail, checkpoints)
                sums = {}
            elif training.save_every is not None and done % training.save_every == 0:
                _means(sums, done, trail, training)  # what has diverged is not kept
                trail.progress = Progress(done, time.perf_counter() - clock, sums)
                checkpoints.save_between(model, optimizer, trail)
            if watch is not None:
                watch(Moment(done, terms, trail, record, training.max_steps))
            if record is not None and trail.stale(training.patience):
                break
    return trail


def _means(sums: dict[str, Tensor], done: int, trail: Trail, training: Training) -> dict[str, float]:
    """The mean of each loss term since the last record; raises BadRun when one is not finite."""
    interval = done - (trail.records[-1].step if trail.records else 0)
    means = {name: (total / interval).item() for name, total in sums.items()}
    if not all(map(math.isfinite, means.values())):
        raise BadRun(f"the loss is not finite at step {done}: {means}; lower lr (it is {training.lr})")
    return means


def rate(training: Training, step: int) -> float:
    """The learning rate of a 0-based step: constant, then falling linearly to 0 over the last `anneal` of all steps."""
    left = training.max_steps - step
    falling = training.anneal * training.max_steps
    return training.lr * min(1.0, left / falling) if falling else training.lr


def _autocast(training: Training, device: torch.device) -> torch.autocast:
    mixed = training.precision == "bfloat16" and device.type == "cuda"
    return torch.autocast("cuda", torch.bfloat16, enabled=mixed)


def _shares(model: nn.Module, batch_at: Callable[[int], Batch]) -> Callable[[int], Share]:
    """Step -> this process's share of its batch, which is all of it for a process that is alone."""
    here = current()
    if here is None:
        return lambda step: Share(batch := batch_at(step), batch)
    n_items = table_size(model, here)
    return lambda step: share(batch_at(step), here, n_items)


def _validated(
    model: nn.Module, training: Training, validate: Callable[[nn.Module], dict[str, float]]
) -> dict[str, float]:
    with torch.inference_mode():
        metrics = validate(model.eval())
    here = current()
    if here is not None:  # what stops a training must not differ by a bit
        metrics = dict(zip(metrics, here.from_first(list(metrics.values())), strict=True))
    if training.metric not in metrics:
        raise BadSetting(
            f"validation gives no metric '{training.metric}'{nearest(training.metric, metrics)}. "
            f"It gives: {', '.join(sorted(metrics))}"
        )
    return metrics


def _gauges(model: nn.Module, batch: Batch, device: torch.device) -> dict[str, float]:
    """What the model reports on itself; of the whole batch in every process that shares it."""
    if not isinstance(model, Diagnosed):
        return {}
    with torch.inference_mode():
        return {name: value.item() for name, value in model.eval().diagnose(batch.to(device)).items()}


def _keep(record: Record, model: nn.Module, optimizer: Optimizer, trail: Trail, checkpoints: Checkpoints) -> None:
    trail.records.append(record)
    trail.progress = Progress(record.step, record.seconds)
    checkpoints.save(model, optimizer, trail)


def _ahead(
    share_at: Callable[[int], Share], start: int, stop: int, device: torch.device
) -> Iterator[tuple[int, Share]]:
    """(step, share on `device`) for each step, the next one being cut while the loop computes."""
    with ThreadPoolExecutor(1, "batches") as worker:
        following = worker.submit(share_at, start)
        for step in range(start, stop):
            share = following.result()
            if step + 1 < stop:
                following = worker.submit(share_at, step + 1)
            yield step, share.to(device)


@contextlib.contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Inside it, torch draws from (seed, "init") only, and outside nothing is disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.number(seed, "init"))
        yield
