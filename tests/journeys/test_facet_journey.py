"""Facet, and DMI on a base that reads times, from a log to candidates and a report."""

import numpy as np
import pytest
import torch

from diffacet.app import importing, refinement, report, runs
from diffacet.app.studies import results, work
from diffacet.core.interests import StarGraph
from diffacet.rank.evaluate import evaluate
from shoplog import TINY, write_shop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facet")
    log, items = write_shop(folder)
    importing.import_log([log], folder / "shop", user="customer", item="sku", time="ts", rating="none", items=items)
    wanted = {"facet": ("facet", TINY), "dmi": ("dmi", (*TINY, "base=pimirec", "steps=3")), "pop": ("pop", ())}
    return {
        label: runs.train(name, folder / "shop", folder / label, set=sets, max_steps=10)
        for label, (name, sets) in wanted.items()
    }


def test_facet_is_trained_measured_and_asked(trained):
    run = trained["facet"]
    assert [record.step for record in run.trail()] == [5, 10]
    assert set(run.trail()[0].terms) == {"softmax", "concentration"}
    told = []
    for steps in (0, 1, 3):
        asked = runs.load(run.path, set={"refine_steps": steps})
        told.append(evaluate(asked.model, asked.holdout("test"), length=8, ks=(5,)))
        assert all(np.isfinite(value) for value in told[-1].values())
        found = asked.recommender().recommend([3, 5, 8], 4)
        assert len(set(found.item_id)) == 4
        assert set(found.item_id).isdisjoint({3, 5, 8})
    assert told[0] != told[1]


def test_a_report_about_facet_leaves_out_what_is_dmis(trained, few_requests):
    """It has refinement steps but is no model whose interests a denoiser moves one by one."""
    assert not refinement.refines(trained["facet"])
    sets = {"Facet": [trained["facet"]], "Pop": [trained["pop"]], "DMI": [trained["dmi"]]}
    page = report.build(sets, title="Shop", focus="Facet", against="Pop", ks=(5,), metric="recall@5")
    assert 'id="results"' in page
    assert 'id="refinement"' not in page
    assert 'id="refinement"' in report.build(sets, title="Shop", focus="DMI", ks=(5,), metric="recall@5")


def test_a_users_portrait_shows_the_model_the_times_of_the_history(trained, monkeypatch):
    """Interests and attention alike: the answers on the page are those of the evaluation."""
    assert refinement.refines(trained["dmi"])
    seen, forward = [], StarGraph.forward

    def watched(self, embedded, mask, times=None):
        seen.append(times)
        return forward(self, embedded, mask, times)

    monkeypatch.setattr(StarGraph, "forward", watched)
    (line,) = results.measured({"DMI": [trained["dmi"]]}, work.wanted(["recall@5"], [5]), on=("test",))
    seen.clear()
    portrait = refinement.portrait(trained["dmi"], line.trials[0], "recall@5")
    assert len(portrait.facets) == 4
    assert seen
    assert all(times is not None and times.any() for times in seen)
    torch.testing.assert_close(seen[0], seen[-1])
