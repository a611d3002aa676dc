import os
import secrets

import pytest
from hypothesis import settings

# Tensors in tests are small: a second thread would only wait. Read by torch and FAISS when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's clusters of these tests let nobody else in, and leave no token in anybody's home.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# The same examples in every run, and no time limit for one: a slow machine is not a failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def on_disk():
    """What waits until a file is on the disk, which nothing else in this process does: no test's files are to last."""
    from diffacet import files  # after the environment above

    with pytest.MonkeyPatch.context() as patch:
        sync = files._sync
        patch.setattr(files, "_sync", lambda path: None)
        yield sync


@pytest.fixture(scope="module")
def few_requests():
    """Reports that time a few requests for each number of refinement steps, and not the hundred of a real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffacet.app.refinement.WARM", 1)
        patch.setattr("diffacet.app.refinement.REQUESTS", 4)
        yield


@pytest.fixture
def call(capsys):
    """Runs a command line in this process: (exit code, standard output, standard error)."""

    from diffacet.app import cli  # after the environment above

    def run(*words):
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run
