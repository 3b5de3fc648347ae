"""A site: a cluster on which attempts run, described once, in one YAML file, for all campaigns.

`find_site` takes a name, looked up in the user's configuration folder, or a file. Every error is one line
``file:line:column: message; hint``, as in a spec.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from campaign.document import Document, Problems, did_you_mean, read_document
from campaign.engines import base as engines
from campaign.errors import SpecError
from campaign.protocols.base import StageKind
from campaign.quantities import Count, Positive, Settings
from campaign.validation import Name, Variable, Word, validation_problems

DEFAULT = "default"
"""Key of `Site.stages` for the kinds of stages that it does not name."""

PLACE = "@"
"""Between the name of a resource and the number of one of its places; no name has it."""

STAGE_KINDS: tuple[str, ...] = get_args(StageKind)

MIN_WALLTIME_S = 60
MIN_DRIVER_WALLTIME_S = 240
"""A driver hands over up to 3 minutes before its walltime, and nobody follows one that dies at once."""

MEMORY_STEP = 2.0
"""After each end for want of memory a stage asks for so many times as much."""

_DURATION = re.compile(r"(?:(\d+)-)?(\d+):(\d{2}):(\d{2})")


def seconds_of(walltime: str) -> int:
    """Seconds of ``H:MM:SS`` or ``D-HH:MM:SS``.

    Raises
    ------
    ValueError
        It is written in another way, or shorter than a minute.
    """
    found = _DURATION.fullmatch(walltime)
    if found is None:
        msg = 'write it as "H:MM:SS" or "D-HH:MM:SS", in quotes'
        raise ValueError(msg)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < MIN_WALLTIME_S:
        msg = f"a job of less than {MIN_WALLTIME_S} s ends before it has begun"
        raise ValueError(msg)
    return total


def _is_walltime(text: str) -> str:
    seconds_of(text)
    return text


def _one_line(text: str) -> str:
    if "\n" in text or not text.strip():
        msg = "one line of text is wanted"
        raise ValueError(msg)
    return text


Line = Annotated[str, AfterValidator(_one_line)]


class Place(Settings):
    """Another place for the jobs of a resource; what it does not say is as in the resource."""

    partition: Word | None = Field(default=None, description="Partition, or several (a,b).")
    account: Word | None = Field(default=None, description="Account.")
    qos: Word | None = Field(default=None, description="Quality of service.")
    walltime: Annotated[str, AfterValidator(_is_walltime)] | None = Field(
        default=None, description="Longest time of a job there."
    )
    jobs: Count | None = Field(default=None, description="Most jobs there, waiting or running.")
    directives: list[Line] | None = Field(default=None, description="More options of sbatch.")


class Resource(Settings):
    """What a job asks for, and how many runs share it: one worker of each of its ``slots``."""

    partition: Word | None = Field(
        default=None,
        description="Partition, or several (a,b): a job starts where room is first. Default: the cluster's.",
    )
    account: Word | None = Field(default=None, description="Account; default: the site's.")
    qos: Word | None = Field(default=None, description="Quality of service.")
    walltime: Annotated[str, AfterValidator(_is_walltime)] = Field(
        description='Longest time of a job: "H:MM:SS" or "D-HH:MM:SS".'
    )
    cores: Count = Field(default=1, description="Cores of a job, shared equally by its slots.")
    memory_GB: Positive = Field(description="Memory of a job, in GB (2^30 bytes).")
    max_memory_GB: Positive | None = Field(
        default=None,
        description="Most memory of a job, in GB: what ended for want of memory asks for more up to this. "
        "Default: four times memory_GB.",
    )
    gpus: Annotated[int, Field(ge=0)] = Field(default=0, description="GPUs of a job.")
    gpu_type: Word | None = Field(default=None, description="Kind of GPU, as in --gres=gpu:KIND:1.")
    slots: Count = Field(default=1, description="Runs at a time in a job.")
    share_gpu: bool = Field(default=False, description="Several small runs share the job's one GPU.")
    jobs: Count = Field(default=1, description="Most jobs at a time, waiting or running, in all places.")
    also: list[Place] = Field(
        default=[],
        description="Other places for its jobs, with limits of their own: they are asked for in each, and "
        "those that start first are used.",
    )
    setup: list[str] = Field(default=[], description="Lines of shell that its jobs run after the site's.")
    directives: list[Line] = Field(default=[], description="More options of sbatch: --constraint=a100.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cores < self.slots:
            msg = f"{self.slots} slots need at least {self.slots} cores"
            raise ValueError(msg)
        if self.gpus and self.slots > 1 and not self.share_gpu:
            msg = (
                f"{self.slots} slots would use the same GPUs: set slots: 1 and more jobs, "
                "or share_gpu: true if that is meant"
            )
            raise ValueError(msg)
        if self.share_gpu and self.gpus != 1:
            msg = "share_gpu is for jobs with one GPU: set gpus: 1"
            raise ValueError(msg)
        if self.max_memory_GB is not None and self.max_memory_GB < self.memory_GB:
            msg = "max_memory_GB is less than memory_GB"
            raise ValueError(msg)
        places = 1 + len(self.also)
        if self.jobs < places:
            msg = f"a job is to wait in each of {places} places: set jobs: {places} or more"
            raise ValueError(msg)
        return self

    @property
    def places(self) -> "tuple[Resource, ...]":
        """Where its jobs may go, the first place first."""
        others = (self.model_copy(update=place.model_dump(exclude_none=True)) for place in self.also)
        return tuple(place.model_copy(update={"also": []}) for place in (self, *others))

    @property
    def walltime_s(self) -> int:
        """Longest time of a job, in s."""
        return seconds_of(self.walltime)

    @property
    def shortest_walltime_s(self) -> int:
        """Longest time of a job in the place that has least, in s."""
        return min(place.walltime_s for place in self.places)

    @property
    def threads(self) -> int:
        """Cores of each slot."""
        return self.cores // self.slots

    def memory_of(self, raised: int) -> float:
        """Memory of a job in GB, after it was ``raised`` so many times."""
        most = self.max_memory_GB or 4 * self.memory_GB
        return min(most, self.memory_GB * MEMORY_STEP**raised)


class Site(Settings):
    """A SLURM cluster; make one with `find_site`."""

    scheduler: Literal["slurm"]
    description: str = Field(default="", description="Free text.")
    account: Word | None = Field(default=None, description="Account of all jobs.")
    python: str | None = Field(
        default=None, description="Python with campaign in it, on the nodes; default: the one that runs here."
    )
    setup: list[str] = Field(
        default=[], description="Lines of shell that each job runs first: module load, source activate."
    )
    environment: dict[Variable, str] = Field(
        default={}, description="Variables for SLURM's commands and for the jobs."
    )
    engines: dict[str, Line] = Field(default={}, description="Program of an engine on the nodes, by name.")
    scratch: str | None = Field(
        default=None,
        description="Folder that all nodes share and in which campaigns are made, linked from campaigns/; "
        "variables are filled in. Default: campaigns/ itself.",
    )
    interface: Word | None = Field(default=None, description="Network interface of the nodes, such as ib0.")
    driver_interface: Word | None = Field(
        default=None, description="Network interface of the machine of the driver; default: interface."
    )
    resources: Annotated[dict[Name, Resource], Field(min_length=1)]
    stages: dict[str, str] = Field(
        description="Resource of each kind of stage: build, equilibrate, produce, reduce, default."
    )
    driver: str | None = Field(
        default=None, description="Resource of the job in which `campaign run --detach` has its driver."
    )
    ask_above_gpu_hours: Positive = Field(default=100.0, description="More GPU-hours than these need --yes.")
    ask_above_core_hours: Positive = Field(default=10_000.0, description="More core-hours need --yes.")

    def resource_of(self, kind: str) -> str:
        """Name of the resource of a kind of stage."""
        return self.stages.get(kind, self.stages[DEFAULT])

    def with_places(self) -> Self:
        """Site whose resources have one place each: those of ``gpu`` are ``gpu``, ``gpu@2``, ``gpu@3``."""
        placed = {
            name if number == 1 else f"{name}{PLACE}{number}": place
            for name, resource in self.resources.items()
            for number, place in enumerate(resource.places, start=1)
        }
        return self.model_copy(update={"resources": placed})

    def scratch_folder(self) -> Path | None:
        """Folder of campaigns, with variables and ~ filled in."""
        return None if self.scratch is None else Path(os.path.expandvars(self.scratch)).expanduser()

    def job_environment(self) -> dict[str, str]:
        """Variables that each job sets: the site's own, and the programs of engines."""
        programs = {f"CAMPAIGN_{name.upper()}": program for name, program in self.engines.items()}
        return {**self.environment, **programs}

    def exports(self) -> list[str]:
        """Lines of shell that set `job_environment`."""
        return [f"export {name}={shlex.quote(value)}" for name, value in self.job_environment().items()]


@dataclass(frozen=True)
class NamedSite:
    """A site with its name (the file's, without ``.yaml``) and its file."""

    name: str
    source: Path
    site: Site

    @property
    def argument(self) -> str:
        """What ``--site`` takes to find it again, from anywhere."""
        return self.name if self.source.parent == sites_folder() else str(self.source.resolve())


def sites_folder() -> Path:
    """Folder of the user's sites: ``campaign/sites`` where programs keep their configuration."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "campaign" / "sites"


def find_site(name: str) -> NamedSite:
    """Read a site, given by its name or by its file.

    Raises
    ------
    SpecError
        There is no such site, or something is wrong with it.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} and "/" not in name:
        folder = sites_folder()
        path = folder / f"{name}.yaml"
        if not path.exists():
            known = sorted(item.stem for item in folder.glob("*.yaml"))
            hint = did_you_mean(name, known) or f"put it into {path}; slurm/ has examples"
            raise SpecError(f"there is no site {name!r}", hint=hint)
    elif not path.exists():
        raise SpecError("no such site file", where=str(path), hint="slurm/ has examples")
    return NamedSite(path.stem, path, _checked(read_document(path)))


def _checked(document: Document) -> Site:
    data = document.data
    if not isinstance(data, dict):
        raise SpecError(
            "a site is a mapping with scheduler, resources and stages",
            where=document.locate(()),
            hint="slurm/ has examples",
        )
    problems = Problems(document)
    try:
        site = Site.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        for found in validation_problems(error, data, Site.model_json_schema()):
            problems.add(found.path, found.message, hint=found.hint, key=found.key)
        problems.check()
        raise
    _check_names(site, problems)
    problems.check()
    return site


def _check_names(site: Site, problems: Problems) -> None:
    """Names point to something: resources, engines; every kind of stage has a place."""
    known: Mapping[str, Any] = site.resources
    for kind in site.stages.keys() - {DEFAULT, *STAGE_KINDS}:
        hint = did_you_mean(kind, (DEFAULT, *STAGE_KINDS))
        problems.add(("stages", kind), f"there are no stages {kind!r}", hint=hint, key=True)
    for kind, name in site.stages.items():
        if name not in known:
            problems.add(("stages", kind), f"there is no resource {name!r}", hint=did_you_mean(name, known))
    if site.driver is not None and site.driver not in known:
        hint = did_you_mean(site.driver, known)
        problems.add(("driver",), f"there is no resource {site.driver!r}", hint=hint)
    elif site.driver is not None and site.resources[site.driver].walltime_s < MIN_DRIVER_WALLTIME_S:
        message = f"a driver needs a walltime of {MIN_DRIVER_WALLTIME_S // 60} min or more, better of days"
        problems.add(("resources", site.driver, "walltime"), message)
    if site.driver is not None and site.driver in known and known[site.driver].also:
        problems.add(("resources", site.driver, "also"), "the jobs of drivers have one place", key=True)
    if DEFAULT not in site.stages:
        problems.add(("stages",), "stages needs a default", hint="such as default: gpu", key=True)
    for name in site.engines:
        if name not in engines.engine_names():
            hint = did_you_mean(name, engines.engine_names())
            problems.add(("engines", name), f"unknown engine {name!r}", hint=hint, key=True)
