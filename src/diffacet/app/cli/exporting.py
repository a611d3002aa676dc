"""The command export: a run for systems that have no diffacet."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from diffacet.app import options as o
from diffacet.app.cli.shell import app, console_of, print_json, tell_next

Out = Annotated[Path, Option("--out", metavar="DIR", help="The directory to make; there must be none.")]
IndexKind = Annotated[str, Option(metavar="exact|hnsw|ivf", help="Kind of the FAISS index.")]
Onnx = Annotated[
    bool | None,
    Option("--onnx/--no-onnx", help="Write encoder.onnx, or not; if not said, where extra 'onnx' is installed."),
]
RequireEncoder = Annotated[
    bool, Option("--require-encoder", help="Refuse a model whose encoder cannot be exported, instead of doing without.")
]


@app.command(
    short_help="Export a run for systems without diffacet.",
    help=o.described(
        "Write all that another system needs to serve a run: item vectors and ids (Parquet and .npy), a FAISS index,"
        " the encoder with its refinement as a torch.export program and as ONNX (extra 'onnx'), a README that shows how"
        " vector databases load them, and an example. All of it is read again and compared with the run before it is"
        " handed over. Works on the CPU.",
        "diffacet export runs/dmi --out export/dmi",
        "diffacet export runs/dmi --out export/quick --refine-steps 2 --index hnsw",
        "diffacet export runs/dmi --out export/dmi --onnx --require-encoder --json",
        "python export/dmi/example.py 12 7 99                      # needs numpy, onnxruntime and FAISS only",
    ),
)
def export(
    run: o.RunDir,
    out: Out,
    index: IndexKind = "exact",
    refine_steps: o.RefineSteps = None,
    set_: o.Asked = None,
    onnx: Onnx = None,
    require_encoder: RequireEncoder = False,
    as_json: o.Json = False,
) -> None:
    """Run to files."""
    from diffacet.app import exporting

    told = exporting.export(
        run,
        out,
        exporting.Wish(index, onnx, require_encoder),
        refine_steps=refine_steps,
        set=set_ or (),
        tell=lambda line: typer.echo(f"diffacet: {line}", err=True),
    )
    if as_json:
        print_json(told)
        return
    _show(told)
    if told["encoder"]:
        tell_next(console_of(), f"python {out / 'example.py'} ID [ID ...]")


def _show(told: dict[str, Any]) -> None:
    say = partial(console_of().print, highlight=False, markup=False, soft_wrap=True)
    vectors = f"{told['interests']} vector{'' if told['interests'] == 1 else 's'} a user, d = {told['dim']}"
    say(f"{told['out']}: {told['items']:,} items, {vectors}, by {told['version']}")
    for name, file in told["files"].items():
        say(f"  {name:<14} {file['bytes']:>14,} bytes{_found(told['checks'].get(name))}")
    lists = told["checks"]["lists"]
    say(f"checked on {told['checks']['histories']}: {lists['same']} of {lists['lists']} lists of {lists['k']} the same")
    for reason in told["reasons"].values():
        say(reason)


def _found(check: dict[str, Any] | None) -> str:
    if check is None:
        return ""
    if "largest" not in check:
        return f"   recall@50 {check['recall@50']:.4f}"
    edge = f", {check['on_edge']} histories on an edge" if check["on_edge"] else ""
    return f"   differs from the model by {check['largest']:.1g}{edge}"
