"""A click log as arrays: showings with their answers, and the behaviours that each may see."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffacet.data.clicks.schema import Schema
from diffacet.data.clicks.vocabulary import Vocabulary
from diffacet.data.sequences import BoolArray, IntArray
from diffacet.errors import BadSetting

Int32Array: TypeAlias = NDArray[np.int32]
FloatArray: TypeAlias = NDArray[np.float32]

PADDING, UNKNOWN, TARGET = 0, 1, 2
"""Field values that stand for nothing, for what training has not seen, and for the target in a behaviour-only field."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ClickLog:
    """S samples and N behaviours; F fields of a behaviour, G further fields of a sample, D numbers.

    Behaviours lie by user, then by time, then by their row in the file. Samples keep the order of their file. The
    history of sample s is behaviours[:, begin[s]:end[s]]; all of it happened before the sample.

    Attributes:
        schema: what the columns meant.
        names: of the F behaviour fields.
        other_names: of the G further fields: user, context, target.
        vocabularies: by field name; beside them the users and items of training samples (see `schema`).
        behaviours: (F, N) int32 field values: 1 unknown, then values from 3.
        behaviour_time: (N,) int64 milliseconds; 0 where rows bring their histories along without times.
        sizes: (N,) float32, how many behaviours a row stands for; None: one each.
        user: (S,) int64 user number, 0-based, by user id among the users of these files.
        time: (S,) int64 milliseconds.
        label: (S,) uint8, 1 for a click.
        group: (S,) int64, what GAUC groups by, 0-based.
        begin: (S,) int64.
        end: (S,) int64, not below begin.
        case: (S,) int64, a hash of user id, item id and time; nothing else in a file changes it.
        target: (F, S) int32; 2 in a behaviour-only field.
        other: (G, S) int32.
        numeric: (S, D) float32, standardised.
        known_user: (S,) bool, whether the user has a training sample.
        known_item: (S,) bool, whether a training sample shows the item.
        pointers: (U + 1,) int64, where the behaviours of each user start; None where rows bring their histories along.
    """

    schema: Schema
    names: tuple[str, ...]
    other_names: tuple[str, ...]
    vocabularies: Mapping[str, Vocabulary]
    behaviours: Int32Array
    behaviour_time: IntArray
    user: IntArray
    time: IntArray
    label: NDArray[np.uint8]
    group: IntArray
    begin: IntArray
    end: IntArray
    case: IntArray
    target: Int32Array
    other: Int32Array
    numeric: FloatArray
    known_user: BoolArray
    known_item: BoolArray
    sizes: FloatArray | None = None
    pointers: IntArray | None = None

    def __len__(self) -> int:
        """S, the number of samples."""
        return len(self.time)

    def fields(self) -> dict[str, Any]:
        """What a model may know of the fields, by the names of the attributes of core's ClickFields."""
        return {
            "names": self.names,
            "sizes": tuple(self.vocabularies[name].size for name in self.names),
            "shared": tuple(field.target is not None for field in self.schema.behaviour_fields),
            "other_names": self.other_names,
            "other_sizes": tuple(self.vocabularies[name].size for name in self.other_names),
            "numeric": self.numeric.shape[1],
            "timed": self.schema.timed,
        }

    def ranges(self, rows: IntArray, length: int = 0) -> tuple[IntArray, IntArray]:
        """Where the histories of samples `rows` (B,) begin and end, cut to the `length` most recent (0: all).

        Raises BadSetting for a negative length.
        """
        if length < 0:
            raise BadSetting(f"length is a number of behaviours, or 0 for all; got {length}")
        begin, end = self.begin[rows], self.end[rows]
        return (np.maximum(begin, end - length) if length else begin), end
