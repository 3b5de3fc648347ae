"""Stages of NEMD: what they carry, which of them runs share, and what swaps with the direction."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign.engines.base import NVT, HeatFlow, NpT, Preheat, Simulation
from campaign.protocols.base import CalculationProtocol, Stage
from campaign.protocols.nemd_settings import NemdSettings
from campaign.quantities import digest
from campaign.structures.layers import BuildSettings, build
from tests.nemd_cases import PROTOCOL, REPLICA, FakeEngine, fake_engine, layers, small


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeEngine]]:
    with fake_engine(monkeypatch) as fake:
        yield fake


GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_nemd.json").read_text())
"""As the first version made them, for graphene and h-BN only."""


def stages(replica: tuple[int, int] = REPLICA, **changes: Any) -> dict[str, Stage]:
    return {stage.kind: stage for stage in PROTOCOL.stages(small(**changes), "lammps", replica)}


@pytest.mark.parametrize(
    ("changes", "replica", "new"),
    [
        ({}, REPLICA, set()),
        ({}, (1, 1), {"equilibrate", "produce", "reduce"}),
        ({"direction": "backward"}, REPLICA, {"produce", "reduce"}),
        ({"bath_offset_K": 60.0}, REPLICA, {"produce", "reduce"}),
        ({"production_ps": 24.0}, REPLICA, {"produce", "reduce"}),
        ({"preheat_ps": 2.0}, REPLICA, {"produce", "reduce"}),
        ({"npt_ps": 4.0}, REPLICA, {"equilibrate", "produce", "reduce"}),
        ({"temperature_K": 350.0}, REPLICA, {"equilibrate", "produce", "reduce"}),
        ({"structure": layers(6, 4)}, REPLICA, {"build", "equilibrate", "produce", "reduce"}),
    ],
)
def test_only_what_a_change_decides_is_new(
    engine: type[FakeEngine], changes: dict[str, Any], replica: tuple[int, int], new: set[str]
) -> None:
    before, after = stages(), stages(replica, **changes)
    assert {kind for kind in before if before[kind].id != after[kind].id} == new


def test_build_up_moved_into_production_repeats_no_md(engine: type[FakeEngine]) -> None:
    before, after = stages(), stages(build_up_ps=8.0, production_ps=8.0)
    assert before["produce"].id == after["produce"].id
    assert before["reduce"].id != after["reduce"].id


def test_stages_carry_what_the_worker_needs(engine: type[FakeEngine]) -> None:
    chain = PROTOCOL.stages(small(preheat_ps=2.0), "lammps", REPLICA)
    assert [stage.kind for stage in chain] == ["build", "equilibrate", "produce", "reduce"]
    build, equilibrate, produce, reduce = chain
    assert equilibrate.needs == {"structure": build.id}
    assert produce.needs == {"structure": build.id, "state": equilibrate.id}
    assert reduce.needs == {"structure": build.id, "produce": produce.id}
    assert (equilibrate.steps, produce.steps) == (3000, 2000 + 16000)
    assert {stage.atoms for stage in chain} == {540}
    assert [stage.engine for stage in chain] == [None, "lammps", "lammps", None]
    assert build.replica is None
    assert reduce.replica is None
    assert equilibrate.random_seed != produce.random_seed
    for stage in (equilibrate, produce):
        assert stage.version == FakeEngine.results_version
        assert set(stage.files) == {"BNC.tersoff"}
    assert isinstance(equilibrate.settings, Simulation)
    assert [type(step) for step in equilibrate.settings.steps[1:]] == [NpT, NVT]


@pytest.mark.parametrize(("direction", "hot"), [("forward", (5, 6, 7, 8)), ("backward", (0, 1, 2, 3, 4))])
def test_direction_swaps_source_and_sink(
    engine: type[FakeEngine], direction: str, hot: tuple[int, ...]
) -> None:
    produce = stages(direction=direction, preheat_ps=1.0, preheat_fraction=0.4)["produce"]
    assert isinstance(produce.settings, Simulation)
    preheat, flow = produce.settings.steps
    assert isinstance(preheat, Preheat)
    assert isinstance(flow, HeatFlow)
    assert set(flow.source_layers) <= set(hot)
    assert not set(flow.sink_layers) & set(hot)
    assert {flow.source_layers, flow.sink_layers} == {(7, 8), (1, 2)}
    assert (flow.source_temperature_K, flow.sink_temperature_K) == (400, 200)
    assert (preheat.hot_temperature_K, preheat.cold_temperature_K) == (340, 260)
    assert flow.upper_layers == (5, 6, 7, 8)
    assert flow.frozen_layers == (0,)
    # the layers at the interface feel no thermostat, and no layer is preheated and frozen at once
    assert not {4, 5} & {*flow.source_layers, *flow.sink_layers, *flow.frozen_layers}
    assert set(preheat.hot_layers) == set(hot) - {0}
    assert sorted((*preheat.hot_layers, *preheat.cold_layers)) == list(range(1, 9))


def test_labels() -> None:
    assert PROTOCOL.labels(NemdSettings()) == {"pair": "graphene/hbn"}
    assert isinstance(PROTOCOL, CalculationProtocol)


@pytest.mark.parametrize("name", GOLDEN)
def test_identities_and_atoms_of_the_first_version_stand(engine: type[FakeEngine], name: str) -> None:
    golden = GOLDEN[name]
    settings = NemdSettings.model_validate(
        {"structure": golden["structure"], "bath_offset_K": 100.0, "preheat_ps": 1.0}
    )
    made, *others = PROTOCOL.stages(settings, "lammps", REPLICA)
    assert made.id == golden["build"]
    assert [digest(stage.settings) for stage in others] == golden["settings"]
    if "positions" in golden:
        assert isinstance(made.settings, BuildSettings)
        atoms = build(made.settings)
        weights = np.arange(1, len(atoms) + 1)  # they tell the order of the atoms, too
        assert weights @ atoms.numbers == golden["elements"]
        assert weights @ atoms.positions == pytest.approx(golden["positions"], abs=1e-3)
