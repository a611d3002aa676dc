"""Known data sets: where they live, which papers use them, how many users, items and interactions they must have.

`compare` holds a log's counts against them, so that everyone sees at import whether a log is the one of a paper's
table. Figures of the papers are those of their Table 1; the others are the publishers' or are commonly counted.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

FIGURES = ("users", "items", "interactions")
_AMAZON = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"
_LENS = "https://grouplens.org/datasets/movielens/"
_GOWALLA = "https://snap.stanford.edu/data/loc-Gowalla.html"
_YELP = "https://www.yelp.com/dataset"
_CHALLENGE = "https://recsys.acm.org/recsys15/challenge/"
_KUAI = "https://kuairec.com"
DREAMREC = "https://github.com/YangZhengyi98/DreamRec"
_LIGHT = "https://github.com/gusye1234/LightGCN-PyTorch"


@dataclass(frozen=True)
class Known:
    """One form of a published data set.

    Attributes:
        name: a short name, unique in the atlas.
        home: where the data come from.
        papers: whose tables use exactly this form; empty: no paper that diffacet reproduces.
        users: how many; None: not published.
        items: likewise.
        interactions: likewise, repeated pairs counted.
        how: what was filtered or counted.
        also: other names of it.
    """

    name: str
    home: str
    papers: tuple[str, ...]
    users: int | None
    items: int | None
    interactions: int | None
    how: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A log beside a known data set.

    Attributes:
        known: the data set.
        exact: every published figure of the set is the log's.
        differences: (figure, here, expected) where they differ.
    """

    known: Known
    exact: bool
    differences: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        """One line: which set, exact or by how much not, how it was filtered."""
        known = self.known
        papers = f", Table 1 of {' and '.join(known.papers)}" if known.papers else ""
        if self.exact:
            return f"exactly {known.name} ({known.how}{papers})"
        parts = [
            f"{figure} {here:,} instead of {expected:,} ({here - expected:+,}, {(here - expected) / expected:+.1%})"
            for figure, here, expected in self.differences
        ]
        return f"not {known.name} ({known.how}{papers}): {'; '.join(parts) or 'alike in name, not enough counts'}"


# fmt: off
ATLAS: tuple[Known, ...] = (
    Known("amazon-books-5core", _AMAZON, ("DMI",), 603_668, 367_982, 8_898_041,
          "reviews_Books_5.json of 2014, all ratings", ("book", "books", "amazon-books", "reviews_Books_5")),
    Known("amazon-books-ratings", _AMAZON, (), 8_026_324, 2_330_066, 22_507_155,
          "ratings_Books.csv of 2014, unfiltered", ("ratings_Books",)),
    Known("amazon-beauty-5core", _AMAZON, ("DMI",), 22_363, 12_101, 198_502,
          "reviews_Beauty_5.json of 2014, all ratings", ("beauty", "amazon-beauty", "reviews_Beauty_5")),
    Known("amazon-beauty-ratings", _AMAZON, (), 1_210_271, 249_274, 2_023_070,
          "ratings_Beauty.csv of 2014, unfiltered", ("ratings_Beauty",)),
    Known("amazon-sports-5core", _AMAZON, (), 35_598, 18_357, 296_337,
          "reviews_Sports_and_Outdoors_5.json of 2014, all ratings", ("sports", "amazon-sports")),
    Known("amazon-toys-5core", _AMAZON, (), 19_412, 11_924, 167_597,
          "reviews_Toys_and_Games_5.json of 2014, all ratings", ("toys", "amazon-toys")),
    Known("amazon-book-diffrec-clean", _AMAZON, ("DiffRec",), 108_822, 94_949, 3_146_256,
          "ratings of 4 and more", ("amazon-book", "amazon-book_clean")),
    Known("amazon-book-diffrec-noisy", _AMAZON, ("DiffRec",), 108_822, 178_181, 3_145_223,
          "with ratings below 4 as natural noise", ("amazon-book_noisy",)),
    Known("amazon-book-lightgcn", _LIGHT, (), 52_643, 91_599, 2_984_108,
          "10-core, distinct pairs, as in NGCF and LightGCN", ("amazon-book",)),
    Known("gowalla-ngcf", _LIGHT, ("DMI",), 29_858, 40_981, 1_027_370,
          "10-core, distinct pairs, as in NGCF and LightGCN", ("gowalla", "gowalla-lightgcn")),
    Known("gowalla-raw", _GOWALLA, (), 107_092, 1_280_969, 6_442_892,
          "all check-ins of SNAP, unfiltered", ("loc-gowalla_totalCheckins", "gowalla")),
    Known("gowalla-remi", _GOWALLA, (), None, 174_605, 2_061_264,
          "check-ins, REMI's filter of 5", ("gowalla",)),
    Known("gowalla10-remi", _GOWALLA, (), None, 57_445, None,
          "check-ins, REMI's filter of 10", ("gowalla10",)),
    Known("gowalla-checkins", "https://github.com/tanloc49/SEP-GCN", (), 8_685, 13_812, 507_197,
          "10-core with repeated check-ins, as in SEP-GCN", ("gowalla-sep-gcn",)),
    Known("ml-100k", f"{_LENS}100k/", (), 943, 1_682, 100_000, "all ratings", ("movielens-100k", "ml100k")),
    Known("ml-1m", f"{_LENS}1m/", (), 6_040, 3_706, 1_000_209, "all ratings", ("movielens-1m", "ml1m")),
    Known("ml-1m-diffrec-clean", f"{_LENS}1m/", ("DiffRec",), 5_949, 2_810, 571_531,
          "ratings of 4 and more, then the 10-core", ("diffrec-ml-1m-clean", "ml-1m_clean", "ml-1m")),
    Known("ml-1m-diffrec-noisy", f"{_LENS}1m/", ("DiffRec",), 5_949, 3_494, 618_297,
          "with ratings below 4 as natural noise", ("diffrec-ml-1m-noisy", "ml-1m_noisy", "ml-1m")),
    Known("ml-10m", f"{_LENS}10m/", (), 69_878, 10_677, 10_000_054,
          "all ratings; DimeRec uses ML-10M and prints no counts", ("movielens-10m", "ml10m")),
    Known("ml-20m", f"{_LENS}20m/", (), 138_493, 26_744, 20_000_263, "all ratings", ("movielens-20m", "ml20m")),
    Known("ml-25m", f"{_LENS}25m/", (), 162_541, 59_047, 25_000_095, "all ratings", ("movielens-25m", "ml25m")),
    Known("yelp-diffrec-clean", _YELP, ("DiffRec",), 54_574, 34_395, 1_402_736,
          "ratings of 4 and more", ("yelp", "yelp_clean")),
    Known("yelp-diffrec-noisy", _YELP, ("DiffRec",), 54_574, 77_405, 1_471_675,
          "with ratings below 4 as natural noise", ("yelp", "yelp_noisy")),
    Known("yelp-s3rec", "https://github.com/RUCAIBox/CIKM2020-S3Rec", (), 30_431, 20_033, 316_354,
          "reviews of 2019, 5-core, as in S3-Rec", ("yelp",)),
    Known("yelp2018-lightgcn", _LIGHT, (), 31_668, 38_048, 1_561_406,
          "10-core, distinct pairs, as in NGCF and LightGCN", ("yelp2018", "yelp")),
    Known("yoochoose-dreamrec", DREAMREC, (), 128_468, 9_514, 539_436,
          "sessions of DreamRec's files, likely DimeRec's", ("yoochoose", "yc")),
    Known("yoochoose-clicks", _CHALLENGE, (), 9_249_729, 52_739, 33_003_944,
          "yoochoose-clicks.dat, sessions as users, unfiltered", ("yoochoose",)),
    Known("kuairec-dreamrec", DREAMREC, (), 92_090, 7_261, 737_163,
          "sessions of DreamRec's files, likely DimeRec's", ("kuairec", "ks")),
    Known("kuairec-big", _KUAI, (), 7_176, 10_728, 12_530_806, "big_matrix.csv", ("kuairec", "big_matrix")),
    Known("kuairec-small", _KUAI, (), 1_411, 3_327, 4_676_570,
          "small_matrix.csv, rows without a time counted", ("kuairec", "small_matrix")),
    Known("zhihu-dreamrec", DREAMREC, (), 11_714, 4_838, 77_712, "sessions of DreamRec's files", ("zhihu", "zhihurec")),
    Known("eleme", "https://tianchi.aliyun.com/dataset/131047", ("DiffuMIN",), 14_427_689, 7_446_116, 128_000_000,
          "samples, a rounded figure", ("ele.me",)),
    Known("alibaba-diffumin", "https://tianchi.aliyun.com/dataset/56", ("DiffuMIN",), 1_141_729, 461_527, 700_000_000,
          "printed as samples, yet the usual count of behaviours, rounded", ("alibaba", "taobao-ad")),
)
# fmt: on


def compare(name: str | None, statistics: Mapping[str, object], *, most: int = 3) -> list[Comparison]:
    """The known sets that a log equals, else up to `most` near ones, the nearest first; [] when none is near.

    Near is a set whose name is like `name` (a folder's), or whose figures each differ by at most a fifth.

    Args:
        name: what the log is called, if anything.
        statistics: figures of FIGURES by name; others, and values that are no counts, are ignored.
        most: the length of the list when nothing equals.
    """
    here = {figure: count for figure in FIGURES if (count := _count(statistics.get(figure))) is not None}
    found = [(known, _compared(known, here)) for known in ATLAS]
    exact = [comparison for _, comparison in found if comparison.exact]
    if exact:
        return exact
    ranked = []
    for known, comparison in found:
        likeness, distance = _likeness(name, known), _distance(known, here)
        if likeness >= 0.8 or distance <= math.log(1.2):
            ranked.append((distance if math.isfinite(distance) else 50.0, -likeness, known.name, comparison))
    return [comparison for *_, comparison in sorted(ranked, key=lambda entry: entry[:3])[:most]]


def of_home(home: str, statistics: Mapping[str, object]) -> list[Comparison]:
    """A log beside the known sets that live at `home` and have as many items."""
    here = {figure: count for figure in FIGURES if (count := _count(statistics.get(figure))) is not None}
    return [_compared(known, here) for known in ATLAS if known.home == home and known.items == here.get("items")]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _shared(known: Known, here: Mapping[str, int]) -> list[tuple[str, int, int]]:
    return [(figure, here[figure], n) for figure in here if (n := getattr(known, figure)) is not None]


def _equal(known: Known, here: Mapping[str, int]) -> bool:
    return all(here.get(figure) == n for figure in FIGURES if (n := getattr(known, figure)) is not None)


def _compared(known: Known, here: Mapping[str, int]) -> Comparison:
    return Comparison(
        known,
        exact=_equal(known, here),
        differences=tuple(entry for entry in _shared(known, here) if entry[1] != entry[2]),
    )


def _distance(known: Known, here: Mapping[str, int]) -> float:
    """The largest |log(here / expected)|; infinite without a common figure."""
    return max((abs(math.log(max(n, 1) / expected)) for _, n, expected in _shared(known, here)), default=math.inf)


def _likeness(name: str | None, known: Known) -> float:
    """How alike the names are, from 0 to 1."""
    plain = _plain(name or "")
    if not plain:
        return 0.0
    return max(difflib.SequenceMatcher(None, plain, _plain(other)).ratio() for other in (known.name, *known.also))


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
