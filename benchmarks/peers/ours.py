"""Our side of every comparison: a training run whose epochs are timed, and what is said of it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import Clocks, clocks

PACKAGES = ("diffacet", "torch", "numpy", "polars")


def asked(doc: str | None) -> argparse.ArgumentParser:
    """The command line with what ours alone take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--preset", default="best")
    return parser


def trained(
    name: str, arguments: argparse.Namespace, out: Path, *, split: str, changes: Sequence[str] = ()
) -> tuple[Any, list[Clocks], int]:
    """The run after its last epoch, which alone is validated, when each epoch ended, and the steps of one."""
    import diffacet
    from diffacet.learn import batches

    ends: list[Clocks] = []
    run = diffacet.train(
        name,
        arguments.data,
        out,
        preset=arguments.preset,
        set=[
            *arguments.set,
            f"max_epochs={arguments.epochs}",
            f"validate_epochs={arguments.epochs}",
            *changes,
        ],
        split=split,
        seed=arguments.seed,
        threads=arguments.threads,
        device="cpu",
        watch=lambda _: ends.append(clocks()),
    )
    training = run.settings.training
    steps = batches.epoch_steps(run.split().train, training, batches.form(run.card, training))
    if len(ends) != steps * arguments.epochs:
        raise SystemExit(f"{len(ends)} steps were made; {steps} in each of {arguments.epochs} epochs were expected")
    return run, ends[steps - 1 :: steps], steps


def told(run: Any, arguments: argparse.Namespace, training: Sequence[str]) -> dict[str, Any]:
    """Who ran with which settings: all of the model's and those of `training`."""
    stated = run.about["settings"]
    return {
        "who": "diffacet",
        "preset": arguments.preset,
        "settings": stated["model"] | {name: stated["training"][name] for name in training},
        "changed": arguments.set,
    }
