import sysconfig

import pytest

from diffacet.app import demo, importing
from diffacet.errors import BadSetting, MissingExtra
from shoplog import write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    log, items = write_shop(folder)
    importing.import_log([log], folder / "shop", user="customer", item="sku", time="ts", rating="stars", items=items)
    return folder


def test_demo_writes_a_report_and_a_second_call_reuses_the_runs(shop, few_requests):
    page = demo.run(shop / "out", data=shop / "shop", quick=True)
    assert page == shop / "out" / "report.html"
    runs = sorted(path.name for path in (shop / "out" / "runs").iterdir())
    assert runs == sorted(f"{name}-{seed}" for name, _ in demo.MODELS.values() for seed in (1, 2))
    kept = {run: (shop / "out" / "runs" / run / "best.safetensors").stat().st_mtime_ns for run in runs}
    demo.run(shop / "out", data=shop / "shop", quick=True)
    assert kept == {run: (shop / "out" / "runs" / run / "best.safetensors").stat().st_mtime_ns for run in runs}


def test_the_log_is_found_inside_the_installed_wheel():
    log = demo.example_log()
    assert log.name == "ml-100k.inter"
    assert log.with_suffix(".item").is_file()


def test_without_the_wheel_the_message_tells_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(demo, "PACKAGE", "no-such-package")
    with pytest.raises(MissingExtra, match=r"pip install --no-deps recbole==1\.2\.1"):
        demo.run(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_seed_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="--seeds is 1 or more"):
        demo.run(tmp_path / "out", seeds=0)
