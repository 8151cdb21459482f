"""From files to batches: uint8 at rest, float32 in [-1, 1] when a net sees it."""
