"""Whether a run directory, or parts of something else that was begun, are what is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffacet import files
from diffacet.app import settings
from diffacet.app.cards import card
from diffacet.errors import BadRun, DiffacetError


def check(out: Path, before: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Refuse to go on with the run in `out` by other data or settings.

    Args:
        out: the run directory, for the message.
        before: its run.json.
        told: what run.json would be now.

    Raises:
        BadRun: they differ; it says in what.
    """
    if before["data"]["fingerprint"] != told["data"]["fingerprint"]:
        raise BadRun(
            f"{out} was trained on other data ({before['data']['name']}, {before['data']['fingerprint']}; "
            f"now {told['data']['name']}, {told['data']['fingerprint']}); resume with the same --data"
        )
    changed = differences(_flat(before), _flat(told))
    if changed:
        raise BadRun(f"{out} was begun with other settings: {'; '.join(changed)}; resume with the same, or a new --out")


def check_told(folder: Path, name: str, told: Mapping[str, Any], what: str, refusal: type[DiffacetError]) -> None:
    """Refuse to go on with the parts in `folder` by something else than what they are made from.

    Args:
        folder: where the parts are.
        name: of the JSON file in it that says what they are made from.
        told: what it would say now.
        what: the parts of what else they are, as "blocks of another job".
        refusal: the error to raise, if the file is damaged or differs.
    """
    try:
        before = files.read_json(folder / name)
    except (OSError, ValueError) as error:
        raise refusal(f"{folder / name} is damaged ({error}); remove {folder} to begin anew") from error
    changed = differences(before, told)
    if changed:
        raise refusal(
            f"{folder} holds {what}: {'; '.join(changed)}; resume with what it had, or remove that directory to "
            "begin anew"
        )


def differences(before: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """`"k is 20, was 50"` for each name whose value is not what it was before."""
    names = sorted({*before, *told})
    return [
        f"{name} is {told.get(name)}, was {before.get(name)}" for name in names if told.get(name) != before.get(name)
    ]


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change in a resumed run, name -> value, as JSON holds it."""
    flat = {"model": told["model"], "split": told["split"]["name"], "split_seed": told["split"].get("seed")}
    flat |= told.get("reading", {})
    if "clusters" in told:  # a file by its content; LightGCN's vectors are what they were when the run began
        flat["item_vectors"] = told["clusters"].get("fingerprint", told["clusters"]["from"])
    # A setting that came since the run was begun had its default.
    values = settings.defaults(card(told["model"])) | told["settings"]["model"] | told["settings"]["training"]
    return flat | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
