import numpy as np
import polars as pl
import pytest

from diffacet.app.studies import results, tables
from diffacet.app.studies.results import Line, Trial
from diffacet.app.studies.tables import Layout

ENVIRONMENT = {"commit": "abc123", "diffacet": "0", "torch": "2", "device": "cpu", "threads": 1}


def trial(seed, values, *, users=None, split="by-user", fingerprint="f", metric="recall@50"):
    """A run whose users have these values of one metric on test."""
    users = list(range(len(values))) if users is None else users
    column = pl.Series(metric, values, dtype=pl.Float64)
    frame = pl.DataFrame({"ask": [0] * len(values), "on": ["test"] * len(values), "user": users, metric: column})
    mean = float(np.nanmean([np.nan if v is None else v for v in values]))
    numbers = {"users": len(values), "users_per_second": 100.0, "metrics": {metric: mean}}
    told = {
        "model": "m",
        "preset": "best",
        "set": {"dim": 8},
        "data": {"name": "shop", "fingerprint": fingerprint},
        "split": split,
        "split_seed": seed,
        "seed": seed,
        "parameters": 1234,
        "steps": 10,
        "best_step": 5,
        "seconds": 2.0,
        "ms_per_step": None,
        "peak_mb": 100.0,
        "environment": ENVIRONMENT,
        "asks": [{"suffix": "", "on": {"valid": numbers, "test": numbers}}],
    }
    return Trial(told, frame)


def line(label, *trials, **more):
    return Line(label, "shop", trials, **more)


LAYOUT = Layout(("recall@50",), ("recall@50",), base="base", command="diffacet study x")


def test_differences_are_paired_by_user_and_seed():
    base = line("base", trial(0, [0.1, 0.2, 0.3]), trial(1, [0.0, 0.5], users=[1, 7]))
    better = line("better", trial(1, [0.1, 0.6], users=[1, 7]), trial(0, [0.2, 0.3, 0.4]), trial(2, [0.9]))
    (pair,) = results.compare([(better, base)], ["recall@50"], "test")
    assert pair.mean == pytest.approx(0.1)
    assert (pair.low, pair.high) == pytest.approx((0.1, 0.1))
    assert (pair.seeds, pair.users) == (2, 4)
    assert pair.relative == pytest.approx(0.1 / np.mean([0.1, 0.2, 0.3, 0.0, 0.5]))
    # Four users, each with all its runs of one sign: 2 of 16 flips are as far from zero.
    assert pair.p_users == pytest.approx(2 / 16, abs=0.02)


def test_users_without_a_value_do_not_count():
    base = line("base", trial(0, [0.1, 0.2]), trial(1, [0.1, 0.2]))
    other = line("other", trial(0, [0.3, None]), trial(1, [0.3, None]))
    (pair,) = results.compare([(other, base)], ["recall@50"], "test")
    assert pair.users == 1
    assert pair.mean == pytest.approx(0.2)


def test_other_users_other_data_and_single_seeds_are_not_tested():
    base = line("base", trial(0, [0.1, 0.2]), trial(1, [0.1, 0.2]))
    split = line("split", trial(0, [0.1, 0.2], split="leave-last"), trial(1, [0.1, 0.2], split="leave-last"))
    data = line("data", trial(0, [0.1, 0.2], fingerprint="g"), trial(1, [0.1, 0.2], fingerprint="g"))
    users = line("users", trial(0, [0.1, 0.2], users=[5, 6]), trial(1, [0.1, 0.2], users=[5, 6]))
    single = line("single", trial(0, [0.1, 0.2]))
    sheet = tables.sheet([base, split, data, users, single], LAYOUT)
    assert sheet.pairs == ()
    assert sheet.notes == (
        "Not tested, for want of two seeds: single.",
        "Not tested, for they were measured on other users: split, data, users.",
    )


def test_one_seed_is_paired_where_it_is_enough():
    """A report is about the users whom it has; what another training would bring it does not say."""
    base, better = line("base", trial(0, [0.1, 0.2, 0.6])), line("better", trial(0, [0.2, 0.3, 0.7]))
    assert results.compare([(better, base)], ["recall@50"], "test") == []
    (pair,) = results.compare([(better, base)], ["recall@50"], "test", fewest=1)
    assert (pair.mean, pair.low, pair.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (pair.seeds, pair.users) == (1, 3)
    assert np.isnan(pair.p_seeds)


def test_a_difference_of_noise_is_not_clear_and_is_repeatable():
    noise = np.random.default_rng(0).normal(size=400)
    noise -= noise.mean()
    one, other = line("a", trial(0, 1 + noise)), line("b", trial(0, np.ones(400)))
    (pair,) = results.compare([(one, other)], ["recall@50"], "test", fewest=1)
    assert [pair.low, pair.high] == [
        end
        for again in results.compare([(one, other)], ["recall@50"], "test", fewest=1)
        for end in (again.low, again.high)
    ]
    assert not pair.clear
    # Two standard errors of the mean, which the bootstrap must be near to.
    assert (pair.high - pair.low) / 2 == pytest.approx(1.96 * noise.std() / np.sqrt(400), rel=0.1)
    (gain,) = results.compare([(line("c", trial(0, 1.5 + noise)), other)], ["recall@50"], "test", fewest=1)
    (loss,) = results.compare([(other, line("c", trial(0, 1.5 + noise)))], ["recall@50"], "test", fewest=1)
    assert gain.clear
    assert loss.clear


def test_holm_counts_the_rows():
    rng = np.random.default_rng(0)
    base = line("base", *(trial(seed, rng.random(200)) for seed in range(3)))
    gains = [line(f"row{n}", *(trial(s, rng.random(200) + 0.05) for s in range(3))) for n in range(3)]
    alone = results.compare([(gains[0], base)], ["recall@50"], "test")[0]
    among = results.compare([(gain, base) for gain in gains], ["recall@50"], "test")[0]
    assert alone.p_users <= among.p_users <= 3 * alone.p_users
    assert (alone.mean, alone.low, alone.high) == pytest.approx((among.mean, among.low, among.high))


def test_the_table_holds_means_deviations_published_numbers_costs_and_provenance():
    base = line("base", trial(0, [0.1, 0.2]), trial(1, [0.3, 0.4]), published={"recall@50": 0.21})
    best = line("best|row", trial(0, [0.5, 0.7]), trial(1, [0.6, 0.9]))
    sheet = tables.sheet([base, best], LAYOUT)
    quality, differences, costs = sheet.grids
    assert quality.head == ("row", "runs", "valid recall@50", "recall@50", "published recall@50")
    deviation = np.std([0.15, 0.35], ddof=1)
    assert quality.rows[0] == ("base", "2", f"0.2500 ± {deviation:.4f}", f"0.2500 ± {deviation:.4f}", "0.2100")
    assert quality.rows[1][-1] == "–"
    assert quality.best == {(1, 3)}
    assert differences.rows[0][:5] == ("best|row", "base", "recall@50", "+0.4250", "+170.0 %")
    assert costs.rows[0] == ("base", "1,234", "10", "5", "2", "–", "100", "100")
    assert sheet.provenance.startswith(
        "Command: `diffacet study x`. Data shop, fingerprint f. Split by-user; seeds 0, 1."
    )
    assert "Commit abc123" in sheet.provenance
    page = tables.markdown(tables.Page("A title", (sheet,), lead=("First.",), notes=("Last.",)))
    assert page.startswith("# A title\n\nFirst.\n\n## shop")
    assert "| best\\|row | 2 |" in page
    assert "Holm" in page
    assert page.endswith("Last.\n")


def test_results_are_tidy_and_read_back(tmp_path):
    lines = [line("a", trial(0, [0.1, 0.2]), trial(1, [0.3, 0.4])), line("b", trial(0, [0.5, 0.7]), suffix="unrefined")]
    results.write_tidy(lines, "tiny", tmp_path)
    frame = pl.read_parquet(tmp_path / "results.parquet")
    text = pl.read_csv(tmp_path / "results.csv", schema_overrides=frame.schema)
    assert text.equals(frame)
    keys = ["label", "ask", "on", "metric", "seed"]
    assert frame.select(keys).is_duplicated().sum() == 0
    row = frame.filter(label="b", on="test", metric="recall@50").to_dicts()
    assert row == [
        {
            "study": "tiny",
            "data": "shop",
            "label": "b",
            "model": "m",
            "preset": "best",
            "set": "dim=8",
            "ask": "unrefined",
            "split": "by-user",
            "split_seed": 0,
            "seed": 0,
            "on": "test",
            "metric": "recall@50",
            "value": 0.6,
        }
    ]
    assert frame.filter(label="a", metric="parameters")["value"].to_list() == [1234.0, 1234.0]
