"""Fetching a model from a server that drops connections, has another file, or nothing at all."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest

from campaign.errors import ResourceError, SpecError
from campaign.potentials import file_hashes, get_potential
from campaign.potentials.fetch import RETRIES, fetch
from campaign.potentials.published import PUBLISHED

MODEL = ("nep4 3 B C N\n" + "0.123456789\n" * 10_000).encode()
NAME = "nep-gr-hbn"


@dataclass
class Server:
    """What the server does, and what it was asked for."""

    url: str = ""
    data: bytes = MODEL
    status: int = 200
    knows_ranges: bool = True
    bytes_per_answer: int = len(MODEL)
    ranges: list[int] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            behaviour.ranges.append(asked)
            first = asked if behaviour.knows_ranges else 0
            status = 206 if first and behaviour.status == 200 else behaviour.status
            body = behaviour.data[first:]
            self.send_response(416 if first and not body else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: behaviour.bytes_per_answer])  # and the connection ends

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    behaviour.url = f"http://127.0.0.1:{http.server_port}/nep.txt"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield behaviour
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty library, a published model that is small, and no waiting between tries."""
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model = replace(PUBLISHED[NAME], sha256=hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr("campaign.potentials.fetch.PUBLISHED", {NAME: model})
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda _: None))
    return tmp_path


def left_over(library: Path) -> list[str]:
    return sorted(path.name for path in (library / ".fetched").iterdir())


def test_a_model_is_fetched_with_all_that_is_known_about_it(server: Server, library: Path) -> None:
    potential = fetch(NAME, server.url)
    assert get_potential(NAME) == potential
    assert file_hashes(potential) == {"nep.txt": hashlib.sha256(MODEL).hexdigest()}
    assert potential.lattice_constants_A == PUBLISHED[NAME].lattice_constants_A
    assert PUBLISHED[NAME].citation in potential.citations
    assert server.ranges == [0]
    assert left_over(library) == []
    facts = library / NAME / "potential.json"
    written = facts.read_text()
    facts.write_text(written.replace('"graphene": ', '"mine": 3.0, "graphene": '))
    assert fetch(NAME, server.url).lattice_constants_A == {"mine": 3.0, **potential.lattice_constants_A}
    facts.write_text("{")
    assert fetch(NAME, server.url) == potential  # which it has: nothing is asked again
    assert server.ranges == [0]


def test_a_download_goes_on_where_it_broke_off_also_on_another_day(server: Server, library: Path) -> None:
    server.bytes_per_answer = len(MODEL) // 5
    with pytest.raises(ResourceError, match="the connection broke; try again, it goes on where it stopped"):
        fetch(NAME, server.url)
    assert len(server.ranges) == 1 + RETRIES
    fetch(NAME, server.url)
    assert server.ranges == sorted(server.ranges)
    kept = [later - earlier for earlier, later in zip(server.ranges, server.ranges[1:], strict=False)]
    assert min(kept) > server.bytes_per_answer - 5000
    assert (library / NAME / "nep.txt").read_bytes() == MODEL
    assert left_over(library) == []


def test_a_server_without_ranges_sends_all_again(server: Server) -> None:
    server.bytes_per_answer = len(MODEL) // 5
    with pytest.raises(ResourceError):
        fetch(NAME, server.url)
    server.bytes_per_answer, server.knows_ranges = len(MODEL), False
    fetch(NAME, server.url)
    assert server.ranges[-1] > 0


@pytest.mark.parametrize("data", [b"nep4 1 C\n", MODEL + b"more"])
def test_another_file_is_refused(data: bytes, server: Server, library: Path) -> None:
    server.data = data
    server.bytes_per_answer = len(data)
    with pytest.raises(ResourceError, match="has another file than nep-gr-hbn, whose SHA-256 is"):
        fetch(NAME, server.url)
    assert left_over(library) == []
    with pytest.raises(SpecError, match=f"campaign potentials fetch {NAME}"):
        get_potential(NAME)


def test_a_part_of_another_file_is_not_gone_on_from(server: Server, library: Path) -> None:
    server.data, server.bytes_per_answer = b"x" * (2 * len(MODEL)), len(MODEL) + 1000
    with pytest.raises(ResourceError):
        fetch(NAME, server.url)
    server.data, server.bytes_per_answer = MODEL, len(MODEL)
    fetch(NAME, server.url)
    assert left_over(library) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (503, 1 + RETRIES)])
def test_a_server_that_does_not_have_it(status: int, tries: int, server: Server) -> None:
    server.status = status
    with pytest.raises(ResourceError, match=str(status)):
        fetch(NAME, server.url)
    assert len(server.ranges) == tries


def test_no_server_is_told_shortly() -> None:
    with pytest.raises(ResourceError, match="Connection refused; try again") as caught:
        fetch(NAME, "http://127.0.0.1:1/nep.txt")
    assert len(str(caught.value)) < 250


def test_a_name_that_is_taken_is_told_before_anything_is_fetched(server: Server, library: Path) -> None:
    other = library / NAME / "nep.txt"
    other.parent.mkdir(parents=True)
    other.write_text("nep4 1 C\n")
    with pytest.raises(SpecError, match=f"another potential of the name {NAME}; remove it"):
        fetch(NAME, server.url)
    assert server.ranges == []
