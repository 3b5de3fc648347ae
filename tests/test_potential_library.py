"""The user's NEP models: what can be added, what is refused, and what is found out about them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones

from campaign.errors import EngineNotFoundError, ResourceError, SpecError
from campaign.potentials import (
    Species,
    add_nep,
    check_layers,
    file_hashes,
    get_potential,
    lammps_model,
    potential_files,
    potential_names,
)
from campaign.potentials import library as potential_library
from campaign.potentials.builtin import BUILTIN
from campaign.potentials.calculators import make_calculator
from campaign.potentials.lattice import relaxable_materials, relaxed_lattice_constant
from campaign.potentials.library import check_whole, file_sha256, read_elements
from campaign.potentials.published import PUBLISHED, PublishedModel
from tests.nemd_cases import small_spec
from tests.reference import REFERENCE, needs_reference
from tests.test_cli import campaign
from tests.test_nep import needs_library


class TakesFiles(Calculator):  # type: ignore[misc] # ASE has no types
    """An ASE calculator with files among its arguments."""

    def __init__(self, paths: list[str], options: dict[str, str]) -> None:
        super().__init__()
        self.taken = paths, options

    @classmethod
    def of_nothing(cls) -> "TakesFiles":
        return cls([], {})


class Unwilling(Calculator):  # type: ignore[misc] # ASE has no types
    """An ASE calculator that cannot be made, for a reason of its own."""

    def __init__(self) -> None:
        raise KeyError("no model")


HEADER = "nep4 3 B C N\ncutoff 8 4 414 46\nn_max 0 0\nbasis_size 0 0\nl_max 1 0 0\nANN 1 0\n"
NUMBERS = (2 + 2) * 3 + 1 + 9 * 2 + 2
"""Of the smallest model: its network, its functions of pairs, the scales of its two descriptors."""
MODEL = HEADER + NUMBERS * "1.0e-2\n"


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    return tmp_path / "library"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.nep.txt"
    path.write_text(MODEL)
    return path


def test_a_model_that_was_added_is_a_potential(model: Path) -> None:
    added = add_nep(model, "mine", {"graphene": 2.46})
    assert get_potential("mine") == added
    assert potential_names() == (*BUILTIN, "mine")
    assert (added.kind, added.elements, added.pairs) == ("nep", ("B", "C", "N"), ("graphene/graphene",))
    assert potential_files(added)["nep.txt"].read_text() == MODEL
    assert file_hashes(added) == added.files
    check_layers(added, [("B", "N"), ("C",)])


def test_a_change_of_the_library_is_seen_at_once(model: Path) -> None:
    add_nep(model, "mine", {"graphene": 2.46})
    assert add_nep(model, "mine", {"graphene": 2.464}).lattice_constants_A == {"graphene": 2.464}
    assert get_potential("mine").lattice_constants_A == {"graphene": 2.464}


def test_another_model_takes_a_name_only_when_asked(model: Path) -> None:
    before = file_hashes(add_nep(model, "mine", {"graphene": 2.46}))
    model.write_text(MODEL + "other")
    with pytest.raises(SpecError, match="potential is called 'mine'; choose another name, or --replace"):
        add_nep(model, "mine", {"graphene": 2.46})
    assert file_hashes(get_potential("mine")) == before
    assert file_hashes(add_nep(model, "mine", {"graphene": 2.46}, replace=True)) != before


def test_a_calculator_of_the_user_is_not_written_over(model: Path, library: Path) -> None:
    written = library / "mine" / "potential.json"
    written.parent.mkdir(parents=True)
    written.write_text(
        '{"calculator": "ase.calculators.emt.EMT", "elements": ["C"], "lattice_constants_A": {}}'
    )
    with pytest.raises(SpecError, match="another potential is called 'mine'"):
        add_nep(model, "mine", {"graphene": 2.46})
    assert get_potential("mine").kind == "calculator"


def test_the_library_is_named_by_a_whole_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", "here")
    with pytest.raises(ResourceError, match=r"is a relative path: here; give the whole path: /.*/here"):
        get_potential("mine")
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", "~/here")
    assert str(potential_library.library()).startswith("/")


def test_files_of_a_calculator_are_found_wherever_they_are_named(library: Path) -> None:
    folder = library / "mine"
    folder.mkdir(parents=True)
    (folder / "a.model").write_text("")
    facts = {
        "calculator": "tests.test_potential_library.TakesFiles",
        "kwargs": {"paths": ["a.model", "b.model"], "options": {"one": "a.model"}},
        "files": ["a.model"],
        "elements": ["C"],
        "lattice_constants_A": {},
    }
    (folder / "potential.json").write_text(json.dumps(facts))
    made: Any = make_calculator(get_potential("mine"))
    assert made.taken == ([str(folder / "a.model"), "b.model"], {"one": str(folder / "a.model")})


@pytest.mark.parametrize(
    ("calculator", "made"),
    [
        ("ase.calculators.lj.LennardJones", LennardJones),
        ("tests.test_potential_library.TakesFiles.of_nothing", TakesFiles),
        ("no.such.Calculator", "no.such.Calculator cannot be imported: No module named 'no'"),
        ("ase.calculators.no_such.Calculator", "there is no calculator .*no_such"),
        ("ase.calculators.lj.LenardJones", "there is no calculator .*LenardJones"),
        ("collections.OrderedDict", "makes no ASE calculator"),
    ],
)
def test_what_can_make_a_calculator(calculator: str, made: type | str, library: Path) -> None:
    folder = library / "mine"
    folder.mkdir(parents=True)
    facts = {"calculator": calculator, "elements": ["C"], "lattice_constants_A": {}}
    (folder / "potential.json").write_text(json.dumps(facts))
    if isinstance(made, type):
        assert isinstance(make_calculator(get_potential("mine")), made)
        return
    with pytest.raises((EngineNotFoundError, ResourceError), match=made) as caught:
        make_calculator(get_potential("mine"))
    assert str(caught.value.where) == str(folder / "potential.json")


@pytest.mark.parametrize("name", ["", "../mine", "a/b", ".hidden", "-x", "a b", "x" * 65, "tersoff-lj"])
def test_names_that_cannot_be(name: str, model: Path, library: Path) -> None:
    with pytest.raises(SpecError, match=r"name for a potential|name of a potential of LAMMPS"):
        add_nep(model, name, {})
    assert not library.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nep4",
        "nep4 x B",
        "nep4 2 B C N",
        "nep4 3 B C Xy",
        "nep4 0",
        "nep4_dipole 1 C",
        "BNC tersoff 3",
        "nep4 1 -1",
        "nep4 1 X",
        "\x00\xff",
    ],
)
def test_files_that_are_no_models(text: str, model: Path) -> None:
    model.write_bytes(text.encode("latin-1"))
    with pytest.raises(ResourceError, match="not a NEP model"):
        read_elements(model)


def test_damaged_entries_hide_nothing_else(model: Path, library: Path) -> None:
    add_nep(model, "mine", {"graphene": 2.46})
    add_nep(model, "gone", {"graphene": 2.46})
    (library / "gone" / "nep.txt").unlink()
    for number, text in enumerate(("", "[]", '{"elements": []}', json.dumps({"elements": ["C"], "x": 1}))):
        folder = library / f"damaged{number}"
        folder.mkdir()
        (folder / "potential.json").write_text(text)
        with pytest.raises(ResourceError, match=f"damaged{number}/potential.json: not a potential"):
            get_potential(folder.name)
    latin = library / "latin"
    latin.mkdir()
    (latin / "potential.json").write_bytes('{"notes": "in Å"}'.encode("latin-1"))
    with pytest.raises(ResourceError, match=r"latin/potential\.json: not a potential"):
        get_potential("latin")
    for name in ("no name", ".backup", "tersoff-lj"):
        shutil.copytree(library / "mine", library / name)
    assert potential_names().count("tersoff-lj") == 1
    assert not {"no name", ".backup"} & set(potential_names())
    with pytest.raises(ResourceError, match=r"gone/nep\.txt: a file of gone is missing"):
        file_hashes(get_potential("gone"))
    assert get_potential("mine").name == "mine"
    with pytest.raises(SpecError, match=r"potentials that can: .*tersoff-sw-lj, gone, mine"):
        check_layers(get_potential("sw-ilp"), [("B", "N")])


def test_a_slip_in_a_potential_of_the_user_is_named_by_its_key(library: Path) -> None:
    folder = library / "mine"
    folder.mkdir(parents=True)
    right = {"calculator": "ase.calculators.emt.EMT", "elements": ["C"], "lattice_constants_A": {}}
    for key, misspelt in (("lattice_constants_A", "latice_constants_A"), ("calculator", "calculater")):
        facts = {misspelt if name == key else name: value for name, value in right.items()}
        (folder / "potential.json").write_text(json.dumps(facts))
        with pytest.raises(ResourceError) as caught:
            get_potential("mine")
        assert f"not a potential: {key}: is missing; {misspelt}: is no key here" in str(caught.value)
        assert "potentials add" not in str(caught.value)
    (folder / "potential.json").write_text(json.dumps(right | {"calculator": "EMT", "elements": "C"}))
    with pytest.raises(ResourceError, match=r"calculator: should be a name in .*elements: should be a list"):
        get_potential("mine")


def test_models_of_single_layers_are_for_no_pair(model: Path) -> None:
    potential = add_nep(model, "flat", {"graphene": 2.46}, monolayers_only=True)
    assert potential.pairs == ()
    check_layers(potential, [("C",)])
    with pytest.raises(SpecError, match="flat is made for single layers; potentials that can: tersoff-lj"):
        check_layers(potential, [("C",), ("C",)])


def test_a_model_has_a_type_for_each_element_in_lammps(model: Path) -> None:
    lines = lammps_model(add_nep(model, "mine", {}), [[Species("C")], [Species("C")]])
    assert [kind.element for kind in lines.types] == ["C"]
    assert lines.type_of("C", 1) == 1
    assert any("external" in line for line in lines.pair_lines)


def test_half_a_model_is_told_before_anything_reads_it(model: Path, tmp_path: Path, library: Path) -> None:
    check_whole(model)
    lines = MODEL.splitlines(keepends=True)
    for kept, words in ((-1, f"{NUMBERS - 1} of {NUMBERS} numbers"), (4, "its header lacks l_max, ANN")):
        model.write_text("".join(lines[:kept]))
        done = campaign("potentials", "add", str(model), "--lattice", "graphene=2.46", cwd=tmp_path)
        assert done.returncode == 3
        assert f"{model}: not a whole NEP model: {words}" in done.stderr
    assert not (library / "mine").exists()


@needs_library
def test_half_a_model_is_told(model: Path) -> None:
    model.write_text(HEADER)
    with pytest.raises(ResourceError, match=r"mine\.nep\.txt: not a whole NEP model"):
        relaxed_lattice_constant(model, "graphene")


@needs_library
@needs_reference
@pytest.mark.parametrize("published", PUBLISHED.values(), ids=PUBLISHED)
def test_lattice_constants_of_the_published_models(published: PublishedModel) -> None:
    path = REFERENCE / "nep" / f"{published.name.removeprefix('nep-')}.nep.txt"
    assert file_sha256(path) == published.sha256
    assert read_elements(path) == published.elements
    materials = relaxable_materials(published.elements)
    assert materials == tuple(published.lattice_constants_A)
    for material in materials:
        expected = pytest.approx(published.lattice_constants_A[material], abs=1e-4)
        assert relaxed_lattice_constant(path, material) == expected


# --- commands ---


@pytest.mark.parametrize(("name", "told"), [("a b", "no name"), ("mine", "potential is called 'mine'")])
def test_a_name_is_refused_before_a_monolayer_is_relaxed(
    name: str, told: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_nep(model, "mine", {"graphene": 2.46})
    model.write_text(MODEL + "other")
    monkeypatch.setattr("campaign.cli.potentials.relaxed_lattice_constant", None)
    done = campaign("potentials", "add", str(model), "--name", name, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr


def test_json_that_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    done = campaign("potentials", "--json", "show", "sw-ilp", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json before show has no effect; for one potential: campaign potentials show" in done.stderr


def test_what_is_there_is_shown(tmp_path: Path, model: Path) -> None:
    assert (
        campaign("potentials", "add", str(model), "--lattice", "graphene=2.46", cwd=tmp_path).returncode == 0
    )
    records = {one["name"]: one for one in json.loads(campaign("potentials", "--json", cwd=tmp_path).stdout)}
    assert set(records) == {*BUILTIN, *PUBLISHED, "mine"}
    assert records["mine"]["state"] == records["sw-ilp"]["state"] == "installed"
    assert records["nep-gr-hbn"]["state"] == "not here: `campaign potentials fetch nep-gr-hbn`"
    assert "graphene/mos2" in records["tersoff-sw-lj"]["pairs"]
    shown = campaign("potentials", "show", "sw-ilp", cwd=tmp_path).stdout
    assert "pair_coeff * * ilp/tmd/opt TMD.ILP Mo S S Mo Se Se" in shown  # the sides of a layer are two types
    assert all(
        text in shown
        for text in ("Acta Mech. Solida Sin.", "mos2 3.1175 A", BUILTIN["sw-ilp"].files["TMD.ILP"])
    )


def test_a_lattice_constant_can_be_added_to_those_that_are_known(tmp_path: Path, model: Path) -> None:
    for number, given in enumerate(("graphene=2.46", "hbn=2.5", "graphene=2.47")):
        arguments = ("add", str(model), "--name", "mine", "--lattice", given)
        assert campaign("potentials", *arguments, cwd=tmp_path).returncode == 0, number
    assert get_potential("mine").lattice_constants_A == {"graphene": 2.47, "hbn": 2.5}
    done = campaign("potentials", "add", str(model), "--name", "mine", "--lattice", "bn2=2.6", cwd=tmp_path)
    assert "bn2 is known to a spec that defines it" in done.stderr


def test_a_damaged_entry_is_written_anew(tmp_path: Path, model: Path, library: Path) -> None:
    add_nep(model, "mine", {"graphene": 2.46})
    (library / "mine" / "potential.json").write_text("{")
    with pytest.raises(ResourceError, match="`campaign potentials add` writes it anew"):
        get_potential("mine")
    arguments = ("add", str(model), "--name", "mine", "--lattice", "graphene=2.47")
    assert campaign("potentials", *arguments, cwd=tmp_path).returncode == 0
    assert get_potential("mine").lattice_constants_A == {"graphene": 2.47}


def test_files_of_the_users_own_are_told_from_those_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    shutil.copy(potential_files(get_potential("tersoff-lj"))["BNC.tersoff"], changed)
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(changed))
    assert "not the files" not in campaign("potentials", cwd=tmp_path).stdout
    with (changed / "BNC.tersoff").open("a") as file:
        file.write("# mine\n")
    shown = campaign("potentials", "show", "tersoff-ilp", cwd=tmp_path).stdout
    assert "installed, but not the files described here: BNC.tersoff" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", "absent.txt"), 3, "there is no such file"),
        (("add", "nep.txt", "--lattice", "graphene=2.46"), 2, "nep.txt: the file's name says nothing"),
        (("add", "nep.txt", "--name", "x", "--lattice", "graphene"), 2, "write MATERIAL=ANGSTROM"),
        (("add", "nep.txt", "--name", "x", "--lattice", "graphene=-1"), 2, "'graphene=-1' is no lattice"),
        (("add", "nep.txt", "--name", "x", "--lattice", "mos2=3.2"), 2, "the model of B C N has no mos2"),
        (
            ("add", "nep.txt", "--name", "x", "--lattice", "hbn=25.04"),
            2,
            "25.04 A is not the lattice constant",
        ),
        (("show", "tersof-lj"), 2, "did you mean 'tersoff-lj'"),
        (("fetch", "nep-gr"), 2, "known are: nep-gr-hbn, nep-mos2"),
        (("fetch", "nep-gr-hbn", "--url", "nep.txt"), 2, "nep.txt: is no address; give all of it"),
        (("fetch", "nep-gr-hbn", "--url", "ftp://nep.txt"), 2, "ftp://nep.txt: is no address"),
    ],
)
def test_slips_are_one_line(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, model: Path
) -> None:
    model.rename(tmp_path / "nep.txt")
    done = campaign("potentials", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_reference
@pytest.mark.parametrize("name", ["gr-hbn", "mos2", "ws2", "wse2"])
def test_a_real_model_is_whole_and_without_its_last_line_it_is_not(name: str, tmp_path: Path) -> None:
    path = REFERENCE / "nep" / f"{name}.nep.txt"
    check_whole(path)
    half = tmp_path / "half"
    half.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ResourceError, match=r"of .* numbers"):
        check_whole(half)


@needs_reference
def test_a_published_model_is_known_by_its_hash(tmp_path: Path) -> None:
    path = REFERENCE / "nep" / "mos2.nep.txt"
    assert campaign("potentials", "add", str(path), "--name", "own", cwd=tmp_path).returncode == 0
    own = get_potential("own")
    assert own.monolayers_only
    assert own.lattice_constants_A == PUBLISHED["nep-mos2"].lattice_constants_A


def test_a_missing_library_of_nep_models_is_told_by_plan_and_stops_a_run_before_it_begins(
    tmp_path: Path, model: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_nep(model, "mine", {"graphene": 2.46, "hbn": 2.5})
    monkeypatch.setenv("CAMPAIGN_NEP", "absent")
    with (library / "mine" / "nep.txt").open("a") as file:
        file.write("1.0\n")
    text = small_spec("c", 5, "seed: {count: 1}").replace("tersoff-lj", "mine")
    (tmp_path / "spec.yaml").write_text(text)
    words = "CAMPAIGN_NEP=absent names no library for NEP models"
    done = campaign("plan", "spec.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert words in done.stderr
    assert "nep.txt of mine is not the file described here" in done.stderr
    done = campaign("run", "spec.yaml", cwd=tmp_path)
    assert done.returncode == 3
    assert words in done.stderr
    assert not (tmp_path / "campaigns").exists()


def test_a_calculator_that_cannot_be_made_stops_a_run_before_it_begins(tmp_path: Path, library: Path) -> None:
    folder = library / "mine"
    folder.mkdir(parents=True)
    facts = {
        "calculator": "ase.calculators.lj.LennardJones",
        "elements": ["B", "C", "N"],
        "lattice_constants_A": {"graphene": 2.46, "hbn": 2.5},
    }
    text = small_spec("c", 5, "seed: {count: 1}").replace("tersoff-lj", "mine")
    (tmp_path / "spec.yaml").write_text(text.replace("    settings:", "    engine: ase\n    settings:"))
    for change, words in (
        ({"calculator": "ase.calculators.tersoff.Tersoff"}, "does not take its kwargs"),
        ({"calculator": "tests.test_potential_library.Unwilling"}, "cannot be made: KeyError: 'no model'"),
        ({"calculator": "tests.test_potential_library.TakesFiles.of_nothing"}, "gives no energy"),
    ):
        (folder / "potential.json").write_text(json.dumps(facts | change))
        done = campaign("plan", "spec.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert words in done.stderr
        done = campaign("run", "spec.yaml", cwd=tmp_path)
        assert done.returncode in {2, 3}, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "campaigns").exists()
