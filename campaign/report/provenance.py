"""Where the numbers of a report come from: versions, hashes, seeds, machines, times and attempts."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.errors import LedgerError
from campaign.layout import Layout
from campaign.ledger import Ledger
from campaign.plan import Plan

MAX_STAGES = 400
"""Manifests of more stages are not read; the report says so."""


@dataclass(frozen=True)
class StageFacts:
    """One committed stage, as text."""

    id: str
    kind: str
    random_seed: str
    attempt: str
    host: str
    started: str
    wall: str


@dataclass(frozen=True)
class Provenance:
    """Facts about everything that was computed.

    Attributes
    ----------
    versions, hosts, processors
        Every value that occurs in the manifests that were read.
    files
        SHA-256 of each file of a potential, by the names of both.
    stages
        Committed stages in the order of the plan, at most `MAX_STAGES`.
    committed
        Number of committed stages of the plan.
    wall_s
        Wall time of the listed stages together.
    attempts
        Number of attempts by their outcome, from the ledger; empty where it cannot be read.
    """

    versions: dict[str, str]
    hosts: list[str]
    processors: list[str]
    files: dict[tuple[str, str], str]
    stages: list[StageFacts]
    committed: int
    wall_s: float
    attempts: dict[str, int]

    @property
    def listed_all(self) -> bool:
        """Whether every committed stage is listed."""
        return len(self.stages) == self.committed


def collect(layout: Layout, plan: Plan) -> Provenance:
    """Read the manifests of a plan's committed stages, and the ledger."""
    versions: dict[str, set[str]] = {}
    hosts: Counter[str] = Counter()
    processors: Counter[str] = Counter()
    stages: list[StageFacts] = []
    committed, wall_s = 0, 0.0
    for stage_id, manifest in _manifests(layout, plan):
        committed += 1
        if manifest is None:
            continue
        for name, version in manifest.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(version))
        hosts[str(manifest.get("host", "unknown"))] += 1
        processors[str(manifest.get("cpu", "unknown"))] += 1
        wall_s += float(manifest.get("wall_s", 0.0))
        stages.append(_facts(stage_id, manifest))
    return Provenance(
        versions={name: ", ".join(sorted(found)) for name, found in sorted(versions.items())},
        hosts=sorted(hosts),
        processors=sorted(processors),
        files={
            (common.potential or "", name): sha
            for common in plan.stages.classes
            for name, sha in sorted(common.files.items())
        },
        stages=stages,
        committed=committed,
        wall_s=wall_s,
        attempts=_attempts(layout),
    )


def _attempts(layout: Layout) -> dict[str, int]:
    """Outcomes of all attempts; a report can be written of results alone."""
    try:
        with Ledger.open(layout, read_only=True) as ledger:
            return dict(ledger.outcomes())
    except LedgerError:
        return {}


def _manifests(layout: Layout, plan: Plan) -> Iterator[tuple[str, dict[str, Any] | None]]:
    read = 0
    for stage_id in plan.stages:
        path = layout.stage(stage_id) / "manifest.json"
        if not path.exists():
            continue
        if read < MAX_STAGES:
            read += 1
            yield stage_id, _manifest(path)
        else:
            yield stage_id, None


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or "format" not in manifest:
        hint = f"remove {path.parent}, and `campaign run` makes it again"
        raise LedgerError("damaged manifest", where=str(path), hint=hint)
    return manifest


def _facts(stage_id: str, manifest: dict[str, Any]) -> StageFacts:
    attempt = str(manifest.get("attempt", ""))
    seed = manifest.get("random_seed")
    return StageFacts(
        id=stage_id,
        kind=str(manifest.get("kind", "")),
        random_seed="" if seed is None else str(seed),
        attempt=attempt.split("-")[1] if attempt.count("-") >= 1 else attempt,
        host=str(manifest.get("host", "")),
        started=str(manifest.get("started", ""))[:19].replace("T", " "),
        wall=f"{float(manifest.get('wall_s', 0.0)):.1f}",
    )
