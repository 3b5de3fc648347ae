"""The SLURM that slurm/local/up starts is a real one, stands alone, and leaves nothing."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.local_slurm import SCRIPTS, LocalSlurm, local_slurm, needs_slurm, script, skip_without_root
from tests.standin_campaign import wait_for

pytestmark = pytest.mark.slurm

CUT_OFF_S = 60.0
"""About half of it passes before SLURM calls a silent node down, with its SlurmdTimeout of 10 s."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    with local_slurm() as running:
        yield running


def submit(slurm: LocalSlurm, command: str, *options: str) -> str:
    """Id of a job with this command."""
    return slurm.run("sbatch", "--parsable", *options, "--wrap", command).strip()


def states(slurm: LocalSlurm, job: str) -> set[str]:
    return set(slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").split())


def recorded(slurm: LocalSlurm, job: str) -> str:
    """State of a finished job in the accounting file."""
    table = slurm.run("sacct", "-c", "-f", "jobcomp.txt", "-n", "-P", "-j", job, "-o", "State")
    return table.strip()


def processes(directory: Path) -> list[str]:
    """Command lines of processes that know this directory, by argument or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            known = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
            command = (path / "comm").read_text().strip()
        except OSError:
            continue
        if os.fsencode(directory) in known:
            found.append(command)
    return sorted(found)


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


@needs_slurm
def test_nodes_and_gpus(slurm: LocalSlurm) -> None:
    rows = slurm.run("sinfo", "-h", "-N", "-o", "%P %N %T %c %m %G %l").splitlines()
    size = "4 4000 gpu:2"
    assert sorted(rows) == sorted(
        f"{partition} n{number} idle {size} {limit}"
        for partition, limit in (("gpu*", "1-00:00:00"), ("cpu", "1-00:00:00"), ("short", "5:00"))
        for number in (1, 2, 3)
    )
    assert slurm.nodes == ["n1", "n2", "n3"]


@needs_slurm
def test_jobs_on_a_node_get_different_gpus(slurm: LocalSlurm) -> None:
    script = (
        "echo $CUDA_VISIBLE_DEVICES > gpu.$SLURM_ARRAY_TASK_ID;"
        "until [ -e gpu.0 ] && [ -e gpu.1 ]; do sleep 0.1; done"
    )
    job = submit(slurm, script, "--array=0-1", "--nodelist=n1", "--gres=gpu:1", "--partition=cpu")
    wait_for(lambda: states(slurm, job) == {"COMPLETED"}, seconds=20)
    assert {(slurm.directory / f"gpu.{task}").read_text() for task in (0, 1)} == {"0\n", "1\n"}
    without = submit(slurm, "echo ${CUDA_VISIBLE_DEVICES-none} > no.gpu", "--export=NONE")
    wait_for(lambda: states(slurm, without) == {"COMPLETED"}, seconds=20)
    assert (slurm.directory / "no.gpu").read_text() == "none\n"
    assert recorded(slurm, without) == "COMPLETED"


@needs_slurm
def test_two_side_by_side(slurm: LocalSlurm) -> None:
    with local_slurm(nodes=1, gpus=0) as other:
        assert "gpus" not in other.site.read_text()
        submit(other, "sleep 1000", "--job-name=there")
        submit(slurm, "sleep 1000", "--job-name=here")
        assert other.run("squeue", "-h", "-o", "%j").split() == ["there"]
        assert slurm.run("squeue", "-h", "-o", "%j").split() == ["here"]
    assert slurm.run("squeue", "-h", "-o", "%j").split() == ["here"]
    slurm.run("scancel", "--name=here")


@needs_slurm
def test_down_leaves_nothing() -> None:
    """Not even of a node whose slurmd was killed, with a job that hides its environment."""
    with local_slurm(nodes=2, gpus=0) as slurm:
        submit(slurm, "echo $$ > pid; exec env -i sleep 1000", "--nodelist=n1")
        job = submit(slurm, "trap '' TERM; sleep 1000; sleep 1000", "--nodelist=n2")
        wait_for(lambda: (slurm.directory / "pid").exists() and states(slurm, job) == {"RUNNING"}, seconds=20)
        pid = int((slurm.directory / "pid").read_text())
        os.kill(int((slurm.directory / "slurmd.n1.pid").read_text()), signal.SIGKILL)
        # A client, such as a driver, is not ended with it, nor if it runs in a job of another SLURM.
        client = subprocess.Popen(
            ["sleep", "1000"], env=os.environ | slurm.environment | {"SLURMD_NODENAME": "n1"}
        )
        try:
            assert {"munged", "slurmctld", "slurmd", "slurmstepd"} <= set(processes(slurm.directory))
            slurm.down()
            assert processes(slurm.directory) == ["sleep"]
            assert client.poll() is None
        finally:
            client.kill()
            client.wait()
        assert not is_running(pid)
        assert not slurm.directory.exists()


@needs_slurm
def test_for_a_user(tmp_path: Path) -> None:
    """Without a directory of its own the site goes where `campaign run --site` looks."""
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        user = {"TMPDIR": temporary, "XDG_CONFIG_HOME": str(tmp_path), "CAMPAIGN_SLURM_DIR": ""}
        directory = Path(temporary) / f"campaign-slurm-{os.geteuid()}"
        try:
            assert (
                "campaign run specs/demo.yaml --site local-slurm\n"
                in script("up", user, "--nodes", "1").stdout
            )
            site = YAML(typ="safe").load(tmp_path / "campaign" / "sites" / "local-slurm.yaml")
            assert site["scheduler"] == "slurm"
            assert site["environment"] == {"SLURM_CONF": str(directory / "slurm.conf")}
            assert site["resources"]["gpu"] | {"jobs": 0} == {
                "partition": "gpu", "walltime": "0:10:00", "cores": 1, "memory_GB": 1, "gpus": 1, "jobs": 0,
            }  # fmt: skip
            assert "interface" not in site
            again = script("up", user)
            assert again.returncode == 0
            assert "already" in again.stdout
            # What a crash of the machine leaves is cleared.
            os.kill(int((directory / "slurmctld.pid").read_text()), signal.SIGKILL)
            wait_for(lambda: "slurmctld" not in processes(directory), seconds=5)
            assert "3 nodes" in script("up", user).stdout
        finally:
            assert script("down", user).returncode == 0
        assert list(Path(temporary).iterdir()) == list(tmp_path.rglob("*.yaml")) == []


@needs_slurm
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        (Path(temporary) / "thesis.tex").touch()
        there = {"CAMPAIGN_SLURM_DIR": temporary}
        assert script("up", there).returncode == 2
        assert script("down", there).returncode == 0
        assert [path.name for path in Path(temporary).iterdir()] == ["thesis.tex"]


def test_missing_packages_are_named() -> None:
    """Where SLURM is, its commands at least can be hidden by the path."""
    up = ["/bin/bash", str(SCRIPTS / "up")]
    result = subprocess.run(up, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "slurm-client" in result.stderr.partition("apt-get install")[2]


@needs_slurm
@pytest.mark.slow
def test_a_node_that_is_cut_off_goes_down() -> None:
    skip_without_root()
    with local_slurm(nodes=2, gpus=1, netns=True) as slurm:
        site = YAML(typ="safe").load(slurm.site)
        assert (site["interface"], site["driver_interface"]) == ("eth0", slurm.instance)
        out = slurm.run("srun", "-N2", "sh", "-c", "hostname; ip -4 -o address show dev eth0")
        lines = sorted(out.splitlines())
        assert {"n1", "n2"} < set(lines)
        addresses = {line.split()[3] for line in lines if "eth0" in line}
        assert len(addresses) == 2
        assert all(address.startswith("10.") for address in addresses)
        slurm.cut_off(2)
        wait_for(lambda: "down" in slurm.run("sinfo", "-h", "-n", "n2", "-p", "gpu", "-o", "%T"), CUT_OFF_S)
        assert slurm.run("sinfo", "-h", "-n", "n1", "-p", "gpu", "-o", "%T").strip() == "idle"
        instance = slurm.instance
    assert not list(Path("/sys/class/net").glob(f"{instance}*"))
    assert not list(Path("/run/netns").glob(f"{instance}*"))
    assert not slurm.directory.exists()


@needs_slurm
def test_a_job_that_takes_too_much_memory_is_ended() -> None:
    skip_without_root()
    with local_slurm(nodes=1, gpus=0, cgroup=True) as slurm:
        node = slurm.nodes[0]
        job = submit(slurm, "head -c 300000000 /dev/zero | tail > /dev/null", "--mem=50")
        wait_for(lambda: states(slurm, job) == {"OUT_OF_MEMORY"}, seconds=20)
        assert recorded(slurm, job) == "OUT_OF_MEMORY"
    assert not list(Path("/sys/fs/cgroup").glob(f"*/*{node}*"))
