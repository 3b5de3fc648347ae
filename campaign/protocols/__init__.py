"""Protocols: one module for each calculation - its settings, its stages, its reduction and its gates."""
