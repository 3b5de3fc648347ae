"""A YAML 1.2 file as plain data that remembers where everything stands, and the errors found in it.

A *path* is the way to a value: keys and list indices, such as ``("calculations", "nemd", "axes", "seed")``.
"""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from campaign.errors import Location, SpecError

Path_ = tuple[str | int, ...]

MAX_PROBLEMS = 10
"""More errors than these are counted, not listed."""

MAX_NODES = 100_000
"""Values of a spec, with aliases written out: nine lines of nested aliases can stand for 10^9."""

MAX_DEPTH = 50
"""Mappings and lists inside each other; an alias can even contain itself."""


class Document:
    """One YAML file.

    Attributes
    ----------
    source
        The file, as the user named it.
    text
        Its text.
    data
        Plain dicts, lists and scalars.
    """

    def __init__(self, source: Path, text: str) -> None:
        """Parse ``text``.

        Raises
        ------
        SpecError
            It is no YAML 1.2, has a key twice, a key that is no text, or too many values.
        """
        self.source = source
        self.text = text
        self._values: dict[Path_, tuple[int, int]] = {(): (1, 1)}
        self._keys: dict[Path_, tuple[int, int]] = {}
        self._nodes = 0
        self.data: Any = self._plain(_parsed(source, text), ())

    def holds(self, path: Iterable[str | int]) -> bool:
        """Whether the file itself has a value at ``path``."""
        return tuple(path) in self._values

    def locate(self, path: Iterable[str | int], *, key: bool = False) -> Location:
        """Where a value (or its key) stands; for a path that is not there, the nearest key above it."""
        full = tuple(path)
        while full not in self._values:
            # The value above starts at its first entry, which has nothing to do with the one that is missing.
            full, key = full[:-1], True
        return Location(self.source, *(self._keys.get(full) if key else None) or self._values[full])

    def _plain(self, node: Any, path: Path_) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            message = f"more than {MAX_NODES:,} values, counting each use of an alias"
            raise SpecError(message, where=self.locate(path), hint="use axes for large ensembles")
        if len(path) > MAX_DEPTH:
            raise SpecError("nested too deeply", where=self.locate(path))
        if isinstance(node, dict):
            return dict(self._entries(node, path))
        if isinstance(node, list):
            marks: dict[int, Any] = getattr(node, "lc").data or {}  # noqa: B009 - ruamel's types are not seen here
            for index, mark in marks.items():
                self._values[*path, index] = (mark[0] + 1, mark[1] + 1)
            return [self._plain(item, (*path, i)) for i, item in enumerate(node)]
        return _scalar(node)

    def _entries(self, node: Any, path: Path_) -> Iterator[tuple[str, Any]]:
        for key, mark in (node.lc.data or {}).items():
            self._keys[*path, key] = (mark[0] + 1, mark[1] + 1)
            self._values[*path, key] = (mark[2] + 1, mark[3] + 1)
        for key, value in node.items():
            if not isinstance(key, str):
                where = self.locate((*path, key), key=True)
                raise SpecError(f"the key {key!r} is not text", where=where, hint="put it in quotes")
            yield str(key), self._plain(value, (*path, str(key)))


def read_document(source: Path) -> Document:
    """Read and parse a file.

    Raises
    ------
    SpecError
        It cannot be read, or is no YAML 1.2.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            "no such file", where=Location(source), hint="`campaign init` writes a template"
        ) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=Location(source)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SpecError("is not UTF-8 text", where=Location(source, line)) from None
    return Document(source, text)


def _parsed(source: Path, text: str) -> Any:
    # Imported late: the names of runs are matched with this module's help, and that must start at once.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        return YAML(typ="rt", pure=True).load(text)
    except RecursionError:
        raise SpecError("nested too deeply", where=Location(source)) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Location(source) if mark is None else Location(source, mark.line + 1, mark.column + 1)
        problem = str(error.problem or error.context).split(" with value ")[0]
        if problem == "but found another document":
            problem = "only one YAML document is allowed"
        hint = "give each key once" if "duplicate key" in problem else "the file is no valid YAML 1.2 here"
        raise SpecError(problem, where=where, hint=hint) from None
    except ReaderError as error:
        before = text[: error.position].split("\n")
        where = Location(source, len(before), len(before[-1]) + 1)
        raise SpecError("a character that YAML does not allow", where=where) from None
    except (YAMLError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise SpecError(f"the file is no valid YAML 1.2: {problem}", where=Location(source)) from None


def _scalar(node: Any) -> Any:
    """Plain Python in place of ruamel's types, which remember how a number was written."""
    from ruamel.yaml.scalarbool import ScalarBoolean  # imported late, as above

    if node is None or isinstance(node, bool):
        return node
    # A boolean with an anchor is an int of ruamel's.
    for kind, plain in ((ScalarBoolean, bool), (int, int), (float, float)):
        if isinstance(node, kind):
            return plain(node)
    # Dates and unknown tags have no place in a spec; as text they are refused where a number is wanted.
    return str(getattr(node, "value", node))


class Problems:
    """Errors of one file, collected so that a user sees them together.

    Each is one line ``file:line:column: message; hint``.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[tuple[Location, str], tuple[str, str | None]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self,
        path: Iterable[str | int],
        message: str,
        *,
        hint: str | None = None,
        key: bool = False,
        context: str = "",
    ) -> None:
        """Note an error at the value (or the key) of ``path``; the same counts once, in its first context."""
        self._found.setdefault((self._document.locate(path, key=key), message), (context, hint))

    def check(self) -> None:
        """Raise all that was noted as one error.

        Raises
        ------
        SpecError
            ``where`` is the place of the first; the others follow, one line each.
        """
        if not self._found:
            return
        ordered = [
            SpecError(f"{message}{context}", where=where, hint=hint)
            for (where, message), (context, hint) in self._found.items()
        ]
        ordered.sort(key=_place)
        first = ordered[0]
        if len(ordered) == 1:
            raise first
        lines = [first.message if first.hint is None else f"{first.message}; {first.hint}"]
        lines += [str(error) for error in ordered[1:MAX_PROBLEMS]]
        if len(ordered) > MAX_PROBLEMS:
            lines.append(f"... and {len(ordered) - MAX_PROBLEMS} more errors")
        raise SpecError("\n".join(lines), where=first.where)


def _place(error: SpecError) -> tuple[int, int]:
    where = error.where
    return (where.line or 0, where.column or 0) if isinstance(where, Location) else (0, 0)


def _plain(name: str) -> str:
    """Make a name as it is written here: h-BN is hbn, AA' is AAp."""
    return "".join(letter for letter in name.replace("'", "p").casefold() if letter.isalnum())


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Hint for a name that is not known: the nearest one, or all if they are few."""
    options = sorted(set(known))
    near = [option for option in options if _plain(option) == _plain(name)] or difflib.get_close_matches(
        name, options, n=1, cutoff=0.6
    )
    longer = [option for option in options if len(name) > 2 and option.startswith(name)]
    if not near and len(longer) == 1:
        near = longer
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are: {', '.join(options)}" if 0 < len(options) <= 8 else None
