"""Where attempts run: the worker (one attempt), the driver (the loop) and the cluster (Dask)."""
