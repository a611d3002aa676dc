"""Ranking: the best items of a catalogue, metrics of such lists, indexes, candidates with the user's own ids."""
