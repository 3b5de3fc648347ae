"""Expansion of axes against a brute-force model, and the names that come out of it."""

import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.axes import (
    AxesSpec,
    Expansion,
    Label,
    coordinate_names,
    coordinate_units,
    expand,
    grid_size,
    label_text,
    parse_axes,
)
from campaign.document import Document, Problems
from campaign.errors import SpecError

LABELS: st.SearchStrategy[Label] = st.one_of(
    st.integers(-5, 5), st.sampled_from(["a", "b", "AB", "x y"]), st.sampled_from([0.5, 1.5, 2.25])
)
FIELDS = ["temperature_K", "a.layers", "b.layers", "direction", "seed", "timestep_fs"]


def expansion(
    axes: dict[str, Any],
    zips: list[dict[str, Any]] | None = None,
    include: list[dict[str, Any]] | None = None,
    exclude: list[dict[str, Any]] | None = None,
) -> Expansion:
    problems = Problems(Document(Path("spec.yaml"), "axes: {}"))
    spec = AxesSpec(axes, zips or [], include or [], exclude or [])
    grid = expand(parse_axes(spec, problems), spec, problems)
    problems.check()
    return grid


def labels(grid: Expansion) -> list[dict[str, Label]]:
    """Cells as the labels that they stand for."""
    return [
        {
            key: label
            for axis, i in zip(grid.axes, cell, strict=True)
            for key, label in zip(axis.keys, axis.points[i].labels, strict=True)
        }
        for cell in grid.cells
    ]


@st.composite
def specs(
    draw: st.DrawFn,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Axes, zip, include and exclude that are right."""
    names = draw(st.lists(st.sampled_from(FIELDS), unique=True, min_size=1, max_size=4))
    zipped = [name for name in names if name != "seed"][:2] if len(names) > 2 and draw(st.booleans()) else []
    values = {
        name: draw(
            st.lists(
                st.integers(0, 9) if name == "seed" else LABELS, min_size=2, max_size=2, unique_by=label_text
            )
            if name in zipped
            else st.lists(
                st.integers(0, 9) if name == "seed" else LABELS, min_size=1, max_size=4, unique_by=label_text
            )
        )
        for name in names
    }
    groups = [{name: values[name] for name in zipped}] if zipped else []
    axes = {name: values[name] for name in names if name not in zipped}

    def some(name: str, *, new: bool) -> Label:
        known: st.SearchStrategy[Any] = st.sampled_from(values[name])
        fresh: st.SearchStrategy[Any] = (
            st.integers(10, 12) if name == "seed" else st.sampled_from(["new", 77])
        )
        label: Label = draw(st.one_of(known, fresh) if new else known)
        return label

    include = [{name: some(name, new=True) for name in names} for _ in range(draw(st.integers(0, 2)))]
    exclude = []
    for _ in range(draw(st.integers(0, 2))):
        chosen = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
        exclude.append({name: some(name, new=False) for name in chosen})
    return axes, groups, include, exclude


@given(specs())
def test_expansion_agrees_with_brute_force(spec: tuple[Any, Any, Any, Any]) -> None:
    axes, groups, include, exclude = spec
    parts = [[{name: label} for label in listed] for name, listed in axes.items()]
    parts += [
        [dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)] for group in groups
    ]
    wanted: list[dict[str, Any]] = []
    for combination in product(*parts):
        cell = {key: label for part in combination for key, label in part.items()}
        if not any(all(cell[key] == label for key, label in rule.items()) for rule in exclude):
            wanted.append(cell)
    wanted += [cell for n, cell in enumerate(include) if cell not in wanted and cell not in include[:n]]
    if not wanted:
        with pytest.raises(SpecError, match="nothing to run"):
            expansion(axes, groups, include, exclude)
        return

    grid = expansion(axes, groups, include, exclude)

    assert labels(grid) == wanted
    assert len(set(grid.cells)) == len(grid.cells) <= grid_size(grid.axes)
    for i, axis in enumerate(grid.axes):
        used = {cell[i] for cell in grid.cells}
        assert used == set(range(len(axis.points))), "every label of a dimension has a run"


def test_zip_is_one_dimension_with_two_coordinates() -> None:
    grid = expansion({"direction": ["f", "b"]}, [{"a.layers": [4, 6], "b.layers": [5, 7]}])

    assert [axis.keys for axis in grid.axes] == [("direction",), ("a.layers", "b.layers")]
    assert len(grid.cells) == 4
    assert grid.axes[1].points[1].values == {"a.layers": 6, "b.layers": 7}


def test_include_comes_after_exclude_and_can_bring_a_run_back() -> None:
    grid = expansion(
        {"direction": ["f", "b"], "seed": [1, 2]},
        exclude=[{"direction": "b"}],
        include=[{"direction": "b", "seed": 2}],
    )

    assert labels(grid) == [
        {"direction": "f", "seed": 1},
        {"direction": "f", "seed": 2},
        {"direction": "b", "seed": 2},
    ]


def test_a_label_of_ones_own_sets_several_fields_and_counts_as_one_axis() -> None:
    values = [
        {"label": 60, "set": {"a.cells": [5, 3], "b.cells": [5, 3]}},
        {"label": 240, "set": {"a.cells": [10, 6], "b.cells": [10, 6]}},
    ]
    grid = expansion({"atoms": values, "seed": {"count": 2}}, include=[{"atoms": 240, "seed": 7}])

    assert grid.axes[0].named
    assert [point.labels for point in grid.axes[0].points] == [(60,), (240,)]
    assert grid.axes[0].points[1].values == {"a.cells": [10, 6], "b.cells": [10, 6]}
    assert labels(grid)[-1] == {"atoms": 240, "seed": 7}


def test_seeds_are_a_count_and_a_base_or_a_list() -> None:
    assert [cell["seed"] for cell in labels(expansion({"seed": {"count": 3}}))] == [1, 2, 3]
    assert [cell["seed"] for cell in labels(expansion({"seed": {"count": 2, "base": 11}}))] == [11, 12]
    assert [cell["seed"] for cell in labels(expansion({"seed": [5, 1]}))] == [5, 1]


def test_a_seed_never_enters_settings() -> None:
    grid = expansion({"seed": [1, 2]}, include=[{"seed": 7}])

    assert [point.values for point in grid.axes[0].points] == [{}, {}, {}]


def test_thousands_of_rules_take_no_longer_than_one() -> None:
    seeds = range(1, 30_001)
    began = time.process_time()
    grid = expansion(
        {"seed": {"count": len(seeds)}, "direction": ["f", "b"]},
        exclude=[{"seed": seed, "direction": "f"} for seed in seeds if seed % 2],
        include=[{"seed": seed, "direction": "f"} for seed in seeds if seed % 4 == 1],
    )

    assert len(grid.cells) == 52_500
    assert time.process_time() - began < 20  # it takes one second; rules x cells would be many minutes


def test_true_is_not_1() -> None:
    grid = expansion({"orthogonal": [True, 1.5]}, include=[{"orthogonal": 1}], exclude=[{"orthogonal": True}])

    assert repr(labels(grid)) == "[{'orthogonal': 1.5}, {'orthogonal': 1}]"


def test_names_lose_their_unit_and_grow_only_where_they_would_collide() -> None:
    assert coordinate_names(["temperature_K", "structure.stacking", "seed", "timestep_fs"]) == {
        "temperature_K": "temperature",
        "structure.stacking": "stacking",
        "seed": "seed",
        "timestep_fs": "timestep",
    }
    assert coordinate_names(["structure.upper.layers", "structure.lower.layers", "frozen_layers"]) == {
        "structure.upper.layers": "structure_upper_layers",
        "structure.lower.layers": "structure_lower_layers",
        "frozen_layers": "frozen_layers",
    }
    assert coordinate_names(["npt.duration_ps", "npt.duration_fs"]) == {
        "npt.duration_ps": "npt_duration_ps",
        "npt.duration_fs": "npt_duration_fs",
    }


@pytest.mark.parametrize(
    ("key", "units"),
    [
        ("temperature_K", "K"),
        ("a.spacing_A", "angstrom"),
        ("pressure_GPa", "GPa"),
        ("seed", None),
        ("layers", None),
    ],
)
def test_units_come_from_the_name(key: str, units: str | None) -> None:
    assert coordinate_units(key) == units


@given(LABELS)
def test_label_text_needs_no_quotes_in_a_shell(label: Label) -> None:
    assert set(label_text(label)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


def test_label_text_does_not_depend_on_how_a_number_is_written() -> None:
    assert label_text(300.0) == label_text(300) == "300"
    assert label_text(0.5) == "0.5"
    assert label_text(True) == "true"
