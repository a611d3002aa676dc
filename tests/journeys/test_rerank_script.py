"""examples/rerank.sh: from one raw log to candidates in the order of their clicks, run as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[2] / "examples" / "rerank.sh"


def test_the_script_goes_from_a_raw_log_to_reranked_candidates(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},{item},{1_600_000_000 + 86_400 * day + user},{rng.integers(1, 6)}"
        for user in range(30)
        for day, item in enumerate(rng.permutation(20)[:16])
    ]
    (tmp_path / "ratings.csv").write_text("user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n")
    asked = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MATCHING": "--max-steps 4 --set validate_every=4 --set dim=8",
        "RANKING": "--set dim=4 --set hidden=8,4 --set batch_size=64 --set sampling_steps=2",
        "AT_LEAST": "2",
    }
    line = [str(SCRIPT), str(tmp_path / "ratings.csv"), str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | asked, check=False)
    assert done.returncode == 0, done.stderr
    assert "AUC" in done.stdout
    assert "probability" in done.stdout
