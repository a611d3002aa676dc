"""Long histories as clusters of like behaviours, made day by day, for models that read clusters (TWIN-V2).

Z. Si et al., "TWIN V2: Scaling Ultra-Long User Behavior Sequence Modeling for Enhanced CTR Prediction at Kuaishou",
CIKM 2024, Sec. 3.2. A snapshot is what a user had done when a day began, by the clock of the data set; all samples of
the day share it, and see what came after it one by one. So no cluster holds a behaviour that a sample must not see.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet import files, seeds
from diffacet.data.clicks import splitting, windows
from diffacet.data.clicks.kmeans import Rule, leaves, quiet
from diffacet.data.clicks.log import ClickLog, FloatArray
from diffacet.data.clicks.schema import Schema
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting

KIND = "behaviour_type"
"""The column that tells what a behaviour was; behaviours of two kinds are never in one cluster."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class _Snapshots:
    """T snapshots: behaviours begin..fixed - 1 are to be clustered, fixed..reach - 1 follow one by one.

    Attributes:
        begin: (T,) int64.
        fixed: (T,) int64; `begin` where there are too few to be clustered.
        reach: (T,) int64, the last end of a sample of the snapshot.
        of: (S,) int64, the snapshot of each sample.
    """

    begin: IntArray
    fixed: IntArray
    reach: IntArray
    of: IntArray


def clustered(
    log: ClickLog,
    vectors: FloatArray,
    *,
    rule: Rule | None = None,
    seed: int = 0,
    length: int = 0,
    apart: int = 0,
    progress: Progress | None = None,
) -> ClickLog:
    """The same samples, whose histories are the clusters of what a day began with, and then behaviours one by one.

    A cluster has the field values of the member nearest to the mean of its members' vectors (of those the most
    recent), the time of its latest member, and its number of members in `sizes`; clusters lie by their latest member.
    Members are of one kind, see `kind`. A snapshot of at most `rule.most` behaviours stays as it is. What a cluster
    holds depends on the behaviours of its snapshot, `vectors`, `rule` and `seed` only: not on other users, nor on the
    order of rows.

    Args:
        log: of single behaviours; rows that bring their histories along without times are clustered as they are.
        vectors: (V, any), finite, of the values of the first field, by number.
        rule: how clusters are made; None: as the paper does.
        seed: of the starts of k-means.
        length: behaviours of a snapshot, the most recent, that are read; 0: all. It is what a sample sees at most when
            histories are not clustered, so that both kinds of models can be told the same past.
        apart: the most recent behaviours of a snapshot, which stay single; what models read most closely.
        progress: called with (behaviours done, all behaviours of snapshots) after every snapshot.

    Raises:
        BadSetting: the log has sizes already, or `vectors` do not fit.
    """
    rule = Rule() if rule is None else rule
    _check(log, vectors, length, apart)
    distinct, point = np.unique(vectors + np.float32(0), axis=0, return_inverse=True)  # -0 is 0
    point, kinds = point.reshape(-1), kind(log.schema)
    shots = _snapshots(log, length, apart, rule.most)
    todo = np.flatnonzero(shots.fixed > shots.begin)
    total, done = int((shots.fixed - shots.begin)[todo].sum()), 0
    counts = np.zeros(len(shots.begin), np.int64)
    parts: list[tuple[IntArray, IntArray, IntArray]] = []
    with quiet():
        for shot in todo:
            begin, fixed = int(shots.begin[shot]), int(shots.fixed[shot])
            order = _order(log, begin, fixed)
            members = begin + order
            groups = np.zeros(len(order), np.int64) if kinds is None else log.behaviours[kinds, members]
            shown, latest, sizes = _clusters(distinct, point[log.behaviours[0, members]], groups, rule, seed)
            parts.append((members[shown], members[latest], sizes))
            counts[shot] = len(sizes)
            done += len(order)
            if progress is not None:
                progress(done, total)
    return _assembled(log, shots, counts, parts)


def kind(schema: Schema) -> int | None:
    """Which field of a behaviour tells its kind (behaviour_type, or one that is called type); None: no field does."""
    for place, field in enumerate(schema.behaviour_fields):
        if field.target is None and (field.behaviour == KIND or field.name == "type"):
            return place
    return None


def item_vectors(log: ClickLog, until: int, dim: int = 32, seed: int = 0) -> FloatArray:
    """(V, dim) float32 vectors of the values of the first field, of length 1: alike are those that the same users met.

    A truncated singular value decomposition of the matrix of users and values, which is 1 where the user met the value
    before `until` (milliseconds: the end of training); histories that rows bring along count with their rows. A value's
    vector is what it has in the `dim` strongest directions, times their strengths. 0 for what nobody met, and in the
    directions that there are not.
    """
    from scipy.sparse import csr_array
    from sklearn.decomposition import TruncatedSVD

    n_values = log.vocabularies[log.names[0]].size
    found = np.zeros((n_values, dim), np.float32)
    if log.pointers is not None:
        owner = np.repeat(np.arange(len(log.pointers) - 1, dtype=np.int64), np.diff(log.pointers))
        seen = log.behaviour_time < until
    else:
        lengths = log.end - log.begin  # one row after another
        owner, seen = np.repeat(log.user, lengths), np.repeat(log.time < until, lengths)
    met = np.unique(np.stack([owner[seen], log.behaviours[0][seen].astype(np.int64)]), axis=1)
    met = met[:, met[1] > 2]
    users, values = (np.unique(part, return_inverse=True) for part in met)
    shape = (len(users[0]), len(values[0]))
    kept = min(dim, *shape)
    if not kept:
        return found
    matrix = csr_array((np.ones(met.shape[1], np.float32), (users[1], values[1])), shape=shape)
    with quiet():
        decomposed = TruncatedSVD(kept, random_state=seeds.number(seed, "item-vectors") % 2**32).fit(matrix)
    scaled = decomposed.components_.T * decomposed.singular_values_
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    found[values[0], :kept] = scaled / np.where(norms > 0, norms, 1)
    return found


def _check(log: ClickLog, vectors: FloatArray, length: int, apart: int) -> None:
    """Raise BadSetting for what cannot be clustered."""
    if length < 0 or apart < 0:
        raise BadSetting(f"length and apart are numbers of behaviours, 0 or more; got {length} and {apart}")
    if log.sizes is not None:
        raise BadSetting("the histories of this log are clusters already; cluster the log that it was made of")
    size = log.vocabularies[log.names[0]].size
    if vectors.ndim != 2 or len(vectors) != size or not vectors.shape[1]:
        raise BadSetting(
            f"field {log.names[0]!r} has {size} values, with padding, unknown and the target's mark, so its vectors "
            f"are ({size}, any); got {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise BadSetting(f"the vectors of field {log.names[0]!r} are not all finite; give every value finite numbers")


def _snapshots(log: ClickLog, length: int, apart: int, most: int) -> _Snapshots:
    """The snapshots that the samples of `log` need; samples that see the same before their days share one."""
    cut = _cuts(log)
    begin = np.maximum(log.begin, cut - length) if length else np.asarray(log.begin)
    order = np.lexsort((cut, begin))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (begin[order[1:]] != begin[order[:-1]]) | (cut[order[1:]] != cut[order[:-1]])
    of = np.empty(len(order), np.int64)
    of[order] = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    begins, cuts = begin[order[first]], cut[order[first]]
    fixed = np.maximum(begins, cuts - apart)
    reach = np.maximum.reduceat(log.end[order], first) if len(first) else first
    return _Snapshots(begins, np.where(fixed - begins > most, fixed, begins), reach, of)


def _cuts(log: ClickLog) -> IntArray:
    """(S,) int64: the first behaviour that happened on the day of the sample, or the end of its history."""
    starts = day_starts(log.time, log.schema.timezone)
    if log.pointers is not None:
        return np.minimum(windows.ends(log.pointers, log.behaviour_time, log.user, starts), log.end)
    if not log.schema.timed:
        return np.asarray(log.end)
    own = np.repeat(starts, log.end - log.begin)  # of each behaviour; rows lie one after another
    that_day = np.append(np.flatnonzero(log.behaviour_time >= own), len(own))
    return np.minimum(that_day[np.searchsorted(that_day, log.begin)], log.end)


def day_starts(times: IntArray, timezone: str) -> IntArray:
    """(n,) int64 milliseconds: when the calendar day in `timezone` of each of `times` (n,) began."""
    utc = pl.Series(np.asarray(times)).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    days = utc.dt.convert_time_zone(timezone).dt.date()
    known = days.unique().sort()
    starts = np.array([splitting.midnight(day, timezone) for day in known], dtype=np.int64)
    return starts[known.search_sorted(days).to_numpy()]


def _order(log: ClickLog, begin: int, end: int) -> IntArray:
    """Behaviours begin..end - 1, oldest first, in an order that rows of one time do not choose: (n,) int64 from 0."""
    if log.pointers is None:  # a list, which is ordered by what it is
        return np.arange(end - begin)
    return np.lexsort((*log.behaviours[::-1, begin:end], log.behaviour_time[begin:end]))


def _clusters(
    distinct: FloatArray, points: IntArray, groups: NDArray[np.integer], rule: Rule, seed: int
) -> tuple[IntArray, IntArray, IntArray]:
    """The m clusters of n behaviours, oldest first, by their latest member.

    Args:
        distinct: (P, any), the places of points.
        points: (n,) the point of each behaviour.
        groups: (n,) behaviours of two groups are in two clusters.
        rule: how clusters are made.
        seed: of the starts of k-means.

    Returns:
        Which behaviour shows each cluster, its latest behaviour, and its number of members, (m,) int64 each.
    """
    label, gap = np.empty(len(points), np.int64), np.empty(len(points))
    count = 0
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        there, which, weights = np.unique(points[own], return_inverse=True, return_counts=True)
        drawn = seeds.stream(seed, "clusters", files.fingerprint(there, weights))
        found, far = np.empty(len(there), np.int64), np.empty(len(there))
        place = distinct[there].astype(np.float64)  # scikit-learn raises small float32 sets at each step anyway
        for leaf in leaves(place, weights, rule, drawn):
            far[leaf] = np.square(place[leaf] - weights[leaf] @ place[leaf] / weights[leaf].sum()).sum(1)
            found[leaf] = count
            count += 1
        label[own], gap[own] = found[which], far[which]
    return _told(_cut_by_time(label, count, rule.most), gap)


def _cut_by_time(label: IntArray, count: int, most: int) -> IntArray:
    """Labels (n,) below `count` -> labels of which none has more than `most` members; what is cut, is cut by order."""
    order = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[order], np.arange(count))
    rank = np.empty(len(label), np.int64)
    rank[order] = np.arange(len(label)) - starts[label[order]]
    return np.unique(label * len(label) + rank // most, return_inverse=True)[1].reshape(-1)


def _told(label: IntArray, gap: NDArray[np.float64]) -> tuple[IntArray, IntArray, IntArray]:
    """What `_clusters` returns, for labels (n,) from 0 and distances (n,) from the mean of each label's members."""
    count = int(label.max(initial=-1)) + 1
    rank = np.arange(len(label))
    sizes = np.bincount(label, minlength=count)
    starts = np.cumsum(sizes) - sizes
    shown = np.lexsort((-rank, gap, label))[starts]
    latest = np.lexsort((-rank, label))[starts]
    by_time = np.argsort(latest)
    return shown[by_time], latest[by_time], sizes[by_time]


def _assembled(
    log: ClickLog, shots: _Snapshots, counts: IntArray, parts: list[tuple[IntArray, IntArray, IntArray]]
) -> ClickLog:
    """`log` with the clusters `parts` of its snapshots, `counts` of each, and what follows them."""
    single = shots.reach - shots.fixed
    width = counts + single
    offset = np.cumsum(width) - width
    shown = np.empty(int(width.sum()), np.int64)
    latest, sizes = shown.copy(), np.ones(len(shown), np.float32)
    ours, theirs = _runs(offset, counts), _runs(offset + counts, single)
    for into, part in ((shown, 0), (latest, 1), (sizes, 2)):
        into[ours] = np.concatenate([np.zeros(0, np.int64), *(one[part] for one in parts)])
    shown[theirs] = latest[theirs] = _runs(shots.fixed, single)
    begin = offset[shots.of]
    return replace(
        log,
        behaviours=np.ascontiguousarray(log.behaviours[:, shown]),
        behaviour_time=log.behaviour_time[latest],
        sizes=sizes,
        begin=begin,
        end=begin + counts[shots.of] + log.end - shots.fixed[shots.of],
        pointers=None,
    )


def _runs(starts: IntArray, counts: IntArray) -> IntArray:
    """starts[t], starts[t] + 1, ..., counts[t] of them, for one t after another: (sum of counts,) int64."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)
