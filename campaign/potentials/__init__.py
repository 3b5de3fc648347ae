"""Interatomic potentials: what they are for, their files and hashes, and how LAMMPS reads them."""

from campaign.potentials.files import file_hashes, potential_files, potential_folders
from campaign.potentials.lammps import LammpsModel, Species, lammps_model
from campaign.potentials.library import add_nep
from campaign.potentials.potential import Potential
from campaign.potentials.registry import check_layers, get_potential, potential_names

__all__ = [
    "LammpsModel",
    "Potential",
    "Species",
    "add_nep",
    "check_layers",
    "file_hashes",
    "get_potential",
    "lammps_model",
    "potential_files",
    "potential_folders",
    "potential_names",
]
