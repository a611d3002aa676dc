"""The command that draws what DiffuMIN makes of a showing: interests."""

from pathlib import Path
from typing import Annotated

from typer import Option

from diffacet.app import options as o
from diffacet.app.cli.predict import of_clicks
from diffacet.app.cli.shell import app, console_of, print_json, tell_next
from diffacet.errors import BadSetting

Out = Annotated[Path | None, Option("--out", metavar="FILE", help="The page or picture to write, .html or .png.")]
Samples = Annotated[
    list[int] | None,
    Option(
        "--sample", metavar="N", help="Row of samples.parquet, from 0; may be repeated (.html). Else one is chosen."
    ),
]
Part = Annotated[str, Option("--on", metavar="valid|test", help="Where one is chosen: clicked, the longest history.")]
MapSeed = Annotated[int, Option("--seed", metavar="N", help="Seed of the map.")]


@app.command(
    short_help="Draw the interest channels of one showing.",
    help=o.described(
        "A map (t-SNE) of what a run of diffumin sees behind a showing: the user's behaviours by interest channel of"
        " the item shown, those that are kept, and the aggregated and generated interest of each channel.",
        "diffacet interests runs/diffumin --out interests.html",
        "diffacet interests runs/diffumin --sample 812 --sample 90311 --out two.html",
        "diffacet interests runs/diffumin --out interests.png --set sampling_noise=seeded",
        "diffacet interests runs/diffumin --json",
    ),
)
def interests(
    run: o.ClickRunDir,
    out: Out = None,
    sample: Samples = None,
    on: Part = "test",
    seed: MapSeed = 0,
    set_: o.Asked = None,
    data: o.MovedData = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Run to a map of its interests."""
    from diffacet.app import runs
    from diffacet.app.clicks import interests as drawing

    if out is None and not as_json:
        raise BadSetting("missing --out FILE, .html or .png; --json prints the numbers without one")
    if out is not None:
        drawing.check(out, len(sample or ()))
    loaded = of_clicks(runs.load(run, set=set_ or (), device=device), "interests")
    found = drawing.portraits(loaded, sample or (), on=on, data=data, seed=seed)
    if out is not None:
        drawing.write(out, loaded, found)
    if as_json:
        print_json(drawing.about(loaded, found))
        return
    console = console_of()
    for one in found:
        console.print(drawing.words(one), highlight=False, markup=False, soft_wrap=True)
    tell_next(console, f"open {out}")
