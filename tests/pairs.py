"""What the tests of pairs of materials share: the eight pairs of the paper, and geometry from positions."""

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from campaign.structures.blocks import LayerBlock, Match, MultilayerSettings
from campaign.structures.layers import BuildSettings

LATTICE_CONSTANTS_A = {
    "graphene": 2.4920,
    "hbn": 2.4979,
    "mos2": 3.118,
    "ws2": 3.128,
    "wse2": 3.288,
    "mose2": 3.311,
}
"""Of BNC.tersoff and of tmd.sw.mod."""

PAIRS = {
    "graphene/hbn": Match(twist_deg=(5, 30)),
    "graphene/mos2": Match(),
    "hbn/mos2": Match(),
    "mos2/wse2": Match(twist_deg=(0, 30)),
    "hbn/wse2": Match(),
    "hbn/ws2": Match(),
    "graphene/wse2": Match(),
    "ws2/wse2": Match(twist_deg=(0, 30)),
}
"""Upper on lower, and how their cell is looked for."""


def pair(name: str, lower_layers: int = 1, upper_layers: int = 1, **changes: Any) -> MultilayerSettings:
    upper, lower = name.split("/")
    values: dict[str, Any] = {
        "lower": LayerBlock.model_validate({"material": lower, "layers": lower_layers}),
        "upper": LayerBlock.model_validate({"material": upper, "layers": upper_layers}),
        "match": PAIRS.get(name, Match()),
        "cell_from": "mean",
        "max_strain": 0.007,
    }
    return MultilayerSettings(**(values | changes))


def settings_of(structure: MultilayerSettings) -> BuildSettings:
    return BuildSettings.of(structure, LATTICE_CONSTANTS_A)


def distances(first: Atoms, second: Atoms, *, lateral: bool = False) -> NDArray[np.float64]:
    """Distances of all atoms and their periodic images in the plane, shape (first, second x images)."""
    images = np.array([(i, j, 0) for i in range(-2, 3) for j in range(-2, 3)]) @ first.cell.array
    difference = first.positions[:, None, None] - second.positions[None, :, None] - images
    flat = difference[..., :2] if lateral else difference
    found: NDArray[np.float64] = np.linalg.norm(flat, axis=-1).reshape(len(first), -1)
    return found


def above(lower: Atoms, upper: Atoms) -> set[str]:
    """What lies above what: ``NB`` where an N of the upper layer is right above a B; ``N-`` above nothing."""
    found = set()
    for symbol in dict.fromkeys(upper.symbols):
        here = upper[upper.symbols == symbol]
        on_top = {
            other: distances(here, lower[lower.symbols == other], lateral=True).min(axis=1) < 1e-6
            for other in dict.fromkeys(lower.symbols)
        }
        for other, hits in on_top.items():
            if hits.any():
                found.add(f"{symbol}{other}")
        if not np.all(np.any(list(on_top.values()), axis=0)):
            found.add(f"{symbol}-")
    return found


def layers_of(atoms: Atoms) -> list[Atoms]:
    return [atoms[atoms.arrays["layer"] == k] for k in range(atoms.arrays["layer"].max() + 1)]
