"""Make ``docs/conformance.md`` from a record of the conformance suite.

pytest tests/test_conformance.py --conformance-record record.json
python -m tests.conformance_table record.json > docs/conformance.md
"""

import json
import sys
from pathlib import Path
from typing import Any

_HEAD = """\
# What agrees with what

Made by `python -m tests.conformance_table` from a run of `tests/test_conformance.py`; do not edit.
Each figure is what the test measured. The models have four layers of 8 or 16 atoms, with dichalcogenides of
up to 100; steps are 0.5 fs. The energies of `lammps, nep` and `gpumd, nep` are compared with those of `ase,
nep`; those of `lammps, tersoff-lj` with ASE's own Tersoff, on layers too far apart for Lennard-Jones. The
other forms of LAMMPS are compared with the plain form of its manual, and with their lattice constants, in
`tests/test_potential_forms.py`. LAMMPS and ASE take a NEP from the same library, so its energies show that
types, order, units and virial come through; that both libraries agree is a test of its own
(`tests/test_nep.py`). `ase, tersoff` is a calculator of the user's.
"""


def table(records: list[dict[str, Any]]) -> str:
    """Return the text of the page: what is calculated, and a row for each engine with each potential."""
    cases = list(dict.fromkeys(record["case"] for record in records))
    columns = {record["title"]: record["meaning"] for record in records}
    cells = {(record["title"], record["case"]): _cell(record) for record in records}
    lines = [_HEAD, *(f"- **{title}**: {meaning}." for title, meaning in columns.items()), ""]
    lines += ["| engine, potential | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for case in cases:
        figures = (cells.get((title, case), "-") for title in columns)
        lines.append(f"| {case.replace('-', ', ', 1)} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def _cell(record: dict[str, Any]) -> str:
    if record["outcome"] == "passed":
        return str(record["figure"] or "passed")
    return f"{record['outcome']}: {record['reason']}" if record["reason"] else f"**{record['outcome']}**"


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(Path(sys.argv[1]).read_text())))
