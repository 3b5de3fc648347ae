"""A SLURM of its own for a test, by slurm/local/up and slurm/local/down."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "slurm" / "local"

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
"""What the scripts need, and the packages of Debian that have it."""

MISSING = [
    package
    for command, package in PACKAGES.items()
    if shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None
]

REQUIRED = "slurm" in os.environ.get("CAMPAIGN_REQUIRE", "").split(",")
"""Then a test without SLURM goes on, and fails with the script's own words."""

needs_slurm = pytest.mark.skipif(
    bool(MISSING) and not REQUIRED,
    reason=f"SLURM is not installed: as root, apt-get install --no-install-recommends {' '.join(MISSING)}",
)


def skip_without_root() -> None:
    """Namespaces and cgroups take root; where SLURM is required, so are they."""
    if os.geteuid() != 0 and not REQUIRED:
        pytest.skip("network namespaces and cgroups take root")


def without_slurm(environment: dict[str, str]) -> dict[str, str]:
    """Without what an outer SLURM, which may run these tests, tells its jobs."""
    return {key: value for key, value in environment.items() if not key.startswith(("SLURM", "SBATCH_"))}


def script(name: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Result of `up` or `down`, whatever it is."""
    return subprocess.run(
        [str(SCRIPTS / name), *options],
        env=without_slurm(dict(os.environ)) | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(frozen=True)
class LocalSlurm:
    """A SLURM that is up, in its directory."""

    directory: Path

    @property
    def conf(self) -> Path:
        return self.directory / "slurm.conf"

    @property
    def site(self) -> Path:
        return self.directory / "local-slurm.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """What makes SLURM's commands speak to this one."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def instance(self) -> str:
        """Name of the bridge and, with `n1` and so on behind it, of the namespaces and their links."""
        return self.run("scontrol", "show", "config").partition("ClusterName")[2].split()[1]

    @property
    def nodes(self) -> list[str]:
        return sorted(self.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N").split())

    def run(self, *argv: str) -> str:
        """Output of one of SLURM's commands; it runs in the directory, where a job's log goes as well."""
        result = subprocess.run(
            argv,
            env=without_slurm(dict(os.environ)) | self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, f"{' '.join(argv)}: {result.stderr}"
        return result.stdout

    def cut_off(self, number: int, *, back: bool = False) -> None:
        """Take a node, counted from one, from the network, or let it come back; only with namespaces."""
        link = f"{self.instance}n{number}"
        subprocess.run(["ip", "link", "set", link, "up" if back else "down"], check=True, timeout=10)

    def down(self) -> None:
        """End it; once more does no harm."""
        result = script("down", {"CAMPAIGN_SLURM_DIR": str(self.directory)})
        assert result.returncode == 0, result.stderr


@contextmanager
def local_slurm(
    nodes: int = 3, gpus: int = 2, netns: bool = False, cgroup: bool = False
) -> Iterator[LocalSlurm]:
    """A SLURM in a new directory, which is gone in the end, and all its jobs with it."""
    # Not in pytest's own directory: its paths are too long for SLURM's sockets.
    slurm = LocalSlurm(Path(tempfile.mkdtemp(prefix="campaign-slurm-", dir="/tmp")))
    options = ["--nodes", str(nodes), "--gpus", str(gpus), *["--netns"] * netns, *["--cgroup"] * cgroup]
    try:
        result = script("up", {"CAMPAIGN_SLURM_DIR": str(slurm.directory)}, *options)
        assert result.returncode == 0, result.stderr
        yield slurm
    finally:
        slurm.down()
        shutil.rmtree(slurm.directory, ignore_errors=True)  # when `up` had not begun
