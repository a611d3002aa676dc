"""A small log of a shop with two kinds of customers, as files: what the tests of the program read."""

import random
from pathlib import Path

USERS, ITEMS, LENGTH = 60, 40, 12


def write_shop(folder: Path) -> tuple[Path, Path]:
    """log.csv (customer, sku, ts, stars) and items.csv (sku, title, category) in `folder`."""
    draw = random.Random(7)
    rows, folder = ["customer,sku,ts,stars"], Path(folder)
    for user in range(USERS):
        half = range(1, ITEMS // 2 + 1) if user % 2 else range(ITEMS // 2 + 1, ITEMS + 1)
        for place, item in enumerate(draw.sample(half, LENGTH)):
            rows.append(f"u{user},{item},{1_600_000_000 + 60 * place},{1 + (item + user) % 5}")
    log, items = folder / "log.csv", folder / "items.csv"
    log.write_text("\n".join(rows) + "\n", encoding="utf-8")
    kinds = ("tea", "coffee", "cups", "pots")
    titles = [
        f'{n},"Ware <{n}> & co",{kinds[n % 4]}|{"left" if n <= ITEMS // 2 else "right"}' for n in range(1, ITEMS + 1)
    ]
    items.write_text("sku,title,category\n" + "\n".join(titles) + "\n", encoding="utf-8")
    return log, items


TINY = ("validate_every=5", "negatives=16", "batch_size=16", "dim=8", "length=8", "metric=recall@5", "patience=99")
"""Settings that train in a moment."""
