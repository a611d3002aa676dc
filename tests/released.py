"""Where the released data lie beside the repository, for tests that are skipped without them."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"
CLEAN, NOISY, ML_1M = (DATA / name for name in ("diffrec-ml-1m-clean", "diffrec-ml-1m-noisy", "ml-1m"))
needs_released = pytest.mark.skipif(not all(path.is_dir() for path in (CLEAN, NOISY, ML_1M)), reason="no released data")
