"""Click logs: showings with their answers, what each user did before them, and how both become arrays.

A folder of Parquet files and a schema (`reading`, `schema`) is split by time (`splitting`), numbered by what training
has (`vocabulary`, `dense`), packed once (`packing`, `store`) and cut into batches (`cutting`). The rule that all of it
keeps: a sample sees what its user did strictly before it, and nothing is learned from later than training's end.
"""

from diffacet.data.clicks.cutting import cut
from diffacet.data.clicks.dense import Statistics
from diffacet.data.clicks.log import ClickLog
from diffacet.data.clicks.packing import encode, learn
from diffacet.data.clicks.reading import BEHAVIOURS, ITEMS, SAMPLES, USERS, Raw, from_frames, read, read_schema, wanted
from diffacet.data.clicks.schema import BehaviourField, Schema, source_of
from diffacet.data.clicks.splitting import ClickSplit
from diffacet.data.clicks.store import Packed, open  # noqa: A004
from diffacet.data.clicks.summary import statistics
from diffacet.data.clicks.vocabulary import Vocabulary

__all__ = [
    "BEHAVIOURS", "ITEMS", "SAMPLES", "USERS", "BehaviourField", "ClickLog", "ClickSplit", "Packed", "Raw", "Schema",
    "Statistics", "Vocabulary", "cut", "encode", "from_frames", "learn", "open", "read", "read_schema",
    "source_of", "statistics", "wanted",
]  # fmt: skip
