"""Stages of a plan while it is made, and the identities of replicas.

What a seed changes in a stage is its random seed and the ids of the stages it needs. So the identities of
further seeds are filled into the canonical text of the first one's: 10^5 runs are a matter of seconds. The
shortcut is compared with the protocol's own stages for the second seed of every condition; a protocol that
fails the comparison is asked for every seed.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from campaign.protocols.base import Stage
from campaign.quantities import MAX_RANDOM_SEED, canonical_json
from campaign.runs import StageClass, StageTable

Replica = tuple[int, int]


class Stages(Mapping[str, Stage]):
    """Stages of a plan by id, each after the ones it needs; most are made only when they are asked for.

    ``table`` has them as columns.
    """

    def __init__(self, base_seed: int) -> None:
        self.table = StageTable([], [], array("i"), [])
        self._base_seed = base_seed
        self._like: list[Stage] = []
        self._labels = array("q")
        self._classes: dict[str, int] = {}

    def add(self, stage_id: str, like: Stage, which: int, needs: Iterable[str], label: int) -> int:
        """Return the position of a stage, which is appended if it is new.

        It is ``like`` another stage but for its id, the ids that it needs (in the same order), and the label
        of its replica.
        """
        position = self.table.position(stage_id)
        if position is None:
            self._like.append(like)
            self._labels.append(label)
            position = self.table.append(stage_id, which, needs)
        return position

    def class_of(self, stage: Stage) -> int:
        """Return the index of what the stage has in common with others of its sort."""
        common = StageClass(
            kind=stage.kind,
            protocol=stage.protocol,
            engine=stage.engine,
            potential=getattr(stage.settings, "potential", None),
            version=stage.version,
            files=dict(stage.files),
            atoms=stage.atoms,
            steps=stage.steps,
        )
        classes = self.table.classes
        index = self._classes.setdefault(repr(common), len(classes))
        if index == len(classes):
            classes.append(common)
        return index

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __contains__(self, stage_id: object) -> bool:
        return stage_id in self.table

    def __getitem__(self, stage_id: str) -> Stage:
        position = self.table.position(stage_id)
        if position is None:
            raise KeyError(stage_id)
        like = self._like[position]
        if stage_id == like.id:
            return like
        needed = (self.table.ids[i] for i in self.table.needs[position])
        replica = None if like.replica is None else (self._base_seed, self._labels[position])
        return replace(like, needs=dict(zip(like.needs, needed, strict=True)), replica=replica)


@dataclass(frozen=True)
class _Template:
    """A stage with gaps for what a replica changes.

    ``sources`` has, for each needed stage, its index in the run's chain; ``written`` the same by sorted role.
    """

    like: Stage
    which: int
    sources: tuple[int, ...]
    written: tuple[tuple[str, int], ...]
    settings: str
    identity: tuple[str, str, str]
    varies: bool

    @classmethod
    def of(cls, stage: Stage, chain: tuple[Stage, ...], which: int) -> "_Template":
        positions = {other.id: i for i, other in enumerate(chain)}
        gaps = canonical_json({**stage.identity, "needs": "<needs>", "random_seed": "<random_seed>"})
        before, rest = gaps.split('"<needs>"')
        between, after = rest.split('"<random_seed>"')
        sources = {role: positions[needed] for role, needed in stage.needs.items()}
        return cls(
            like=stage,
            which=which,
            sources=tuple(sources.values()),
            written=tuple((f'"{role}":"', source) for role, source in sorted(sources.items())),
            settings=canonical_json(stage.settings),
            identity=(before, between, after),
            varies=stage.replica is not None or bool(sources),
        )

    def identify(self, replica: Replica, chain: list[str]) -> tuple[str, list[str]]:
        """Return the id of the stage for another replica, equal to `Stage.id`, and the ids that it needs."""
        if not self.varies:
            return self.like.id, []
        written = "{" + ",".join([f'{role}{chain[i]}"' for role, i in self.written]) + "}"
        seed = "null"
        if self.like.replica is not None:
            parts = f"[{replica[0]},{replica[1]},{self.settings},{written}]"
            number = int.from_bytes(hashlib.sha256(parts.encode()).digest()[:8], "big")
            seed = str(1 + number % MAX_RANDOM_SEED)
        before, between, after = self.identity
        text = f"{before}{written}{between}{seed}{after}"
        return hashlib.sha256(text.encode()).hexdigest()[:32], [chain[i] for i in self.sources]


class Condition:
    """Stages of the runs of one condition, for any seed.

    Parameters
    ----------
    stages
        Where they are collected.
    make
        The protocol's stages for a replica (base seed, label).
    base_seed
        The campaign's.
    """

    def __init__(self, stages: Stages, make: Callable[[Replica], tuple[Stage, ...]], base_seed: int) -> None:
        self._stages = stages
        self._make = make
        self._base_seed = base_seed
        self._templates: list[_Template] = []
        self._trusted = False
        self._known: dict[int, tuple[int, ...]] = {}

    def positions(self, label: int) -> tuple[int, ...]:
        """Return the positions of the stages of the run with this seed label, which are added if new."""
        if label not in self._known:
            self._known[label] = self._filled(label) if self._trusted else self._asked(label)
        return self._known[label]

    def _asked(self, label: int) -> tuple[int, ...]:
        chain = self._make((self._base_seed, label))
        classes = [self._stages.class_of(stage) for stage in chain]
        if self._templates:
            ids = [stage_id for stage_id, _ in self._identities(label)]
            self._trusted = ids == [stage.id for stage in chain]
        else:
            self._templates = [_Template.of(s, chain, which) for s, which in zip(chain, classes, strict=True)]
        return tuple(
            self._stages.add(stage.id, stage, which, stage.needs.values(), label)
            for stage, which in zip(chain, classes, strict=True)
        )

    def _filled(self, label: int) -> tuple[int, ...]:
        found = self._identities(label)
        return tuple(
            [
                self._stages.add(stage_id, template.like, template.which, needs, label)
                for template, (stage_id, needs) in zip(self._templates, found, strict=True)
            ]
        )

    def _identities(self, label: int) -> list[tuple[str, list[str]]]:
        replica = (self._base_seed, label)
        chain: list[str] = []
        found = []
        for template in self._templates:
            stage_id, needs = template.identify(replica, chain)
            chain.append(stage_id)
            found.append((stage_id, needs))
        return found
