"""The names of the 64 numbers of an AlphaEarth embedding."""

BANDS: tuple[str, ...] = tuple(f"A{i:02d}" for i in range(64))
