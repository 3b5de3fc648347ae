"""Ensembles of molecular-dynamics calculations: one YAML spec in, labelled xarray data with error bars out.

``campaign.open(directory)`` opens what a campaign has computed so far; the rest is on the command line.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from campaign.results import Campaign

__version__: str
__all__ = ["__version__", "open"]


def open(directory: "str | os.PathLike[str]") -> "Campaign":  # noqa: A001 - `campaign.open` reads as it should
    """Open a campaign directory for reading; also while it runs, and on a read-only file system.

    Parameters
    ----------
    directory
        Directory that ``campaign run`` made.

    Raises
    ------
    LedgerError
        There is no campaign in that directory.
    """
    # Late, since `import campaign` must stay light: xarray takes longer to import than `campaign status` may.
    from pathlib import Path

    from campaign.results import Campaign

    return Campaign(Path(directory))


if not TYPE_CHECKING:  # or every name would seem to be there

    def __getattr__(name: str) -> str:
        """``__version__``, when it is asked for: `importlib.metadata` is a fifth of ``--help``'s time."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("campaign")
