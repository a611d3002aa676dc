"""The calibration of a click run as a page or a picture: predicted click rates against those observed."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffacet.app import report
from diffacet.app.figures import COLOURS, Figure
from diffacet.app.studies import pictures
from diffacet.errors import BadRun, BadSetting, require
from diffacet.rank.clicks import Calibration

ENDINGS = (".html", ".png")


def check(path: Path, option: str = "--picture") -> None:
    """Refuse a file that is neither a page nor a picture (BadSetting), and one that cannot be drawn (MissingExtra)."""
    if path.suffix.lower() not in ENDINGS:
        raise BadSetting(f"{option} takes a file that ends in {' or '.join(ENDINGS)}; got {path}")
    require("plotly.offline", "report")
    require("jinja2" if path.suffix.lower() == ".html" else "kaleido", "report")


def figure(tables: Mapping[str, Calibration]) -> Figure:
    """Label -> calibration as curves over the diagonal, on which a calibrated model lies; a point is a bin."""
    top = max(
        (float(values.max()) for t in tables.values() for values in (t.expected, t.observed) if len(values)),
        default=1.0,
    )
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "calibrated",
            "x": [0, top],
            "y": [0, top],
            "line": {"color": COLOURS[5], "width": 1, "dash": "dash"},
            "hoverinfo": "skip",
        }
    ]
    for number, (label, table) in enumerate(tables.items()):
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label,
                "x": table.expected.tolist(),
                "y": table.observed.tolist(),
                "text": [f"{count:,} samples" for count in table.counts.tolist()],
                "line": {"color": COLOURS[number % len(COLOURS)], "width": 2},
                "marker": {"size": 7},
                "hovertemplate": f"{label}: %{{x:.4f}} predicted, %{{y:.4f}} observed, %{{text}}<extra></extra>",
            }
        )
    axes = {"xaxis": {"title": {"text": "predicted"}}, "yaxis": {"title": {"text": "observed"}}}
    axes["xaxis"]["rangemode"] = axes["yaxis"]["rangemode"] = "tozero"  # type: ignore[assignment]
    return {"data": data, "layout": axes}


def write(path: Path, told: Mapping[str, Any], tables: Mapping[str, Calibration]) -> None:
    """Write the page or picture `path`.

    Args:
        path: .html opens in any browser without a network; .png needs a Chrome.
        told: what `evaluation.evaluated` says of the run.
        tables: label -> calibration; the first is the run's.

    Raises:
        MissingExtra: Plotly, Jinja2 or Kaleido is not installed.
        BadSetting: another ending.
        BadRun: it cannot be written.
    """
    check(path)
    drawn = figure(tables)
    if path.suffix.lower() == ".html":
        render = report.renderer("clicks.html.j2")
        report.write(path, render(told=told, tables=tables, figure=report.embedded(drawn)))
    else:
        write_static(path, drawn)


def write_static(path: Path, drawn: Figure, option: str = "--picture") -> None:
    """Write the figure as the PNG file `path`, whole or not at all; raises BadRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            trouble = pictures.write_static({"picture": drawn}, Path(folder))
            if trouble is not None:
                raise BadRun(f"{path} was not drawn ({trouble}); {option} FILE.html needs no Chrome")
            (Path(folder) / "picture.png").replace(path)
    except OSError as error:
        raise BadRun(f"{path} cannot be written ({error}); choose another place, or make room") from error
