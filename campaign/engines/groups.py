"""Which layers the steps of a simulation name, and whether the structure has them."""

from collections.abc import Mapping, Sequence

from campaign.engines.base import HeatFlow, Preheat, Simulation, Step
from campaign.errors import InputError


def check_groups(simulation: Simulation, layers: int) -> None:
    """Check the groups of all steps against a structure with so many layers.

    Raises
    ------
    InputError
        A group has no layers, or some that the structure lacks, or two groups share one.
    """
    for step in simulation.steps:
        for name, group in _groups(step).items():
            _check_range(name, group, layers)
        _check_disjoint(_baths(step))


def _groups(step: Step) -> Mapping[str, Sequence[int]]:
    """Find the groups that must have layers, by name."""
    if isinstance(step, Preheat):
        frozen = set(step.frozen_layers)
        return {
            "hot": [layer for layer in step.hot_layers if layer not in frozen],
            "cold": [layer for layer in step.cold_layers if layer not in frozen],
            **({"frozen": step.frozen_layers} if frozen else {}),
        }
    if isinstance(step, HeatFlow):
        return {
            "source": step.source_layers,
            "sink": step.sink_layers,
            "upper": step.upper_layers,
            **({"frozen": step.frozen_layers} if step.frozen_layers else {}),
        }
    return {}


def _baths(step: Step) -> Mapping[str, Sequence[int]]:
    """Find the groups that must not share a layer."""
    if isinstance(step, Preheat):
        return {"hot": step.hot_layers, "cold": step.cold_layers}
    if isinstance(step, HeatFlow):
        return {"source": step.source_layers, "sink": step.sink_layers, "frozen": step.frozen_layers}
    return {}


def _check_range(name: str, group: Sequence[int], layers: int) -> None:
    if not group:
        raise InputError(f"the group {name!r} has no layers")
    if min(group) < 0 or max(group) >= layers:
        raise InputError(
            f"the group {name!r} has layers {sorted(group)}, the structure has 0 to {layers - 1}"
        )


def _check_disjoint(groups: Mapping[str, Sequence[int]]) -> None:
    owner: dict[int, str] = {}
    for name, group in groups.items():
        for layer in group:
            if layer in owner:
                raise InputError(f"layer {layer} belongs to both {owner[layer]!r} and {name!r}")
            owner[layer] = name
