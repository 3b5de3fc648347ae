"""An unchanged spec is not planned again: expanding 10^5 runs takes seconds, reading their plan a moment.

What a plan follows from is digested into its ``made_from``: the text of the spec, all code of this package,
the potentials with their files, and the versions of what settings pass through. Where any of it differs, the
spec is expanded.
"""

import functools
import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.engines.base import get_engine
from campaign.errors import CampaignError, LedgerError
from campaign.plan import check_size, make_plan
from campaign.plan_file import load_plan
from campaign.potentials import file_hashes, get_potential, potential_names
from campaign.protocols.base import Stage, get_protocol
from campaign.quantities import digest

if TYPE_CHECKING:
    from campaign.runs import Plan
    from campaign.spec import CampaignSpec

_LIBRARIES = ("pydantic", "numpy")
"""They can change what settings become, and with it the ids of stages."""


def plan_or_reuse(
    spec: "CampaignSpec", path: Path, *, allow_large: bool = False
) -> "tuple[Plan, Mapping[str, Stage]]":
    """Plan a spec as `campaign.plan.make_plan` does, or take the plan at ``path`` if it would be the same.

    Parameters
    ----------
    spec
        From `campaign.spec.load_spec`.
    path
        ``plan.json`` of the campaign's directory; need not be there.
    allow_large
        Accept more runs than the spec's ``limits.runs``.

    Returns
    -------
    tuple
        The plan, and its stages by id; those of a plan that was read are made when one is asked for.

    Raises
    ------
    SpecError
        As `campaign.plan.make_plan`.
    """
    made_from = _made_from(spec)
    if made_from and path.exists():
        try:
            plan = load_plan(path)
        except LedgerError:
            pass  # damaged or of another version: it is written anew
        else:
            if plan.made_from == made_from:
                check_size(spec, allow_large=allow_large)
                return plan, _LaterStages(plan, spec)
    plan, stages = make_plan(spec, allow_large=allow_large)
    return replace(plan, made_from=made_from), stages


class _LaterStages(Mapping[str, Stage]):
    """Stages of a plan that was read; the spec is expanded when the settings of one are needed."""

    def __init__(self, plan: "Plan", spec: "CampaignSpec") -> None:
        self._plan = plan
        self._spec = spec

    @functools.cached_property
    def _made(self) -> Mapping[str, Stage]:
        _, stages = make_plan(self._spec, allow_large=True)  # its size was accepted when the plan was
        return stages

    def __len__(self) -> int:
        return len(self._plan.stages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.stages)

    def __contains__(self, stage_id: object) -> bool:
        return stage_id in self._plan.stages

    def __getitem__(self, stage_id: str) -> Stage:
        if stage_id not in self._plan.stages:
            raise KeyError(stage_id)
        return self._made[stage_id]


def _made_from(spec: "CampaignSpec") -> str:
    """Digest of all that a plan follows from; empty where that cannot be said.

    A plug-in may read files, or import code, that nobody here knows of: its plans are always made anew.
    """
    used: list[object] = []
    for calculation in spec.calculations.values():
        used += [get_protocol(calculation.protocol), get_engine(calculation.engine)]
    if not all(type(one).__module__.startswith(f"{__package__}.") for one in used):
        return ""
    try:
        known = [get_potential(name) for name in potential_names()]
        potentials = [[one.name, file_hashes(one), one.elements, one.lattice_constants_A] for one in known]
    except CampaignError:  # told in its place, when the spec is expanded
        return ""
    libraries = {name: version(name) for name in _LIBRARIES}
    return digest([spec.text, _code_sha256(), platform.python_version(), libraries, potentials])


@functools.cache
def _code_sha256() -> str:
    """SHA-256 of the names and bytes of all files of this package's code."""
    root = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code = path.read_bytes()
        whole.update(f"{path.relative_to(root)} {len(code)}\n".encode())
        whole.update(code)
    return whole.hexdigest()
