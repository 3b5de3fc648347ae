"""Settings of NEMD: the paper's defaults, and what is refused, with the name of the field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from campaign.errors import SpecError
from campaign.potentials import add_nep
from campaign.protocols.nemd_settings import LayerRoles, NemdSettings, own_constants
from campaign.protocols.nemd_variables import VARIABLES
from campaign.structures.materials import MATERIALS
from tests.nemd_cases import PROTOCOL, REPLICA, FakeEngine, fake_engine, layers, small


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeEngine]]:
    with fake_engine(monkeypatch) as fake:
        yield fake


def test_defaults_are_the_papers() -> None:
    settings = NemdSettings()
    roles = LayerRoles.of(settings)
    # the groups of the authors' run.in: 0 frozen, 1 sink, 2..11 h-BN, 12..21 graphene, 22 source
    assert roles.frozen == (0,)
    assert roles.lower_thermostat == (1, 2)
    assert roles.upper_thermostat == (23, 24)
    assert (roles.lower[-1], roles.upper[0]) == (12, 13)
    steps = {"npt": 1_000_000, "nvt": 500_000, "heat_flow": 5_000_000}
    assert settings.npt_ps * 1000 / settings.timestep_fs == steps["npt"]
    assert settings.nvt_ps * 1000 / settings.timestep_fs == steps["nvt"]
    flow_ps = settings.build_up_ps + settings.production_ps
    assert flow_ps * 1000 / settings.timestep_fs == steps["heat_flow"]
    assert settings.build_up_ps == settings.production_ps  # the last half is used
    # GPUMD counts damping in steps of 0.5 fs: 100 for thermostats, 1000 for the barostat
    assert settings.langevin_damping_fs == settings.thermostat_damping_fs == 100 * 0.5
    assert settings.barostat_damping_fs == 1000 * 0.5
    PROTOCOL.validate(settings, "lammps")


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in NemdSettings.model_fields.values())


def test_variables_do_not_take_the_names_of_axes() -> None:
    axes = {name.rsplit("_", 1)[0] for name in NemdSettings.model_fields}
    axes |= {*NemdSettings.model_fields, "seed", "pair", "run", "state", "stacking"}
    assert not axes & set(VARIABLES)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature_K": -1.0},
        {"timestep_fs": 50.0},
        {"bath_offset_K": -1.0},
        {"frozen_layers": 0},
        {"thermostat_layers": 0},
        {"production_ps": 0.0},
        {"production_ps": float("nan")},
        {"direction": "up"},
        {"temperature": 300.0},
    ],
)
def test_wrong_types_and_ranges_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        small(**change)


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ({"structure": layers(3, 4)}, "structure.lower.layers", "1 frozen and 2 thermostatted"),
        ({"structure": layers(5, 2)}, "structure.upper.layers", "leave no free layer"),
        ({"structure": layers(5, 1)}, "structure.upper.layers", "reach across"),
        ({"frozen_layers": 3}, "structure.lower.layers", "5 layers of hbn"),
        ({"bath_offset_K": 300.0}, "bath_offset_K", "0 K"),
        ({"temperature_K": 4950.0}, "bath_offset_K", "5050 K"),
        ({"temperature_K": 20.0}, "bath_offset_K", "-80 K"),
        ({"production_ps": 0.45}, "production_ps", "10 sampling intervals"),
        ({"production_ps": 12.02}, "production_ps", "whole number"),
        ({"build_up_ps": 4.02}, "build_up_ps", "whole number"),
        ({"sampling_interval_ps": 0.0505}, "sampling_interval_ps", "whole number"),
        ({"sampling_interval_ps": 0.0004}, "sampling_interval_ps", "whole number"),
        ({"preheat_fraction": 0.4}, "preheat_fraction", "preheat_ps"),
        ({"potential": "tersof-lj"}, "potential", "tersoff-lj"),
        ({"structure": layers(5, 10**9)}, "structure", "more than 100,000,000"),
        ({"structure": layers(5, 4, vacuum_A=4.0)}, "structure.vacuum_A", "4 A of vacuum are too few"),
        ({"structure": layers(5, 4, cells=(5, 4))}, "structure.max_strain", "strained"),
    ],
)
def test_impossible_settings_name_the_field(
    engine: type[FakeEngine], change: dict[str, Any], where: str, words: str
) -> None:
    PROTOCOL.validate(small(), "lammps")
    with pytest.raises(SpecError, match=words) as caught:
        PROTOCOL.validate(small(**change), "lammps")
    assert caught.value.where == where


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("lattice_constants_A", "monolayers_only", "words"),
    [
        (
            {"graphene": 2.46, "hbn": 2.5},
            True,
            "mine is made for single layers; potentials that can: tersoff-lj",
        ),
        ({"graphene": 2.46}, False, "no lattice constant of hbn; .* --lattice hbn=ANGSTROM"),
    ],
)
def test_a_model_must_be_for_the_pair(
    lattice_constants_A: dict[str, float],
    monolayers_only: bool,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    model = tmp_path / "model"
    model.write_text("nep4 3 B C N\n")
    add_nep(model, "mine", lattice_constants_A, monolayers_only=monolayers_only)
    with pytest.raises(SpecError, match=words) as caught:
        PROTOCOL.validate(small(potential="mine"), "lammps")
    assert caught.value.where == "potential"


@pytest.mark.usefixtures("engine")
def test_a_material_of_the_spec_brings_its_lattice_constant_where_the_potential_has_none() -> None:
    mine = MATERIALS["hbn"].model_copy(update={"name": "mine", "lattice_constant_A": 2.51})
    structure = small().structure
    block = structure.lower.model_copy(update={"material": mine})
    structure = structure.model_copy(update={"lower": block})
    PROTOCOL.validate(small(structure=structure), "lammps")
    assert own_constants(structure, "tersoff-lj") == (("mine", 2.51), ("graphene", 2.492))


@pytest.mark.usefixtures("engine")
def test_a_model_that_changes_its_lattice_constant_changes_what_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    model = tmp_path / "model"
    model.write_text("nep4 3 B C N\n")
    found = set()
    for lattice_constant_A in (2.46, 2.47):
        add_nep(model, "mine", {"graphene": lattice_constant_A, "hbn": 2.5})
        settings = small(potential="mine")
        stages = PROTOCOL.stages(settings, "lammps", REPLICA)
        found.add((stages[0].id, stages[2].id, PROTOCOL.structure(settings)["cell_x_A"]))
    assert [len(set(column)) for column in zip(*found, strict=True)] == [2, 2, 2]


def test_engine_must_know_steps_and_potential(
    engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="cannot run tersoff-lj"):
        PROTOCOL.validate(small(), "gpumd")
    monkeypatch.setattr(engine, "capabilities", FakeEngine.capabilities - {"preheat"})
    PROTOCOL.validate(small(), "lammps")
    with pytest.raises(SpecError, match="preheat"):
        PROTOCOL.validate(small(preheat_ps=1.0), "lammps")
