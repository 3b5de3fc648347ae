"""Settings of a NEMD run, the roles of its layers, and what cannot be asked for."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from campaign.engines.base import get_engine
from campaign.engines.slab import MIN_VACUUM_A
from campaign.errors import SpecError
from campaign.potentials import Potential, check_layers, get_potential
from campaign.protocols.base import Rules
from campaign.protocols.nemd_variables import MIN_WINDOW_SAMPLES
from campaign.quantities import (
    MAX_TEMPERATURE_K,
    Duration,
    DurationOrZero,
    Settings,
    Temperature,
    TemperatureOffset,
    Timestep,
)
from campaign.structures.layers import (
    BuildSettings,
    MultilayerSettings,
    check_strain,
    number_of_atoms,
    realised,
)
from campaign.structures.materials import MATERIALS
from campaign.structures.supercells import is_orthogonal

MAX_ATOMS = 10**8
"""Of one run: far more than one machine can do, and far less than a slip of the finger asks for."""

MIN_CELL_A = 4.2
"""Shortest side of the cell: twice the range of the bonds (Tersoff, 2.1 angstrom)."""


class NemdSettings(Settings):
    """Settings of one NEMD run; the defaults are the paper's (307,828 atoms, 4.5 ns)."""

    structure: MultilayerSettings = Field(
        default=MultilayerSettings(), description="The multilayer; the default is the paper's moire cell."
    )
    potential: str = Field(default="tersoff-lj", description="Name of the interatomic potential.")
    temperature_K: Temperature = Field(default=300.0, description="Mean temperature of both baths, in K.")
    direction: Literal["forward", "backward"] = Field(
        default="forward",
        description="Direction of the heat flow: forward = the upper material is hot.",
    )
    bath_offset_K: TemperatureOffset = Field(
        default=30.0,
        description="Source at temperature + offset, sink at temperature - offset, in K; 0: no bias.",
    )
    thermostat_layers: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Layers in each thermostat, at the outer end of each side."
    )
    frozen_layers: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1, description="Lowest layers of the lower side that do not move while heat flows."
    )
    timestep_fs: Timestep = Field(default=0.5, description="Timestep, in fs.")
    langevin_damping_fs: Annotated[float, Field(ge=1, le=1e5)] = Field(
        default=50.0,
        description="Damping time of source and sink, in fs (GPUMD: 100 steps of 0.5 fs). With timesteps of "
        "1 fs a longer one, such as 500 fs, keeps the energy account closed where little heat flows.",
    )
    npt_ps: DurationOrZero = Field(
        default=500.0,
        description="Equilibration at zero in-plane pressure, in ps; 0: the cell stays as it is built, also "
        "for calculators that know no stress.",
    )
    nvt_ps: Duration = Field(
        default=250.0, description="Equilibration in the average cell (or the one as built), in ps."
    )
    thermostat_damping_fs: Annotated[float, Field(ge=1, le=1e5)] = Field(
        default=50.0,
        description="Damping time of the equilibration's thermostat, in fs (100 steps of 0.5 fs).",
    )
    barostat_damping_fs: Annotated[float, Field(ge=10, le=1e6)] = Field(
        default=500.0, description="Damping time of the barostat, in fs (1000 steps of 0.5 fs)."
    )
    preheat_ps: DurationOrZero = Field(
        default=0.0,
        description="Time in which each side is brought to a temperature of its own before heat flows, "
        "in ps; 0 (the paper) starts both sides at the mean temperature.",
    )
    preheat_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0,
        description="Temperatures of the preheated sides: temperature +- this part of the bath's offset. "
        "Layers forget their start slowly, so it should be close to the steady profile.",
    )
    build_up_ps: DurationOrZero = Field(
        default=1250.0, description="Heat flow that is left out of all averages, in ps."
    )
    production_ps: Duration = Field(
        default=1250.0, description="Heat flow that is averaged, after the build-up, in ps."
    )
    sampling_interval_ps: Annotated[float, Field(gt=0, le=100)] = Field(
        default=0.5, description="Time between two samples of temperatures and energies, in ps."
    )


@dataclass(frozen=True)
class LayerRoles:
    """Who does what, by layer index from 0 at the bottom."""

    frozen: tuple[int, ...]
    lower_thermostat: tuple[int, ...]
    upper_thermostat: tuple[int, ...]
    lower: tuple[int, ...]
    upper: tuple[int, ...]

    @classmethod
    def of(cls, settings: NemdSettings) -> "LayerRoles":
        """Roles of the layers of one run."""
        n_lower, n_upper = settings.structure.lower.layers, settings.structure.upper.layers
        frozen, bath, total = settings.frozen_layers, settings.thermostat_layers, n_lower + n_upper
        return cls(
            frozen=tuple(range(frozen)),
            lower_thermostat=tuple(range(frozen, frozen + bath)),
            upper_thermostat=tuple(range(total - bath, total)),
            lower=tuple(range(n_lower)),
            upper=tuple(range(n_lower, total)),
        )


Constants = tuple[tuple[str, float], ...]
"""Lattice constants in angstrom by material."""


def own_constants(structure: MultilayerSettings, potential: str) -> Constants:
    """Return the potential's own lattice constants of the two materials; the key of what depends on them.

    For a material of the spec that the potential has none of, the spec's counts. A potential of the user's
    library can change under a process that lives on, so its name is no key.
    """
    own = get_potential(potential).lattice_constants_A
    blocks = (structure.lower, structure.upper)
    return tuple((one.name, own.get(one.name, one.definition.lattice_constant_A)) for one in blocks)


@lru_cache(maxsize=1024)
def build_settings(structure: MultilayerSettings, constants: Constants) -> BuildSettings:
    """Return the settings of the build stage: structure and the potential's lattice constants.

    Raises
    ------
    SpecError
        The structure asks for a common cell, and there is none.
    """
    return BuildSettings.of(structure, dict(constants))


_MATERIALS = ("structure.lower.material", "structure.upper.material")


def validate(settings: NemdSettings, engine: str) -> None:
    """Check what the types of the settings cannot say.

    Raises
    ------
    BrokenRulesError
        With all rules that are broken; ``where`` of each is the dotted name of the field that is to blame.
    """
    rules = Rules()
    with rules.about("potential"):
        potential = get_potential(settings.potential)
        with rules.about("potential", *_MATERIALS):
            _validate_materials(settings, potential)
            # the search for a cell needs the potential's lattice constants
            with rules.about("potential", "structure"):
                _validate_structure(settings)
        with rules.about("potential", "engine", "npt_ps", "preheat_ps"):
            _validate_engine(settings, potential, engine)
    _validate_layers(settings, rules)
    with rules.about("temperature_K", "bath_offset_K"):
        _validate_baths(settings)
    _validate_times(settings, rules)
    rules.check()


def _validate_structure(settings: NemdSettings) -> None:
    build = build_settings(settings.structure, own_constants(settings.structure, settings.potential))
    atoms = number_of_atoms(build.structure)
    if atoms > MAX_ATOMS:
        raise SpecError(
            f"{atoms:,} atoms in each run, more than {MAX_ATOMS:,}",
            where="structure",
            hint="reduce cells or layers",
        )
    check_strain(build)
    _validate_cell(build, matched=settings.structure.match is not None)


def _validate_layers(settings: NemdSettings, rules: Rules) -> None:
    bath, frozen = settings.thermostat_layers, settings.frozen_layers
    lower, upper = settings.structure.lower, settings.structure.upper
    for side, block, taken, what, fields in (
        ("lower", lower, frozen + bath, f"{frozen} frozen and {bath} thermostatted", ("frozen_layers",)),
        ("upper", upper, bath, f"{bath} thermostatted", ()),
    ):
        free = block.layers - taken
        if free < 1:
            problem = "reach across the interface" if free < 0 else "leave no free layer at the interface"
            with rules.about(f"structure.{side}", "thermostat_layers", *fields):
                raise SpecError(
                    f"{what} layers {problem}: the {side} side has {block.layers} "
                    f"layer{'' if block.layers == 1 else 's'} of {block.name}",
                    where=f"structure.{side}.layers",
                    hint=f"at least {taken + 1} are needed, or fewer thermostat_layers",
                )


def _validate_baths(settings: NemdSettings) -> None:
    sink_K = settings.temperature_K - settings.bath_offset_K
    if sink_K <= 0:
        raise SpecError(
            f"the sink would be at {sink_K:g} K ({settings.temperature_K:g} - {settings.bath_offset_K:g})",
            where="bath_offset_K",
            hint="it must be above 0 K",
        )
    source_K = settings.temperature_K + settings.bath_offset_K
    if source_K > MAX_TEMPERATURE_K:
        where, hint = "bath_offset_K", f"it must be at most {MAX_TEMPERATURE_K:g} K"
        raise SpecError(f"the source would be at {source_K:g} K", where=where, hint=hint)


def _validate_times(settings: NemdSettings, rules: Rules) -> None:
    with rules.about("preheat_fraction", "preheat_ps"):
        if settings.preheat_fraction != 1 and settings.preheat_ps == 0:
            raise SpecError("it has no effect without preheat_ps", where="preheat_fraction")
    interval_ps = settings.sampling_interval_ps
    timesteps = 1000 * interval_ps / settings.timestep_fs
    with rules.about("sampling_interval_ps", "timestep_fs"):
        if timesteps < 0.5 or not _is_whole(timesteps):
            raise SpecError(
                f"{interval_ps:g} ps is not a whole number of timesteps of {settings.timestep_fs:g} fs",
                where="sampling_interval_ps",
            )
    for name, duration_ps in (
        ("build_up_ps", settings.build_up_ps),
        ("production_ps", settings.production_ps),
    ):
        with rules.about("sampling_interval_ps", name):
            if not _is_whole(duration_ps / interval_ps):
                raise SpecError(
                    f"{duration_ps:g} ps is not a whole number of sampling intervals of {interval_ps:g} ps",
                    where=name,
                )
    with rules.about("sampling_interval_ps", "production_ps"):
        if round(settings.production_ps / interval_ps) < MIN_WINDOW_SAMPLES:
            raise SpecError(
                f"{settings.production_ps:g} ps are shorter than {MIN_WINDOW_SAMPLES} sampling intervals "
                f"of {interval_ps:g} ps",
                where="production_ps",
            )


_LATTICE_HINTS = {
    "lammps": "take a potential of your own (`campaign potentials`): what comes with LAMMPS has no {}",
    "nep": "`campaign potentials add` it again with --lattice {}=ANGSTROM",
    "calculator": "write {} into lattice_constants_A in its potential.json",
}
"""What to do where a potential, by its kind, has no lattice constant of a material."""


def _validate_materials(settings: NemdSettings, potential: Potential) -> None:
    sides = (settings.structure.lower, settings.structure.upper)
    check_layers(potential, [side.definition.elements for side in sides])
    named = {side.name for side in sides if side.name in MATERIALS}
    unknown = sorted(named - set(potential.lattice_constants_A))
    if unknown:
        raise SpecError(
            f"{potential.name} has no lattice constant of {', '.join(unknown)}",
            where="potential",
            hint=_LATTICE_HINTS[potential.kind].format(unknown[0]),
        )


def _validate_engine(settings: NemdSettings, potential: Potential, engine: str) -> None:
    if engine not in potential.engines:
        raise SpecError(
            f"{engine} cannot run {potential.name}",
            where="potential",
            hint=f"engines that can: {', '.join(potential.engines)}",
        )
    lacking = required_capabilities(settings) - get_engine(engine).capabilities
    if lacking:
        raise SpecError(f"{engine} cannot do {', '.join(sorted(lacking))}", where="engine")
    if potential.kind == "calculator":
        from campaign.potentials.calculators import check_potential

        check_potential(potential, required_capabilities(settings))


def _validate_cell(build: BuildSettings, *, matched: bool) -> None:
    if build.structure.vacuum_A < MIN_VACUUM_A:
        raise SpecError(
            f"{build.structure.vacuum_A:g} A of vacuum are too few: an atom that crosses it is lost",
            where="structure.vacuum_A",
            hint=f"take {MIN_VACUUM_A:g} or more",
        )
    for side, block in (("lower", build.structure.lower), ("upper", build.structure.upper)):
        if not is_orthogonal(block.whole):
            raise SpecError(
                f"the cell of {block.name} is not orthogonal",
                where="structure.match.orthogonal" if matched else f"structure.{side}.supercell",
                hint="NEMD is done in orthogonal cells",
            )
    for axis, length_A in zip("xy", realised(build).cell_A.diagonal(), strict=False):
        if length_A < MIN_CELL_A:
            raise SpecError(
                f"the cell is {length_A:.2f} A long along {axis}, less than {MIN_CELL_A:g} A: "
                "an atom would be bonded to two periodic images of the same neighbour",
                where="structure.match.repeat" if matched else "structure.lower.cells",
                hint="more cells are needed",
            )


def required_capabilities(settings: NemdSettings) -> frozenset[str]:
    """Names of the steps that an engine must be able to do."""
    wanted = {
        "thermalise": True,
        "npt": settings.npt_ps,
        "nvt": True,
        "preheat": settings.preheat_ps,
        "heat_flow": True,
    }
    return frozenset(step for step, time in wanted.items() if time)


def _is_whole(number: float) -> bool:
    # settings are decimal numbers: their quotients are whole to rounding, or clearly not
    return abs(number - round(number)) < 1e-6 * max(1.0, number)
