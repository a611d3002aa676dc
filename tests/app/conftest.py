import os
from pathlib import Path

import pytest

import servingshop


@pytest.fixture(scope="session")
def shop_data(tmp_path_factory) -> Path:
    """The data directory of the shop; no test changes it."""
    return servingshop.shop_data(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def shop_runs(shop_data, tmp_path_factory) -> dict[str, Path]:
    """A run of each kind of model; no test changes one."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: servingshop.served_run(shop_data, folder / name, name) for name in servingshop.MODELS}


@pytest.fixture(scope="session")
def shop_run(shop_runs) -> Path:
    """A run of DMI; no test changes it."""
    return shop_runs["dmi"]


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two CPUs on this machine, whose processes find the modules of the tests."""
    from diffacet.app.cluster import connecting

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(servingshop.__file__).parent), prepend=os.pathsep)
        with connecting.connected(cpus=2) as found:
            yield found
