"""Potentials by name: those that come with LAMMPS, and those of the user's library."""

import difflib
from collections.abc import Collection, Sequence

from campaign.errors import ResourceError, SpecError
from campaign.potentials.builtin import BUILTIN
from campaign.potentials.library import own_names, own_potential
from campaign.potentials.potential import Potential
from campaign.potentials.published import PUBLISHED


def potential_names() -> tuple[str, ...]:
    """Names of all potentials, those of the library last."""
    return (*BUILTIN, *own_names())


def get_potential(name: str) -> Potential:
    """Potential by name.

    Raises
    ------
    SpecError
        There is none of that name.
    ResourceError
        It is in the library, and cannot be read.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    try:
        return own_potential(name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    known = potential_names()
    close = difflib.get_close_matches(
        name.lower().replace("_", "-").replace("+", "-"), known, n=1, cutoff=0.5
    )
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
    if name in PUBLISHED:
        hint = f"`campaign potentials fetch {name}` gets it"
    raise SpecError(f"unknown potential {name!r}", where="potential", hint=hint)


def check_layers(potential: Potential, layers: Sequence[Collection[str]]) -> None:
    """Check that a potential can describe a stack, given by the elements of each layer.

    Raises
    ------
    SpecError
        It lacks an element, or terms within or between layers; the hint names those that can.
    """
    reason = potential.reason_against(layers)
    if reason is None:
        return
    able = [name for name in potential_names() if _can(name, layers)]
    hint = (
        f"potentials that can: {', '.join(able)}"
        if able
        else "no potential here can; see `campaign potentials`"
    )
    raise SpecError(reason, where="potential", hint=hint)


def _can(name: str, layers: Sequence[Collection[str]]) -> bool:
    try:
        return get_potential(name).reason_against(layers) is None
    except ResourceError:  # a damaged entry of the library is told where it is asked for
        return False
