"""Data directories that are partitioned by user: a log that need not fit into memory.

    dataset.json                format 2, fingerprint, times, the digest of manifest.json, provenance, statistics
    manifest.json               rows, bytes and SHA-256 of every file
    items.parquet               item_id, interactions, maybe title and categories; row n is item n + 1
    users/00000.parquet         user_id, interactions; row n is the user of that number, counted over all partitions
    interactions/00000.parquet  user, item, timestamp, maybe rating; sorted by user, oldest first, in small row groups

Users are numbered by the hash of their ids and partitions are ranges of hashes, so that the partitions one after
another are the same arrays however many there are.
"""

from diffacet.data.partitions.manifest import MANIFEST, FileEntry, Part
from diffacet.data.partitions.reading import Partitions
from diffacet.data.partitions.writing import write_about, write_partition

__all__ = ["MANIFEST", "FileEntry", "Part", "Partitions", "write_about", "write_partition"]
