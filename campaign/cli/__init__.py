"""The command line: commands, live progress and the grid of states."""

from campaign.cli.app import main

__all__ = ["main"]
