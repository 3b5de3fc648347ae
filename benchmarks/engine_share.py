"""Share of the workers' time that was spent inside the engine, from the manifests of a campaign.

Run ``python -m benchmarks.engine_share DIR``.
"""

import argparse
import json
from pathlib import Path

from campaign.layout import Layout


def main() -> None:
    """Sum over the manifests, and print one line for each kind of stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="a campaign's directory")
    stages = Layout(parser.parse_args().directory).stages
    manifests = [json.loads(path.read_text()) for path in sorted(stages.glob("*/*/manifest.json"))]
    if not manifests:
        raise SystemExit(f"no finished stages in {stages}")
    kinds = sorted({manifest["kind"] for manifest in manifests})
    for kind in (*kinds, "all"):
        chosen = [manifest for manifest in manifests if kind in {manifest["kind"], "all"}]
        wall_s = sum(manifest["wall_s"] for manifest in chosen)
        engine_s = sum(manifest.get("engine_wall_s", 0.0) for manifest in chosen)
        print(
            f"{kind:12s} {len(chosen):5d} stages: {wall_s:9.2f} s, "
            f"in the engine {engine_s:9.2f} s ({engine_s / wall_s:.1%})"
        )


if __name__ == "__main__":
    main()
