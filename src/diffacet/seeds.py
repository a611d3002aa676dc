"""Random streams without state: a stream is a function of a seed and of what it is for.

Batch 712 is drawn from `stream(seed, "batch", 712)`, whatever was drawn before it; so resuming is
starting at a number, and no purpose can disturb another. Nothing here needs to be saved.
"""

import hashlib

import numpy as np


def number(seed: int, *keys: str | int) -> int:
    """A 63-bit number that depends on `seed` and `keys` only, the same on every machine and Python."""
    text = "\x1f".join([str(int(seed)), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, *keys: str | int) -> np.random.Generator:
    """A NumPy generator that depends on `seed` and `keys` only."""
    return np.random.Generator(np.random.PCG64(number(seed, *keys)))
