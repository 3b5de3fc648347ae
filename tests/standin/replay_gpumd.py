#!/usr/bin/env python3
"""REPLAYS files as GPUMD writes them; it computes nothing, and its banner says so.

For tests of the engine on machines without a GPU. It reads ``model.xyz`` and ``run.in`` as GPUMD does and
writes what a run of a known outcome would have written: a heat flow of `FLOW` (eV/ps) from source to sink, a
jump of `JUMP_K` between the materials, a cell that NpT stretches by `STRETCH`. Only the standard library.

Environment: ``REPLAY_FAULT`` (see `Replay.fault`), ``REPLAY_PAUSE_S`` in each tenth of a block, and
``REPLAY_STYLE``: ``old`` as version 3.9 (12 columns, no headers), ``windows`` (three digits in exponents).
"""

import math
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

FLOW = 0.2
JUMP_K = 25.0
STRETCH = 1.002
SWING = 0.001
NOISE_K = 0.2
POTENTIAL_EV = -8.0
BOLTZMANN = 8.617343e-5

BANNER = """
***************************************************************
*                 REPLAY of files of GPUMD                    *
*                 version 5.6-replay                          *
*              This program computes nothing                  *
***************************************************************

number of GPUs = 0
Device id:                   none
    Device name:             none (replayed)
"""

ENSEMBLES = {"npt_scr": 12, "nvt_nhc": 5, "nve": 2, "heat_lan": 7}
KEYWORDS = {
    "potential", "velocity", "time_step", "minimize", "ensemble", "fix", "compute", "dump_thermo",
    "dump_restart", "run",
}  # fmt: skip


def fail(text: str, kind: str = "Input") -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{kind} Error:\n    File:       replay\n    Line:       1\n    Error text: {text}\n")
    sys.exit(1)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


class Replay:
    def __init__(self) -> None:
        name, _, number = os.environ.get("REPLAY_FAULT", "").partition(":")
        self.fault, self.fault_at = name, number
        self.pause_s = float(os.environ.get("REPLAY_PAUSE_S", "0"))
        self.style = os.environ.get("REPLAY_STYLE", "new")
        self.block = 0
        self.dt_ps = 0.001
        self.random = random.Random(1)
        self.once: dict[str, list[str]] = {}

    def at(self, fault: str) -> bool:
        return self.fault == fault and self.fault_at == str(self.block)

    def run(self) -> None:
        say(BANNER)
        if self.fault == "cuda":
            fail("CUDA driver version is insufficient for CUDA runtime version", "CUDA")
        self.read_model()
        for line in Path("run.in").read_text().splitlines():
            words = line.split("#")[0].split()
            if words:
                self.obey(words)
        say("Finished running GPUMD.")

    def read_model(self) -> None:
        count, header, *rows = Path("model.xyz").read_text().splitlines()
        assert int(count) == len(rows)
        lattice = re.search(r'Lattice="(.*?)"', header)
        properties = re.search(r"Properties=(\S+)", header)
        assert lattice is not None
        assert properties is not None
        assert 'pbc="T T F"' in header
        self.lattice = [float(word) for word in lattice[1].split()]
        self.lengths = self.lattice[0], self.lattice[4]
        self.cell = self.lengths
        self.rows = [row.split() for row in rows]
        self.moves = "vel:R:3" in properties[1]
        self.layers = [int(row[-1]) for row in self.rows]
        self.sizes = [self.layers.count(layer) for layer in range(max(self.layers) + 1)]
        self.role_of = dict(zip(self.layers, (int(row[-2]) for row in self.rows), strict=True))
        self.carbon = {layer for layer, row in zip(self.layers, self.rows, strict=True) if row[0] == "C"}

    def obey(self, words: list[str]) -> None:
        keyword, arguments = words[0], words[1:]
        if keyword not in KEYWORDS:
            fail(f"'{keyword}' is an invalid keyword.")
        if self.fault == "refuse" and self.fault_at in words:
            fail("Invalid ensemble type.")
        if self.fault == "input" and keyword == "run":
            fail("There is atom in model.xyz that is not allowed in the used potential.\n")
        if keyword == "time_step":
            self.dt_ps = float(arguments[0]) / 1000
        if keyword == "ensemble" and ENSEMBLES.get(arguments[0]) != len(words):
            fail("Invalid ensemble type.")
        if keyword != "run":
            self.once[keyword] = arguments
            return
        self.block += 1
        self.run_block(int(arguments[0]))
        for name in ("ensemble", "fix", "compute", "dump_thermo", "dump_restart"):
            self.once.pop(name, None)

    def run_block(self, steps: int) -> None:
        say(f"Run {steps} steps.")
        ensemble = self.once["ensemble"]  # as in GPUMD, it must be said for each run
        if ensemble[0] == "heat_lan":
            self.write_compute(steps, ensemble)
        else:
            self.write_thermo(steps, ensemble)
        base = max(1, steps // 10)
        for done in range(1, steps + 1):
            if done == steps and "dump_restart" in self.once:
                assert self.once["dump_restart"] == [str(steps)]
                self.write_restart()
            if done % base == 0:
                time.sleep(5 if self.at("slow") else self.pause_s)
                say(f"    {done} steps completed.")
        if self.at("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        say(f"Time used for this run = {steps * 1e-6:g} second.")
        say(f"Speed of this run = {len(self.rows) * 1e6:g} atom*step/second.")

    def write(self, name: str, rows: list[list[float]], form: str, header: str = "") -> None:
        with Path(name).open("a") as file:
            if header and self.style != "old":
                file.write(header)
            for row in rows:
                line = "".join(form % number for number in row)
                if self.style == "windows":
                    line = re.sub(r"e([+-])(\d\d)(?!\d)", r"e\g<1>0\2", line).replace("nan", "-nan(ind)")
                file.write(line + "\n")

    def temperature(self, target_K: float) -> float:
        if self.at("nan"):
            return math.nan  # written as -nan(ind) in the style of Windows
        return target_K * (1e4 if self.at("hot") else 1) + self.random.gauss(0, NOISE_K)

    def write_thermo(self, steps: int, ensemble: list[str]) -> None:
        every = int(self.once["dump_thermo"][0])
        rows = []
        for row in range(steps // every):
            if ensemble[0] == "npt_scr":
                factor = STRETCH + SWING * (-1) ** row
                self.cell = self.lengths[0] * factor, self.lengths[1] * factor
            temperature_K = self.temperature(float(ensemble[1]))
            kinetic = 1.5 * len(self.rows) * BOLTZMANN * temperature_K
            start = [temperature_K, kinetic, POTENTIAL_EV * len(self.rows), 0.1, 0.2, 0.0, 0.0, 0.0, 0.0]
            cell = [*self.lattice]
            cell[0], cell[4] = self.cell
            rows.append(start + (cell[::4] if self.style == "old" else cell))
        columns = "T KE PE sxx syy szz syz sxz sxy ax ay az bx by bz cx cy cz"
        header = (
            f"# dump_thermo {every}\n# format_version 1\n# num_atoms {len(self.rows)}\n"
            f"# dt_output {1000 * self.dt_ps * every:.10e} fs\n# columns {columns}\n"
        )
        self.write("thermo.out", rows, "%20.10e", header)

    def write_compute(self, steps: int, ensemble: list[str]) -> None:
        method, every, output, *quantities = self.once["compute"]
        assert (method, output, quantities) == ("1", "1", ["temperature", "potential"])
        middle_K, coupling, above_K = map(float, ensemble[1:4])
        source, sink = map(int, ensemble[4:])
        tau_ps = coupling * self.dt_ps
        hot_is_carbon = any(self.role_of[layer] == source for layer in self.carbon)
        frozen = int(self.once["fix"][0]) if "fix" in self.once else -1
        targets = []
        for layer in range(len(self.sizes)):
            role = self.role_of[layer]
            side = 1 if (layer in self.carbon) == hot_is_carbon else -1
            target_K = middle_K + side * JUMP_K / 2
            if role in {source, sink}:
                # What a Langevin thermostat gives is 3 N k (T_bath - T) / tau: so far is it from its bath.
                atoms = sum(n for other, n in enumerate(self.sizes) if self.role_of[other] == role)
                target_K = middle_K + side * (above_K - FLOW * tau_ps / (3 * atoms * BOLTZMANN))
            targets.append(0.0 if role == frozen else target_K)
        rows = []
        for row in range(1, steps // int(every) + 1):
            temperatures = [self.temperature(target_K) if target_K else 0.0 for target_K in targets]
            # The energy of each layer stays the same.
            potentials = [
                n * (POTENTIAL_EV - 1.5 * BOLTZMANN * temperature_K)
                for n, temperature_K in zip(self.sizes, temperatures, strict=True)
            ]
            given = FLOW * row * int(every) * self.dt_ps
            rows.append([*temperatures, *potentials, -given, given])
        self.write("compute.out", rows, "%15.6e")

    def write_restart(self) -> None:
        cell = [*self.lattice]
        cell[0], cell[4] = self.cell
        text = " ".join(f"{number:g}" for number in cell)
        properties = "species:S:1:pos:R:3:mass:R:1:vel:R:3:group:I:2"
        lines = [str(len(self.rows)), f'pbc="T T F" Lattice="{text}" Properties={properties}']
        for row in self.rows:
            x, y, z = (float(word) for word in row[1:4])
            x, y = x * self.cell[0] / self.lengths[0], y * self.cell[1] / self.lengths[1]
            velocity = " ".join(f"{float(v):g}" for v in row[5:8]) if self.moves else "0.001 -0.002 0.003"
            lines.append(f"{row[0]} {x:g} {y:g} {z:g} {float(row[4]):g} {velocity} {row[-2]} {row[-1]} ")
        whole = "\n".join(lines) + "\n"
        if self.at("truncated"):
            time.sleep(2)  # time to look at the one before
            whole = whole[: len(whole) // 2]
        Path("restart.xyz").write_text(whole)


if __name__ == "__main__":
    Replay().run()
