"""Atomic models: settings in, ``ase.Atoms`` with realised strain, layers and groups out."""
