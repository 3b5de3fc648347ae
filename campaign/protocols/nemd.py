"""Non-equilibrium molecular dynamics (NEMD) of the heat flow through an interface of two layered materials.

The protocol of arXiv:2502.13601 (section "NEMD simulations", and ``run.in`` of its data): velocities, NpT at
zero in-plane pressure, NVT, then a Langevin source and a Langevin sink on two layers each, with one frozen
layer at the bottom. The stages are

    build        one for all seeds, temperatures and directions
    equilibrate  one for each seed, shared by both directions and all biases
    produce      one for each run
    reduce       one for each run

Settings and their limits are in `nemd_settings`, what is measured in `nemd_reduction` and `nemd_variables`,
how it is judged in `nemd_checks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from campaign.engines.base import NVT, HeatFlow, NpT, Preheat, Simulation, Step, Thermalise, get_engine
from campaign.engines.timeline import number_of_steps
from campaign.potentials import file_hashes, get_potential
from campaign.protocols.base import Check, Stage, Variable, read_result, write_result
from campaign.protocols.nemd_checks import stored_checks
from campaign.protocols.nemd_reduction import REDUCTION_VERSION, ReduceSettings, reduce_run
from campaign.protocols.nemd_settings import (
    Constants,
    LayerRoles,
    NemdSettings,
    build_settings,
    own_constants,
    validate,
)
from campaign.protocols.nemd_variables import AS_BUILT, RATIO, VARIABLES
from campaign.quantities import Settings
from campaign.structures.io import write_structure
from campaign.structures.layers import (
    BUILDER_VERSION,
    BuildSettings,
    MultilayerSettings,
    Realised,
    build,
    number_of_atoms,
    realised,
)
from campaign.structures.stacking import has_named_registry

if TYPE_CHECKING:
    import xarray as xr

_NAME = "nemd"


class NemdProtocol:
    """NEMD: settings of one run in, interfacial thermal conductance with gates and flags out."""

    name: ClassVar[str] = _NAME
    settings: ClassVar[type[Settings]] = NemdSettings
    variables: ClassVar[Mapping[str, Variable]] = VARIABLES
    ratio: ClassVar[tuple[str, str, str] | None] = RATIO

    def validate(self, settings: NemdSettings, engine: str) -> None:
        """Check one run's settings beyond what their types say; see `CalculationProtocol.validate`."""
        validate(settings, engine)

    def stages(self, settings: NemdSettings, engine: str, replica: tuple[int, int]) -> tuple[Stage, ...]:
        """Build, equilibrate, produce and reduce of one run."""
        condition = _condition(settings, own_constants(settings.structure, settings.potential))
        build_id, atoms = condition.build.id, condition.build.atoms
        simulate = partial(
            Stage,
            protocol=_NAME,
            version=get_engine(engine).results_version,
            engine=engine,
            files=file_hashes(get_potential(settings.potential)),
            replica=replica,
            atoms=atoms,
        )
        equilibrate = simulate(
            kind="equilibrate",
            settings=condition.equilibration,
            needs={"structure": build_id},
            steps=number_of_steps(condition.equilibration),
            keeps_state=True,
        )
        produce = simulate(
            kind="produce",
            settings=condition.production,
            needs={"structure": build_id, "state": equilibrate.id},
            steps=number_of_steps(condition.production),
        )
        reduce = Stage(
            kind="reduce",
            protocol=_NAME,
            settings=condition.reduction,
            version=REDUCTION_VERSION,
            needs={"structure": build_id, "produce": produce.id},
            atoms=atoms,
        )
        return condition.build, equilibrate, produce, reduce

    def execute(self, stage: Stage, inputs: Mapping[str, Path], directory: Path) -> None:
        """Build the structure (``structure.npz``), or reduce the series of a production."""
        if isinstance(stage.settings, BuildSettings):
            atoms = build(stage.settings)
            write_structure(atoms, directory / "structure.npz")
            write_result(_build_result(stage.settings), directory)
        elif isinstance(stage.settings, ReduceSettings):
            series, built = read_result(inputs["produce"]), read_result(inputs["structure"])
            write_result(reduce_run(series, built, stage.settings), directory)
        else:
            msg = f"a {stage.kind} stage of {_NAME} runs in an engine"
            raise TypeError(msg)

    def labels(self, settings: NemdSettings) -> Mapping[str, str]:
        """``pair``: upper and lower material, such as ``graphene/hbn``."""
        return {"pair": f"{settings.structure.upper.name}/{settings.structure.lower.name}"}

    def structure(self, settings: NemdSettings) -> Mapping[str, Any]:
        """Materials, atoms, cell, strain and twist of the structure as it will be built."""
        return _structure(settings.structure, own_constants(settings.structure, settings.potential))

    def checks(self, result: "xr.Dataset") -> tuple[Check, ...]:
        """Gates and flags, as the reduction judged them."""
        return stored_checks(result)


@dataclass(frozen=True)
class _Condition:
    """What all seeds of one condition share; planning makes it once for each condition, not for each run."""

    build: Stage
    equilibration: Simulation
    production: Simulation
    reduction: ReduceSettings


@lru_cache(maxsize=4096)
def _condition(settings: NemdSettings, constants: Constants) -> _Condition:
    roles = LayerRoles.of(settings)
    lower, upper = (roles.lower, roles.lower_thermostat), (roles.upper, roles.upper_thermostat)
    (hot_side, source), (cold_side, sink) = (
        (upper, lower) if settings.direction == "forward" else (lower, upper)
    )
    source_temperature_K = settings.temperature_K + settings.bath_offset_K
    sink_temperature_K = settings.temperature_K - settings.bath_offset_K
    steps: list[Step] = []
    if settings.preheat_ps > 0:
        steps.append(
            Preheat(
                hot_layers=tuple(sorted(set(hot_side) - set(roles.frozen))),
                cold_layers=tuple(sorted(set(cold_side) - set(roles.frozen))),
                frozen_layers=roles.frozen,
                hot_temperature_K=settings.temperature_K + settings.preheat_fraction * settings.bath_offset_K,
                cold_temperature_K=settings.temperature_K
                - settings.preheat_fraction * settings.bath_offset_K,
                duration_ps=settings.preheat_ps,
                damping_fs=settings.langevin_damping_fs,
            )
        )
    steps.append(
        HeatFlow(
            source_layers=source,
            sink_layers=sink,
            frozen_layers=roles.frozen,
            upper_layers=roles.upper,
            source_temperature_K=source_temperature_K,
            sink_temperature_K=sink_temperature_K,
            damping_fs=settings.langevin_damping_fs,
            duration_ps=settings.build_up_ps + settings.production_ps,
            sampling_interval_fs=1000 * settings.sampling_interval_ps,
        )
    )
    build = _build(settings.structure, constants)
    assert isinstance(build.settings, BuildSettings)
    structure = build.settings.structure
    return _Condition(
        build=build,
        equilibration=_equilibration(settings),
        production=Simulation(
            potential=settings.potential, timestep_fs=settings.timestep_fs, steps=tuple(steps)
        ),
        reduction=ReduceSettings(
            frozen_layers=roles.frozen,
            source_layers=source,
            sink_layers=sink,
            hot_side_layers=hot_side,
            cold_side_layers=cold_side,
            stacking=structure.stacking,
            named_registry=has_named_registry(structure.lower, structure.upper),
            temperature_K=settings.temperature_K,
            source_temperature_K=source_temperature_K,
            sink_temperature_K=sink_temperature_K,
            damping_fs=settings.langevin_damping_fs,
            build_up_ps=settings.build_up_ps,
            production_ps=settings.production_ps,
            sampling_interval_ps=settings.sampling_interval_ps,
        ),
    )


def _equilibration(settings: NemdSettings) -> Simulation:
    steps: list[Step] = [Thermalise(temperature_K=settings.temperature_K)]
    if settings.npt_ps > 0:
        steps.append(
            NpT(
                temperature_K=settings.temperature_K,
                duration_ps=settings.npt_ps,
                thermostat_damping_fs=settings.thermostat_damping_fs,
                barostat_damping_fs=settings.barostat_damping_fs,
            )
        )
    steps.append(
        NVT(
            temperature_K=settings.temperature_K,
            duration_ps=settings.nvt_ps,
            thermostat_damping_fs=settings.thermostat_damping_fs,
        )
    )
    return Simulation(potential=settings.potential, timestep_fs=settings.timestep_fs, steps=tuple(steps))


@lru_cache(maxsize=4096)
def _build(structure: MultilayerSettings, constants: Constants) -> Stage:
    settings = build_settings(structure, constants)
    return Stage(
        kind="build",
        protocol=_NAME,
        settings=settings,
        version=BUILDER_VERSION,
        atoms=number_of_atoms(settings.structure),
    )


@lru_cache(maxsize=4096)
def _structure(structure: MultilayerSettings, constants: Constants) -> Mapping[str, Any]:
    facts = realised(build_settings(structure, constants))
    x, y, _ = facts.cell_A.diagonal().tolist()
    return {
        "lower": structure.lower.name,
        "upper": structure.upper.name,
        "lower_layers": structure.lower.layers,
        "upper_layers": structure.upper.layers,
        "atoms": facts.number_of_atoms,
        "cell_x_A": x,
        "cell_y_A": y,
        **_strains(facts),
        "twist_deg": facts.twist_deg,
    }


def _build_result(settings: BuildSettings) -> "xr.Dataset":
    """Strain of both materials, twist and cell of a structure as built."""
    import xarray as xr

    facts = realised(settings)
    x, y, _ = facts.cell_A.diagonal().tolist()
    values = {**_strains(facts), "twist_angle": facts.twist_deg, "cell_x": x, "cell_y": y}
    return xr.Dataset(
        {
            name: ((), value, {"units": AS_BUILT[name].units, "long_name": AS_BUILT[name].long_name})
            for name, value in values.items()
        }
    )


def _strains(facts: Realised) -> dict[str, float]:
    return {
        f"strain_{side}_{axis}": getattr(strain, axis)
        for side, strain in facts.strain.items()
        for axis in "xy"
    }
