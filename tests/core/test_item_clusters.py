"""Items cut into clusters: who is in which, and how dimensions are dealt."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.core.clusters import ClusterDecoders, ClusterEncoders, check_count, members, shares
from diffacet.core.contract import Facts
from diffacet.core.profiles import Profiles
from diffacet.errors import BadSetting


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 64))
def test_dimensions_are_dealt_by_the_clusters_sizes(sizes, total):
    dealt = [max(1, math.floor(size * total / sum(sizes))) for size in sizes[:-1]]
    rest = total - sum(dealt)
    if rest >= 1:
        assert shares(total, sizes, "latent") == [*dealt, rest]
    else:
        with pytest.raises(BadSetting, match=f"latent={total} leaves {rest} dimensions"):
            shares(total, sizes, "latent")


def test_clusters_that_cannot_be():
    check_count(3, 3)
    with pytest.raises(BadSetting, match=r"in 1\.\.3.*got 4"):
        check_count(4, 3)
    three = Facts(3, 0, clusters=np.array([-1, 1, 0, 1]))
    assert [own.tolist() for own in members(three, 2)] == [[2], [1, 3]]
    assert [own.tolist() for own in members(Facts(3, 0), 1)] == [[1, 2, 3]]
    with pytest.raises(BadSetting, match="each of the 3 items; got 0"):
        members(Facts(3, 0), 2)
    with pytest.raises(BadSetting, match=r"lies in 0\.\.1; got 0\.\.2"):
        members(Facts(3, 0, clusters=np.array([-1, 1, 0, 2])), 2)
    with pytest.raises(BadSetting, match=r"got -1\.\.1"):
        members(Facts(3, 0, clusters=np.array([-1, 1, -1, 0])), 2)
    with pytest.raises(BadSetting, match="cluster 1 of 3 has no item; set clusters=2"):
        members(Facts(3, 0, clusters=np.array([-1, 2, 0, 2])), 3)


GROUPS = [np.array([2, 5]), np.array([1, 3, 4])]


def test_a_cluster_reads_and_scores_its_own_items_only():
    torch.manual_seed(0)
    encoders = ClusterEncoders(GROUPS, 5, [10], "tanh", "none").double()
    decoders = ClusterDecoders(GROUPS, encoders.latents, [10], "tanh").double()
    assert encoders.latents == [2, 3]
    item, row = torch.tensor([2, 1, 4, 5]), torch.tensor([0, 0, 0, 1])
    value = torch.ones(4, dtype=torch.float64)
    mean, log_variance = encoders(Profiles(item, row, value, 2))
    for number, (group, columns) in enumerate(zip(GROUPS, (slice(0, 2), slice(2, 5)), strict=True)):
        place = {int(one): n for n, one in enumerate(group, 1)}
        own = [n for n, one in enumerate(item.tolist()) if one in place]
        part = Profiles(torch.tensor([place[int(item[n])] for n in own]), row[own], value[own], 2)
        told = encoders.encoders[number](part)
        assert torch.equal(mean[:, columns], told[0])
        assert torch.equal(log_variance[:, columns], told[1])
        scores = decoders(mean)
        assert torch.equal(scores[:, group - 1], decoders.decoders[number](mean[:, columns]))
    hidden = torch.cat([decoders.hidden(mean), torch.ones(2, 1, dtype=torch.float64)], 1)
    assert torch.allclose(hidden @ decoders.catalogue()[1:].T, scores)
    assert not decoders.catalogue()[0].any()
