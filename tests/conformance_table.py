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
Each figure is what the test measured. The models have four layers of 8 or 16 atoms; steps are 0.5 fs.
The energies of `lammps, nep` and `gpumd, nep` are compared with those of `ase, nep`; those of
`lammps, tersoff-lj` with ASE's own Tersoff, on layers too far apart for Lennard-Jones. LAMMPS and ASE take
a NEP from the same library, so that row shows that types, order, units and virial come through; that both
libraries agree is a test of its own (`tests/test_nep.py`).
"""


def table(records: list[dict[str, Any]]) -> str:
    """Return the text of the page."""
    columns = list(dict.fromkeys(record["case"] for record in records))
    rows = list(dict.fromkeys(record["meaning"] for record in records))
    cells = {(record["meaning"], record["case"]): _cell(record) for record in records}
    lines = [
        _HEAD,
        "| what must hold | " + " | ".join(column.replace("-", ", ", 1) for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for meaning in rows:
        figures = (cells.get((meaning, column), "-") for column in columns)
        lines.append(f"| {meaning} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def _cell(record: dict[str, Any]) -> str:
    if record["outcome"] == "passed":
        return str(record["figure"] or "passed")
    return f"{record['outcome']}: {record['reason']}" if record["reason"] else f"**{record['outcome']}**"


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(Path(sys.argv[1]).read_text())))
