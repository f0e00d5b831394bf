"""Fleets: the same measurement and verdict for every GPU of a cluster, on Dask distributed."""
