"""A small protocol for tests of specs and plans: four stages, nested settings, its own rules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import xarray as xr

from campaign.document import Document
from campaign.engines import base as engines
from campaign.errors import SpecError
from campaign.plan import Plan, make_plan
from campaign.protocols import base as protocols
from campaign.protocols.base import Check, Stage, Variable
from campaign.quantities import Count, Positive, Settings, Temperature, Timestep
from campaign.replicas import Stages
from campaign.spec import CampaignSpec, load_spec

SPEC = """\
campaign: demo
seed: 7
calculations:
  toy:
    settings: {temperature_K: 300}
    axes:
      direction: [forward, backward]
      seed: {count: 3}
"""


class Side(Settings):
    layers: Count = 4
    cells: tuple[Count, Count] = (5, 3)


class Model(Settings):
    lower: Side = Side(layers=5)
    upper: Side = Side()
    stacking: Literal["AA", "AB", "ABp"] = "ABp"


class ToySettings(Settings):
    temperature_K: Temperature
    potential: str = "tersoff-lj"
    structure: Model = Model()
    direction: Literal["forward", "backward"] = "forward"
    timestep_fs: Timestep = 1.0
    production_ps: Positive = 12.0
    frozen_layers: tuple[int, ...] = (0,)


class StepSettings(Settings):
    potential: str
    temperature_K: float
    timestep_fs: float
    note: str


class ToyProtocol:
    name: ClassVar[str] = "toy"
    settings: ClassVar[type[Settings]] = ToySettings
    variables: ClassVar[Mapping[str, Variable]] = {"itc": Variable("MW m-2 K-1", "conductance")}
    ratio: ClassVar[tuple[str, str, str] | None] = None

    def validate(self, settings: ToySettings, engine: str) -> None:
        if settings.potential not in {"tersoff-lj", "tersoff-ilp"}:
            raise SpecError(
                f"unknown potential {settings.potential!r}", where="potential", hint="use tersoff-lj"
            )
        if max(settings.frozen_layers) >= settings.structure.lower.layers:
            raise SpecError("frozen layers must be in the lower side", where="frozen_layers")
        if settings.structure.upper.layers > 8:
            raise SpecError("too many layers", where="structure.upper.layers")

    def stages(self, settings: ToySettings, engine: str, replica: tuple[int, int]) -> tuple[Stage, ...]:
        atoms = 60 * (settings.structure.lower.layers + settings.structure.upper.layers)
        model = settings.structure
        build = Stage(kind="build", protocol=self.name, settings=model, version=1, atoms=atoms)

        def md(
            kind: Literal["equilibrate", "produce"], note: str, steps: int, needs: dict[str, str]
        ) -> Stage:
            return Stage(
                kind=kind,
                protocol=self.name,
                settings=StepSettings(
                    potential=settings.potential,
                    temperature_K=settings.temperature_K,
                    timestep_fs=settings.timestep_fs,
                    note=note,
                ),
                version=1,
                needs=needs,
                engine=engine,
                files={"BNC.tersoff": "0" * 64},
                replica=replica,
                atoms=atoms,
                steps=steps,
            )

        relaxed = md("equilibrate", "", 1000, {"structure": build.id})
        steps = round(settings.production_ps * 1000 / settings.timestep_fs)
        note = f"{settings.direction} {steps} {settings.frozen_layers}"
        produced = md("produce", note, steps, {"structure": build.id, "state": relaxed.id})
        reduced = Stage(
            kind="reduce", protocol=self.name, settings=model, version=1, needs={"produce": produced.id}
        )
        return build, relaxed, produced, reduced

    def execute(self, stage: Stage, inputs: Mapping[str, Path], directory: Path) -> None:
        raise NotImplementedError("this protocol is planned, and never run")

    def labels(self, settings: ToySettings) -> Mapping[str, str]:
        return {"pair": "graphene/hbn"}

    def structure(self, settings: ToySettings) -> Mapping[str, Any]:
        return {}

    def checks(self, result: xr.Dataset) -> tuple[Check, ...]:
        return ()


def use_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let specs know the toy protocol and the engine ``lammps``, and nothing else."""

    def get(name: str) -> ToyProtocol:
        assert name == "toy"
        return ToyProtocol()

    monkeypatch.setattr(protocols, "get_protocol", get)
    monkeypatch.setattr(protocols, "protocol_names", lambda: ("toy",))
    monkeypatch.setattr(engines, "engine_names", lambda: ("lammps",))


def write_spec(directory: Path, text: str) -> Path:
    path = directory / "spec.yaml"
    path.write_text(text)
    return path


def planned(directory: Path, text: str, **options: Any) -> tuple[Plan, Stages]:
    return make_plan(load_spec(write_spec(directory, text)), **options)


def plan_of(text: str) -> tuple[Plan, Stages]:
    return make_plan(CampaignSpec.of(Document(Path("spec.yaml"), text)))


def swap(old: str, new: str, text: str = SPEC) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)
