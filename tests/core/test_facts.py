"""What constructors know of data, and the settings of training that stand where nobody sets them."""

import numpy as np
import pytest

from diffacet.core.contract import ClickFields, Facts, StreamedFacts, Training
from diffacet.errors import BadSetting

CLICK = ClickFields(("item",), (9,), (True,))


def test_training_starts_from_the_published_protocol():
    """ComiRec's code and REMI's: Adam at 0.002, 128 users and 10 negatives each, 20 items, validation every 1000."""
    usual = Training()
    assert (usual.lr, usual.batch_size, usual.negatives, usual.length) == (0.002, 128, 10 * 128, 20)
    assert (usual.first_target, usual.max_steps, usual.validate_every, usual.patience) == (4, 1_000_000, 1000, 50)
    assert (usual.metric, usual.sampler, usual.optimizer, usual.seed) == ("recall@50", "uniform", "adam", 0)
    assert (usual.anneal, usual.weight_decay) == (0, 0)
    assert not any((usual.unique_negatives, usual.correction, usual.mask_hits, usual.own_negatives))
    for name in ("clip", "max_epochs", "validate_epochs", "validate_cases", "save_every"):
        assert getattr(usual, name) is None


def test_facts_without_data_are_empty():
    bare = Facts(5, 3)
    assert (bare.n_users, len(bare.train_items), bare.train_offsets.tolist(), len(bare.train_users)) == (0, 0, [0], 0)
    assert len(bare.clusters) == 0
    assert bare.item_counts().tolist() == [0] * 6
    assert (CLICK.numeric, CLICK.timed, CLICK.other_names, CLICK.other_sizes) == (0, True, (), ())


def test_facts_of_a_loaded_run_have_all_sizes_and_no_sequence():
    clusters = np.array([-1, 0, 1, 0, 1, 1])
    full = Facts(5, 3, np.array([5, 1, 5]), np.array([0, 3]), np.array([1]), 2, clusters, CLICK)
    assert full.item_counts().tolist() == [0, 1, 0, 0, 0, 2]
    kept = full.without_training()
    assert (kept.n_items, kept.length, kept.n_users, kept.click) == (5, 3, 2, CLICK)
    assert kept.clusters is clusters
    assert not len(kept.train_items)


def test_click_models_need_a_click_log():
    assert Facts(5, 3, click=CLICK).click_fields() is CLICK
    with pytest.raises(BadSetting, match="import-clicks"):
        Facts(5, 3).click_fields()


def test_streamed_facts_refuse_what_they_never_have():
    streamed = StreamedFacts(5, 3, n_users=2)
    assert (streamed.n_items, streamed.n_users) == (5, 2)
    for name in ("train_items", "train_offsets", "train_users"):
        with pytest.raises(BadSetting, match="sampling=blocks never has them all"):
            getattr(streamed, name)
