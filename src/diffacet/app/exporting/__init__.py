"""Everything that another system needs to serve a trained run without diffacet, checked before it is handed over.

`vectors` has the items and their index, `programs` the encoder, of `parts` that torch can follow, `checks` compares
what was written with the run, and `guide` says how it is used.
"""

import dataclasses
import hashlib
import importlib.util
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
from torch.export import ExportedProgram

from diffacet import files
from diffacet.app import rundir, show
from diffacet.app.cards import card_of
from diffacet.app.exporting import checks, guide, programs, vectors
from diffacet.app.exporting.programs import Encode, FloatArray, NoProgram
from diffacet.app.rundir import Changes
from diffacet.app.serving import state
from diffacet.app.serving.recommender import Recommender
from diffacet.core.contract import Matcher
from diffacet.errors import BadRun, BadSetting, nearest, require
from diffacet.rank.index import KINDS

FORMAT = 1
MANIFEST, PT2, ONNX = "manifest.json", "encoder.pt2", "encoder.onnx"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Wish:
    """What an export holds.

    Attributes:
        index: kind of the FAISS index, "exact", "hnsw" or "ivf".
        onnx: whether encoder.onnx is written; None: if the extra `onnx` is installed and the model has a form in ONNX.
        require_encoder: whether a model whose encoder cannot be exported is refused, instead of exported without.
    """

    index: str = "exact"
    onnx: bool | None = None
    require_encoder: bool = False


def export(
    path: Path | str,
    out: Path | str,
    wish: Wish = Wish(),
    *,
    refine_steps: int | None = None,
    set: Changes = (),  # noqa: A002 - the command line's own word
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """Export the run in `path` into the new directory `out`, whole and checked, or not at all.

    Args:
        path: a run directory of a model with vectors of items.
        out: the directory to make; there must be none, or an empty one.
        wish: what it holds.
        refine_steps: S of the encoder; None: as the run is set.
        set: further inference settings, `["key=value"]` or a mapping.
        tell: called with a line on each stage.

    Returns:
        What manifest.json holds, and "out".

    Raises:
        BadRun: no run, a damaged one, one of a model without vectors, an encoder that is required and cannot be had,
            a check that fails, or a directory that cannot be written.
        BadSetting: a setting that the model has not or that is fixed in training, or an unknown kind of index.
        MissingExtra: ONNX is asked for, and a package of the extra is not installed.
    """
    path, out = Path(path), Path(out)
    if wish.index not in KINDS:
        raise BadSetting(f"--index takes {', '.join(KINDS)}; got '{wish.index}'{nearest(wish.index, KINDS)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadRun(f"{out} exists; choose another --out")
    with_onnx = _with_onnx(wish.onnx)
    _check_task(path)
    tell(f"loading {path}")
    recommender = Recommender.load(path, refine_steps=refine_steps, set=set, device="cpu")
    model = recommender.run.model
    if not isinstance(model, Matcher):
        raise BadRun(_without_vectors(path, recommender.run.card.name))
    with _made(out) as folder:
        own, asked = vectors.of_model(model), checks.histories(recommender)
        tell(f"writing {len(own):,} items, {wish.index} index")
        vectors.write(folder, recommender.run.catalogue, own, wish.index)
        encoders, reasons = _write_encoders(folder, recommender, wish, with_onnx, tell)
        told = _manifest(recommender, wish, asked, own, encoders, reasons)
        told["checks"] = _checked(folder, recommender, wish, asked, own, encoders, tell)
        _describe(folder, recommender, told, encoders, reasons)
        told["files"] = {one.name: _file(one) for one in sorted(folder.iterdir())}
        files.write_json(folder / MANIFEST, told)
    return told | {"out": str(out)}


def _write_encoders(
    folder: Path, recommender: Recommender, wish: Wish, with_onnx: bool, tell: Tell
) -> tuple[dict[str, Encode], dict[str, str]]:
    """The encoders that could be written, as read again from their files, and why others could not."""
    name, encoders, reasons = recommender.run.card.name, dict[str, Encode](), dict[str, str]()
    try:
        tell("tracing the encoder")
        program: ExportedProgram = programs.trace(recommender.run.model, recommender.retriever.length)
    except NoProgram as error:
        reasons[PT2] = f"{name} has no encoder that could be exported: {error}"
        if wish.require_encoder:
            raise BadRun(f"{reasons[PT2]}; leave out --require-encoder for the vectors alone") from error
        tell(f"{reasons[PT2]}; what is exported is the rest")
        return encoders, reasons
    programs.save(program, folder / PT2)
    encoders[PT2] = programs.load(folder / PT2)
    if with_onnx:
        tell("converting it to ONNX")
        try:
            programs.save_onnx(program, folder / ONNX)
            encoders[ONNX] = programs.load_onnx(folder / ONNX)
        except NoProgram as error:
            reasons[ONNX] = f"{name} has no encoder in ONNX: {error}"
            if wish.onnx:
                raise BadRun(f"{reasons[ONNX]}; leave out --onnx for {PT2} alone") from error
            (folder / ONNX).unlink(missing_ok=True)
            tell(f"{reasons[ONNX]}; {PT2} is exported alone")
    elif wish.onnx is None:
        tell(f"no {ONNX}: it needs onnx, onnxscript and onnxruntime: pip install 'diffacet[onnx]'")
    return encoders, reasons


def _checked(
    folder: Path,
    recommender: Recommender,
    wish: Wish,
    asked: checks.Histories,
    own: FloatArray,
    encoders: dict[str, Encode],
    tell: Tell,
) -> dict[str, Any]:
    """Compare all that lies in `folder` with the run; raises BadRun for what differs."""
    run, edge = recommender.run, set[int]()
    tell(f"checking against the run: {asked.source}")
    vectors.check(folder, run.catalogue, own, wish.index)
    told: dict[str, Any] = {"histories": asked.source, "vectors": {"equal": True, "items": len(own)}}
    for name, encode in encoders.items():
        told[name], more = checks.encoder(name, encode, run.model, asked.items)
        edge |= more
    rows = [row for row in range(len(asked.items)) if row not in edge]
    encode = encoders.get(ONNX) or encoders.get(PT2) or programs.of_model(run.model)
    told[vectors.INDEX] = checks.index(folder / vectors.INDEX, encode(asked.items[rows]), own)
    told["lists"] = checks.lists(recommender, asked, rows, encode, folder / vectors.INDEX, own)
    return told


def _manifest(
    recommender: Recommender,
    wish: Wish,
    asked: checks.Histories,
    own: FloatArray,
    encoders: dict[str, Encode],
    reasons: dict[str, str],
) -> dict[str, Any]:
    run, steps = recommender.run, state.refinement(recommender.run)
    return {
        "format": FORMAT,
        "model": run.card.name,
        "preset": run.about["preset"],
        "version": recommender.version,
        "data": {name: run.about["data"][name] for name in ("name", "fingerprint")},
        "items": len(own),
        "dim": own.shape[1],
        "interests": int(programs.of_model(run.model)(asked.items[:1]).shape[1]),
        "length": recommender.retriever.length,
        "metric": "inner product",
        "index": wish.index,
        "encoder": next((name for name in (ONNX, PT2) if name in encoders), None),
        "reasons": reasons,
        "refine_steps": None if steps is None else steps["default"],
        "settings": show.plain(dataclasses.asdict(run.settings.model)),
        "libraries": _libraries(ONNX in encoders),
    }


def _describe(
    folder: Path, recommender: Recommender, told: dict[str, Any], encoders: dict[str, Encode], reasons: dict[str, str]
) -> None:
    catalogue, length = recommender.run.catalogue, told["length"]
    columns = "".join(f"`{name}`, " for name in ("title", "categories") if name in catalogue.columns)
    some = [str(item) for item in catalogue["item_id"].head(3)]
    values = {
        "model": told["model"],
        "preset": told["preset"],
        "version": told["version"],
        "data": told["data"]["name"],
        "diffacet": told["libraries"]["diffacet"],
        "torch": told["libraries"]["torch"],
        "n": f"{told['items']:,}",
        "d": told["dim"],
        "k": told["interests"],
        "length": length,
        "reads": f"L = {length}, the items of a history that are read" if length else "a history is read whole",
        "source": told["checks"]["histories"],
        "columns": columns,
        "index": told["index"],
        "opset": programs.OPSET,
        "reason": reasons.get(PT2, ""),
        "ids": " ".join(shlex.quote(item) for item in some),
        "quoted": ", ".join(repr(item) for item in some),
    }
    guide.write(folder, values, list(encoders))


def _with_onnx(asked: bool | None) -> bool:
    if asked:
        for package in _PACKAGES:
            require(package, "onnx")
    return all(importlib.util.find_spec(package) for package in _PACKAGES) if asked is None else asked


def _check_task(path: Path) -> None:
    """Refuse a run of a click model before anything is loaded."""
    card = card_of(path, rundir.read_about(path))
    if card.task == "click":
        raise BadRun(
            f"{path} is a run of {card.name}, a model of clicks, which has no vectors to export; score showings with "
            f"'diffacet predict'"
        )


def _without_vectors(path: Path, name: str) -> str:
    return (
        f"{path} is a run of {name}, which scores all items at once and has no vectors to export; use "
        f"'diffacet candidates' for everybody's lists, or 'diffacet serve'"
    )


@contextmanager
def _made(out: Path) -> Iterator[Path]:
    """The directory `out`, when the block ends without an error; raises BadRun when it cannot be written."""
    try:
        with files.new_directory(out) as folder:
            yield folder
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadRun(f"{out} cannot be written ({error}), and nothing of it was kept; choose another --out") from error


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _libraries(with_onnx: bool) -> dict[str, str]:
    names = ("diffacet", "torch", "numpy", "polars", "faiss-cpu", *(_PACKAGES if with_onnx else ()))
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # FAISS has other names, too
            found[name] = "unknown"
    return found
