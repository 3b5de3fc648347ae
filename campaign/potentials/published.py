"""NEP models that others have published, and that `campaign potentials fetch` gets from where they lie.

None of them is part of this project. Their hashes are those of the files that results here were made with.
Lattice constants are those of free-standing monolayers at 0 K, relaxed with the model on a CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from campaign.potentials.library import ModelFacts

_PAPER = "Liang et al., arXiv:2502.13601 (2025)"
_REPOSITORY = (
    "https://raw.githubusercontent.com/Tingliangstu/Paper_Projects/"
    "f8686319e2052dacb1e74ae8e653aa182bcdba20/LIANG_GrHbn_2025"
)
"""The public data of the paper, at one commit; it states no licence."""


@dataclass(frozen=True)
class PublishedModel:
    """A NEP model with the address of its file.

    Attributes
    ----------
    lattice_constants_A
        Its own lattice constant of each material.
    monolayers_only
        It was trained on single layers.
    """

    name: str
    elements: tuple[str, ...]
    url: str
    sha256: str
    lattice_constants_A: Mapping[str, float]
    citation: str
    notes: str
    monolayers_only: bool

    def facts(self) -> ModelFacts:
        """Return what the library notes about it."""
        return ModelFacts(
            elements=self.elements,
            sha256=self.sha256,
            lattice_constants_A=dict(self.lattice_constants_A),
            monolayers_only=self.monolayers_only,
            citations=(self.citation,),
            notes=self.notes,
            source=self.url,
        )


PUBLISHED: Mapping[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name="nep-gr-hbn",
            elements=("B", "C", "N"),
            url=f"{_REPOSITORY}/NEMD/nep.txt",
            sha256="cce00ea8e9d893fb0d3248d7cd2b20ba57752a811264ce859cab173aa80d22ab",
            lattice_constants_A={"graphene": 2.4635, "hbn": 2.5066},
            citation=_PAPER,
            notes="The paper's own model of graphene, h-BN and their interfaces, trained on PBE+MBD.",
            monolayers_only=False,
        ),
        *(
            PublishedModel(
                name=f"nep-{material}",
                elements=elements,
                url=f"{_REPOSITORY}/PDOS/{folder}/nep.txt",
                sha256=sha256,
                lattice_constants_A={material: lattice_constant_A},
                citation=_PAPER,
                notes="The paper's model of the monolayer, for its phonon density of states.",
                monolayers_only=True,
            )
            for material, folder, elements, lattice_constant_A, sha256 in (
                (
                    "mos2",
                    "MoS2",
                    ("Mo", "S"),
                    3.1837,
                    "404270d8b45eca6a873c891cf3d7fe24a826dbf0f240ac5044bd4bd1122f9224",
                ),
                (
                    "ws2",
                    "WS2",
                    ("W", "S"),
                    3.1876,
                    "2bbbdefd68af54b0c183b9f4a9bf1e597837799fbcd883dff78613c1deb990da",
                ),
                (
                    "wse2",
                    "WSe2",
                    ("W", "Se"),
                    3.3221,
                    "873885ff100cd5370be89b8cb94a9c8b1e3a476f02edca1cae719af28e02a502",
                ),
            )
        ),
    )
}
