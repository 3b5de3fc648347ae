"""Molecular-dynamics engines: what does the physics. ``base`` is the contract, one module for each engine."""
