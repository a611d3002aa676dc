"""What makes a begun run, or a study's, another one than what is asked for."""

import copy
import dataclasses
from pathlib import Path

import pytest

from diffacet.app import resuming
from diffacet.app.studies import folder
from diffacet.errors import BadRun
from diffacet.models import card


def told():
    chosen = card("dmi").presets["paper"]
    values = {"model": dataclasses.asdict(chosen.model), "training": dataclasses.asdict(chosen.training)}
    data = {"fingerprint": "f", "name": "d"}
    return {"model": "dmi", "data": data, "split": {"name": "by-user", "seed": 1}, "settings": values}


def test_a_setting_that_came_since_counts_as_its_default():
    now, before = told(), told()
    del before["settings"]["training"]["order"]
    del before["settings"]["model"]["noise_seed"]
    resuming.check(Path("run"), before, now)
    now["settings"]["training"]["order"] = "time"
    with pytest.raises(BadRun, match="order is time, was shuffled"):
        resuming.check(Path("run"), before, now)


def test_so_it_does_in_a_study():
    values = told()["settings"]
    now = {"label": "DMI", "model": "dmi", "data": "f", "settings": values["training"] | values["model"]}
    before = copy.deepcopy(now)
    del before["settings"]["order"]
    folder._check_same(before, now, Path("study"))
    before["settings"]["lr"] = 7.0
    with pytest.raises(BadRun, match=r"lr is 0\.\d+, was 7\.0"):
        folder._check_same(before, now, Path("study"))
