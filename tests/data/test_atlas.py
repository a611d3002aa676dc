"""The atlas: published counts are recognised exactly, near ones with their difference, unknown ones without fuss."""

import pytest

from diffacet.data.atlas import ATLAS, FIGURES, compare


def counts(users: int, items: int, interactions: int) -> dict[str, int]:
    return {"users": users, "items": items, "interactions": interactions}


# The papers' Table 1, and the counts of the other public forms that the models are run on.
PUBLISHED = {
    "amazon-books-5core": (603_668, 367_982, 8_898_041),
    "amazon-beauty-5core": (22_363, 12_101, 198_502),
    "gowalla-ngcf": (29_858, 40_981, 1_027_370),
    "amazon-book-diffrec-clean": (108_822, 94_949, 3_146_256),
    "amazon-book-diffrec-noisy": (108_822, 178_181, 3_145_223),
    "yelp-diffrec-clean": (54_574, 34_395, 1_402_736),
    "yelp-diffrec-noisy": (54_574, 77_405, 1_471_675),
    "ml-1m-diffrec-clean": (5_949, 2_810, 571_531),
    "ml-1m-diffrec-noisy": (5_949, 3_494, 618_297),
    "ml-1m": (6_040, 3_706, 1_000_209),
    "ml-100k": (943, 1_682, 100_000),
    "ml-10m": (69_878, 10_677, 10_000_054),
    "yoochoose-dreamrec": (128_468, 9_514, 539_436),
    "kuairec-dreamrec": (92_090, 7_261, 737_163),
    "zhihu-dreamrec": (11_714, 4_838, 77_712),
    "yelp-s3rec": (30_431, 20_033, 316_354),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts_are_recognised_whatever_the_folder_is_called(name):
    for folder in (None, name, "my-shop"):
        found = compare(folder, counts(*PUBLISHED[name]))
        assert [comparison.known.name for comparison in found] == [name]
        assert found[0].exact
        assert found[0].differences == ()
        assert str(found[0]).startswith(f"exactly {name} (")


def test_papers_are_named_where_the_counts_are_theirs():
    assert "Table 1 of DMI" in str(compare(None, counts(*PUBLISHED["amazon-beauty-5core"]))[0])
    assert "Table 1" not in str(compare(None, counts(*PUBLISHED["ml-1m"]))[0])


def test_one_row_less_is_not_exact_and_says_in_which_figure():
    found = compare("beauty", counts(22_363, 12_101, 198_501))
    assert not any(comparison.exact for comparison in found)
    assert found[0].known.name == "amazon-beauty-5core"
    assert found[0].differences == (("interactions", 198_501, 198_502),)
    assert "interactions 198,501 instead of 198,502 (-1, -0.0%)" in str(found[0])


def test_a_folder_name_finds_the_set_when_counts_are_far():
    found = compare("ml_1m", counts(100, 50, 900))
    assert {comparison.known.name for comparison in found} >= {"ml-1m"}
    assert len(found) <= 3
    assert all(len(comparison.differences) == 3 for comparison in found)


def test_unknown_logs_and_odd_statistics_give_no_error():
    assert compare("corner-shop", counts(12, 7, 40)) == []
    assert compare(None, {}) == []
    assert compare("", {"users": None, "items": "many", "interactions": True, "density": 0.1}) == []
    assert compare("gowalla", {}) != []
    assert not any(comparison.exact for comparison in compare("gowalla", {}))
    assert compare(None, counts(0, 0, 0)) == []


def test_exact_needs_every_published_figure():
    assert not any(comparison.exact for comparison in compare(None, {"users": 5_949}))


def test_entries_are_distinct_and_whole():
    assert len({known.name for known in ATLAS}) == len(ATLAS)
    assert len({tuple(getattr(known, figure) for figure in FIGURES) for known in ATLAS}) == len(ATLAS)
    for known in ATLAS:
        assert known.home.startswith("https://")
        assert known.how
        assert any(getattr(known, figure) for figure in FIGURES)
