"""A module imports only from rows above it (DESIGN.md, section 3)."""

import ast
from pathlib import Path

import pytest

import campaign

ROOT = Path(campaign.__file__).parent

LADDER = (
    ("errors",),
    ("numbers",),
    ("quantities",),
    ("layout",),
    ("physics",),
    ("structures",),
    ("potentials",),
    ("engines",),
    ("protocols",),
    ("document",),
    ("fields",),
    ("axes",),
    ("validation",),
    ("conditions",),
    ("spec",),
    ("site",),
    ("columns",),
    ("runs",),
    ("plan_file",),
    ("replicas",),
    ("plan",),
    ("unchanged",),
    ("compare",),
    ("site_cost",),
    ("ledger",),
    ("store",),
    ("execution",),
    ("analysis",),
    ("results",),
    ("__init__",),
    ("report",),
    ("cli",),
    ("__main__",),
)
ROW = {name: row for row, names in enumerate(LADDER) for name in names}


def part(module: str) -> str:
    """First component below the package: ``campaign.engines.lammps`` -> ``engines``."""
    components = module.split(".")
    return components[1] if len(components) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "campaign":
            if node.module == "campaign":
                # `from campaign import x`: x is a module below the package, or a name of the package itself.
                found |= {
                    f"campaign.{alias.name}" if alias.name in ROW else "campaign" for alias in node.names
                }
            else:
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "campaign"}
    return found


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_rows_above(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in ROW, f"{path} has no row in the ladder of DESIGN.md"
    for module in imports(path):
        other = part(module)
        assert other == own or ROW[other] < ROW[own], f"{path.relative_to(ROOT)} imports {module}"
