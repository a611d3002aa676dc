"""What refinement costs: users a second at S = 0, 1, 2, 5 and T steps, of encoding alone and with the exact search.

    python benchmarks/serving/refinement.py

One run with its steps set otherwise, in the block that a service takes (16) and in that of a batch job (256); all S in
turn, one thread, medians.
"""

from pathlib import Path
from typing import Any

import made
import recording
from recording import Record, say, told

from diffrec_speed import Run, median_ms

STEPS = (0, 1, 2, 5, 10)  # the last is T
BLOCKS, K = (16, 256), 50
ENCODE, WHOLE = "encode", "encode and search"


def measured(work: str, block: int, rounds: int, users: int) -> Record:
    """Users a second by what is done and S."""
    import numpy as np
    import torch

    from diffacet import Recommender
    from diffacet.core.batch import Histories
    from diffacet.data.sequences import Sequences

    path, count = made.run(Path(work)), block * max(1, users // block)
    items = np.asarray(made.histories(count))
    known = Sequences.from_rows(np.repeat(np.arange(count), made.LENGTH), items.ravel(), None, count)
    runs: dict[str, Run] = {}

    def encode(model: Any) -> Run:
        @torch.inference_mode()
        def run() -> None:
            for part in torch.from_numpy(items).split(block):
                model.interests(Histories(part, torch.full((block,), -1), torch.zeros(block, dtype=torch.int64)))

        return run

    def whole(retriever: Any) -> Run:
        return lambda: retriever.retrieve(known, K)

    for steps in STEPS:
        retriever = Recommender.load(path, refine_steps=steps, device="cpu", block=block).retriever
        runs[f"{ENCODE} {steps}"], runs[f"{WHOLE} {steps}"] = encode(retriever.model), whole(retriever)
    found = median_ms(runs, rounds)
    rates = {what: {steps: 1000 * count / found[f"{what} {steps}"] for steps in STEPS} for what in (ENCODE, WHOLE)}
    return {"block": block, "users": count, "users_per_second": rates}


def page(record: Record) -> str:
    """The Markdown page."""
    rows = []
    for part in record["parts"]:
        for what, rates in part["users_per_second"].items():
            none = rates["0"]
            cells = [f"{rates[str(steps)]:,.0f} ({none / rates[str(steps)]:.2f})" for steps in STEPS]
            rows.append((f"{what}, {part['block']} users together", cells))
    columns = [f"S = {steps}" for steps in STEPS[:-1]] + [f"S = T = {STEPS[-1]}"]
    how = (
        f"DMI, {made.ITEMS:,} items, d {made.DIM}, K {made.INTERESTS}, histories of {made.LENGTH}, k {K}; medians of "
        "runs in turn; in brackets the time in that of S = 0. S = T is the whole chain, the others are DDIM."
    )
    return recording.page(record, "What refinement costs", how, recording.table("users/s", columns, rows))


def main() -> None:
    """Measure everything."""
    given = recording.arguments(recording.parser(__doc__, __file__), __file__, {"measured": measured})
    made.run(given.work)
    record = recording.begun(given, __file__)
    rounds, users = (2, 256) if given.quick else (15, 1024)
    record["parts"] = []
    for block in BLOCKS:
        say(f"blocks of {block}")
        found = recording.apart(__file__, "measured", work=given.work, block=block, rounds=rounds, users=users)
        record["parts"].append(found)
    aims = []
    for part in record["parts"]:
        rates = part["users_per_second"][WHOLE]
        for steps in (str(made.STEPS), str(STEPS[-1])):
            what = f"time of a user at S = {steps} / at S = 0, searched, {part['block']} users together"
            aims.append(told(what, rates["0"] / rates[steps]))
    recording.finish(record, given, aims, page)


if __name__ == "__main__":
    main()
