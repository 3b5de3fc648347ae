"""Sites: what is wrong is told with its place; examples are right; resources say what jobs ask for."""

import math
from pathlib import Path

import pytest

from campaign.errors import SpecError
from campaign.execution.cluster import Kind
from campaign.execution.job_scripts import job_script
from campaign.site import Place, Resource, Site, find_site, seconds_of

EXAMPLES = sorted((Path(__file__).parents[1] / "slurm").glob("*.yaml"))

SITE = """\
scheduler: slurm
resources:
  gpu: {partition: gpu, walltime: "1:00:00", memory_GB: 4, gpus: 1}
stages: {default: gpu}
"""


def site_file(folder: Path, text: str = SITE, name: str = "here.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def complaint(folder: Path, old: str, new: str) -> str:
    assert old in SITE
    with pytest.raises(SpecError) as caught:
        find_site(str(site_file(folder, SITE.replace(old, new))))
    return str(caught.value)


def test_the_four_kinds_have_an_example() -> None:
    assert {path.stem for path in EXAMPLES} == {"cpu", "gpu", "four-gpus", "shared-gpu"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_right_and_commented(path: Path) -> None:
    named = find_site(str(path))
    assert named.name == path.stem
    used = {*named.site.stages.values(), named.site.driver} - {None}
    assert used == set(named.site.resources), "each resource is used"
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize(
    ("example", "resource", "expected"),
    [
        ("cpu", "many", ["--cpus-per-task=64", "--nworkers 16", "--mem=122880M", "module load gcc"]),
        ("gpu", "gpu", ["--gres=gpu:a100:1", "--cpus-per-task=8", "--constraint=a100_40", "-t 24:00:00"]),
        ("four-gpus", "node", ["--gres=gpu:4", "--exclusive", "--cpus-per-task=32"]),
        ("shared-gpu", "shared", ["--gres=gpu:1", "--nworkers 4", "nvidia-cuda-mps-control -d"]),
    ],
)
def test_job_scripts_of_examples_ask_for_what_they_say(
    example: str, resource: str, expected: list[str]
) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == example)
    folder = Path("/absent/jobs")
    script = job_script(find_site(str(path)).site, Kind(resource), name="c.1", log_directory=folder)
    assert [part for part in expected if part not in script] == []
    assert f"#SBATCH -o {folder}/c.1.{resource}-%J.out" in script
    assert not folder.exists()
    assert "\n  /project/abc123/campaign/.venv/bin/python -m distributed" in script


SLIPS = {
    "two words for a partition": (
        "partition: gpu",
        'partition: "a100, h100"',
        ":3:20: resources.gpu.partition should be one word without blanks, not 'a100, h100'",
    ),
    "driver without a resource": ("stages:", "driver: cpu2\nstages:", "there is no resource 'cpu2'"),
    "scheduler": ("scheduler: slurm", "scheduler: pbs", ":1:12: scheduler should be 'slurm', not \"pbs\""),
    "misspelt": ("partition", "partitoin", ":3:9: unknown key 'partitoin'; did you mean 'partition'?"),
    "walltime as a number": (
        '"1:00:00"',
        "3600",
        ":3:35: resources.gpu.walltime should be text, not 3600; put it in quotes",
    ),
    "walltime in hours": ('"1:00:00"', '"1h"', ':3:35: resources.gpu.walltime: write it as "H:MM:SS"'),
    "walltime of seconds": ('"1:00:00"', '"0:00:30"', "ends before it has begun"),
    "no memory": (", memory_GB: 4", "", ":3:3: resources.gpu.memory_GB is missing"),
    "two runs on a GPU": (
        "gpus: 1",
        "gpus: 1, cores: 2, slots: 2",
        ":3:8: resources.gpu: 2 slots would use the same GPUs",
    ),
    "shared GPUs": ("gpus: 1", "gpus: 2, share_gpu: true", "share_gpu is for jobs with one GPU: set gpus: 1"),
    "a core for each slot": ("gpus: 1", "cores: 2, slots: 3", "3 slots need at least 3 cores"),
    "several places of a driver": (
        "gpus: 1}\nstages:",
        "gpus: 1, jobs: 2, also: [{partition: b}]}\ndriver: gpu\nstages:",
        ":3:78: the jobs of drivers have one place",
    ),
    "a job for each place": (
        "gpus: 1",
        "also: [{partition: b}]",
        "a job is to wait in each of 2 places: set jobs: 2 or more",
    ),
    "a place with a slip": ("gpus: 1", "also: [{partitoin: b}]", "unknown key 'partitoin'; did you mean"),
    "memory": ("gpus: 1", "max_memory_GB: 2", "max_memory_GB is less than memory_GB"),
    "unknown resource": (
        "default: gpu",
        "default: gpus",
        ":4:19: there is no resource 'gpus'; did you mean 'gpu'?",
    ),
    "unknown stages": (
        "default: gpu",
        "default: gpu, bild: gpu",
        ":4:24: there are no stages 'bild'; did you mean 'build'?",
    ),
    "no default": ("default: gpu", "build: gpu", ":4:1: stages needs a default; such as default: gpu"),
    "unknown engine": (
        "stages",
        "engines: {lamps: /bin/true}\nstages",
        "unknown engine 'lamps'; did you mean",
    ),
    "a variable's name": (
        "stages",
        "environment: {A-B: x}\nstages",
        ":4:15: environment.A-B should be letters, digits and _",
    ),
    "lines in a directive": ("gpus: 1", 'directives: ["a\\nb"]', "one line of text is wanted"),
    "no resources": (
        SITE[SITE.index("resources") :],
        "resources: {}\nstages: {default: x}\n",
        "at least 1 entry",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_told_where_they_are(slip: str, tmp_path: Path) -> None:
    old, new, expected = SLIPS[slip]
    told = complaint(tmp_path, old, new)
    assert expected in told
    assert told.startswith(f"{tmp_path}/here.yaml:")
    assert "\n" not in told


@pytest.mark.parametrize("text", ["", "[1]", "gpu"])
def test_a_site_is_a_mapping(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a site is a mapping"):
        find_site(str(site_file(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:01:00", 60), ("12:30:00", 45_000), ("2-00:00:30", 172_830), ("100:00:00", 360_000)],
)
def test_walltimes(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "1:00", "1:0:0", "1-1:00", "-1:00:00", "1:00:00.5", "0:00:59"])
def test_what_is_no_walltime(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it as|ends before"):
        seconds_of(text)


def test_slots_share_cores_and_memory_grows_to_its_limit() -> None:
    resource = Resource(walltime="1:00:00", memory_GB=10, cores=9, slots=4)
    assert resource.threads == 2
    assert [resource.memory_of(raised) for raised in range(4)] == [10, 20, 40, 40]
    limited = Resource(walltime="1:00:00", memory_GB=10, max_memory_GB=15)
    assert [limited.memory_of(raised) for raised in range(2)] == [10, 15]
    assert math.isclose(limited.walltime_s, 3600)


def test_places_have_what_they_say_and_the_rest_of_their_resource() -> None:
    also = [Place(partition="long", walltime="9:00:00", jobs=2), Place(qos="low", directives=["--nice"])]
    resource = Resource(partition="a", walltime="1:00:00", memory_GB=1, jobs=5, qos="high", also=also)
    assert [(one.partition, one.walltime, one.qos, one.jobs, one.directives) for one in resource.places] == [
        ("a", "1:00:00", "high", 5, []),
        ("long", "9:00:00", "high", 2, []),
        ("a", "1:00:00", "low", 5, ["--nice"]),
    ]
    assert resource.shortest_walltime_s == 3600
    site = Site(scheduler="slurm", resources={"r": resource}, stages={"default": "r"}).with_places()
    assert list(site.resources) == ["r", "r@2", "r@3"]
    assert Kind.parse("r@2+").anywhere == Kind("r", 1)


def test_names_are_looked_up_where_configuration_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "campaign" / "sites"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    site_file(folder, name="mycluster.yaml")
    found = find_site("mycluster")
    assert (found.name, found.source) == ("mycluster", folder / "mycluster.yaml")
    with pytest.raises(SpecError, match="no site 'myclustr'; did you mean 'mycluster'"):
        find_site("myclustr")
    (folder / "mycluster.yaml").unlink()
    with pytest.raises(SpecError, match=f"put it into {folder}/other.yaml"):
        find_site("other")
    with pytest.raises(SpecError, match=r"absent\.yaml: no such site file"):
        find_site("absent.yaml")


def test_kinds_of_stages_have_a_resource(tmp_path: Path) -> None:
    text = SITE.replace(
        "stages: {default: gpu}",
        '  cpu: {walltime: "1:00:00", memory_GB: 1}\nstages: {default: gpu, build: cpu}',
    )
    site = find_site(str(site_file(tmp_path, text))).site
    assert [site.resource_of(kind) for kind in ("build", "produce", "reduce")] == ["cpu", "gpu", "gpu"]


def test_variables_of_jobs_are_quoted(tmp_path: Path) -> None:
    text = f"{SITE}environment: {{NOTE: it's}}\nengines: {{lammps: /a b/lmp}}\n"
    site = find_site(str(site_file(tmp_path, text))).site
    assert site.exports() == ["export NOTE='it'\"'\"'s'", "export CAMPAIGN_LAMMPS='/a b/lmp'"]
