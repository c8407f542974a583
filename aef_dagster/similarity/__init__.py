"""Which basins are alike: representations of a basin, similarity in each space, ranked donors.

Similarity uses static descriptors only, never flow. Frames and arrays come in, arrays and frames
go out.
"""
