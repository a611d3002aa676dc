"""Training by several workers on a cluster: Ray Train starts them, watches over them and starts them again.

Each worker is one process of a torch.distributed group (gloo on CPUs, NCCL on GPUs) and does what `runs.train` does,
for its rows of every batch and its rows of the item table (`core.world`). The run directory is the one place where
anything is kept: it lies on a file system that all workers see. A worker that is lost takes the others down with it;
Ray starts all of them anew, and they go on from the last checkpoint to the result of an unbroken run.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffacet import errors, files
from diffacet.app.cluster.connecting import Cluster, said
from diffacet.errors import BadRun, DiffacetError

if TYPE_CHECKING:
    from diffacet.app.fitting import Asked
    from diffacet.app.rundir import Changes
    from diffacet.app.runs import Run, Watch
    from diffacet.core.contract import Preset
    from diffacet.learn.checkpoint import Record, Trail

REFUSED = ".refused.json"
"""In the run directory's parent: why a worker gave up, so that no other attempt is made."""
_EVERY = 0.25  # seconds between two looks at how far the workers are


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    card: str
    data: Path
    out: Path
    chosen: "Preset"
    asked: "Asked"


@dataclass(frozen=True)
class Sign:
    """What rank 0 lets the driver see: a `Moment` whose terms are numbers."""

    step: int
    terms: dict[str, float]
    trail: "Trail"
    record: "Record | None"
    total: int


def train(
    cluster: Cluster,
    name: str,
    data: Path | str,
    out: Path | str,
    *,
    workers: int = 2,
    preset: str = "best",
    set: "Changes" = (),  # noqa: A002 - the command line's own word
    split: str = "auto",
    seed: int = 0,
    split_seed: int = 1230,
    max_steps: int | None = None,
    device: str = "auto",
    threads: int = 1,
    resume: bool = False,
    failures: int = 3,
    watch: "Watch | None" = None,
) -> "Run":
    """Train as `runs.train` does, by `workers` processes on `cluster`, and return the run.

    The result is that of one process up to rounding; its files are those of one process, and one process, or another
    number of workers, can go on with it.

    Args:
        cluster: see `connecting.connected`.
        name: a model whose batches workers can share (`Card.workers`).
        data: a data directory, under the same path on every worker.
        out: the run directory, likewise.
        workers: processes; the item table and every batch are divided among them.
        preset: as for `runs.train`, like all that follow but:
        set: see there.
        split: see there.
        seed: see there.
        split_seed: see there.
        max_steps: see there.
        device: "auto" is the GPUs where the cluster has one for every worker.
        threads: of each process.
        resume: go on with an unfinished run.
        failures: how often lost workers are replaced before the training gives up; the last checkpoint stays.
        watch: called in this process, a few times a second.

    Raises:
        BadSetting, BadLog, BadRun: as `runs.train`; BadRun too when workers were lost too often.
    """
    from diffacet.app import fitting, rundir, runs
    from diffacet.app.cards import card as card_of
    from diffacet.data import store
    from diffacet.learn.sharing import check_workers

    data, out, card = Path(data).absolute(), Path(out).absolute(), card_of(name)
    chosen = rundir.chosen(card, preset, set, seed, max_steps)
    check_workers(card, workers, store.open(data).n_items)
    if not resume and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadRun(f"{out} exists; choose another --out, or go on with the run in it by --resume")
    if device == "auto":
        device = "cuda" if cluster.gpus >= workers else "cpu"
    # What a lost worker's successor finds is a run to go on with, so that every one of them resumes.
    asked = fitting.Asked(preset, split, split_seed, device, threads, True, None, runs.train)
    cluster.check_code()
    refused = _refused(out)
    refused.unlink(missing_ok=True)
    try:
        with _watched(watch) as board:
            _fit(Work(name, data, out, chosen, asked), board, workers, failures)
        _raise_refused(refused)
    finally:
        refused.unlink(missing_ok=True)
    return runs.of_items(runs.load(out, device="cpu"), "recommendation")


def _fit(work: Work, board: Any, workers: int, failures: int) -> None:
    """Let Ray Train do it; raises what a worker refused, or BadRun."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu, out = work.asked.device == "cuda", work.out
    out.parent.mkdir(parents=True, exist_ok=True)
    notes = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".ray", dir=out.parent))
    trainer = TorchTrainer(
        _work,
        train_loop_config={"work": work, "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": work.asked.threads, "GPU": int(gpu)}
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name="training", storage_path=str(notes), failure_config=FailureConfig(max_failures=failures)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        _raise_refused(_refused(out))
        raise BadRun(
            f"{out}: workers were lost and replaced {failures} times, the last loss was: {said(error)[:300]}; what is "
            "in the last checkpoint stays, go on with --resume"
        ) from error
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def _work(told: Mapping[str, Any]) -> None:
    """What one worker does."""
    import torch
    from torch import distributed

    from diffacet.app import fitting, runs
    from diffacet.app.cards import card as card_of
    from diffacet.core.world import OtherFailed, World, entered

    work: Work = told["work"]
    refused = _refused(work.out)
    if refused.exists():
        return
    torch.set_num_threads(work.asked.threads)
    world = World.of_group(torch.device(work.asked.device))
    watch = _signals(told["board"]) if world.rank == 0 and told["board"] is not None else None
    try:
        with entered(world):
            valid = fitting.fitted(card_of(work.card), work.data, work.out, work.chosen, work.asked, watch=watch)
        if world.rank == 0:
            runs.finished(work.out, valid, work.asked.device)
    except OtherFailed:
        return
    except DiffacetError as error:
        # Of several that refuse the same the last is heard. Nothing is raised, or Ray would try again; who waits for
        # this one in an exchange fails, since it leaves the group, and finds on the next attempt what is written here.
        files.write_json(refused, {"type": type(error).__name__, "message": str(error)})
        distributed.destroy_process_group()


def _refused(out: Path) -> Path:
    return out.with_name(f".{out.name}{REFUSED}")


def _raise_refused(refused: Path) -> None:
    """Raise what a worker has written that it refused, if one has."""
    if refused.exists():
        told = files.read_json(refused)
        kind = getattr(errors, str(told["type"]), BadRun)
        raise kind(str(told["message"]))


def _signals(board: Any) -> Callable[[Any], None]:
    """A watcher for rank 0 that tells `board` of every validation, and of a step now and then."""
    last = [0.0]

    def watch(moment: Any) -> None:
        now = time.perf_counter()
        if moment.record is not None or now - last[0] >= _EVERY:
            last[0] = now
            terms = {name: float(term) for name, term in moment.terms.items()}
            board.put.remote(Sign(moment.step, terms, moment.trail, moment.record, moment.total))

    return watch


class _Board:
    """The newest signs of rank 0, as an actor of the cluster: all with a validation, and the last of the others."""

    def __init__(self) -> None:
        self.signs: list[Sign] = []

    def put(self, sign: Sign) -> None:
        if self.signs and self.signs[-1].record is None:
            self.signs.pop()
        self.signs.append(sign)

    def take(self) -> list[Sign]:
        signs, self.signs = self.signs, []
        return signs


@contextmanager
def _watched(watch: "Watch | None") -> Iterator[Any]:
    """An actor that rank 0 reports to, whose reports reach `watch` in a thread of this process while the block runs."""
    if watch is None:
        yield None
        return
    import ray

    board: Any = ray.remote(num_cpus=0)(_Board).remote()
    over = threading.Event()

    def show() -> None:
        for sign in ray.get(board.take.remote(), timeout=5):
            _show(watch, sign)

    def follow() -> None:
        while not over.wait(_EVERY):
            try:
                show()
            except Exception:  # a board that cannot be read now is no reason to stop a training
                continue

    thread = threading.Thread(target=follow, name="watch", daemon=True)
    thread.start()
    try:
        yield board
        over.set()
        thread.join()
        show()
    finally:
        over.set()
        ray.kill(board)


def _show(watch: "Watch", sign: Sign) -> None:
    import torch

    from diffacet.learn.fit import Moment

    terms = {name: torch.tensor(value) for name, value in sign.terms.items()}
    watch(Moment(sign.step, terms, sign.trail, sign.record, sign.total))
