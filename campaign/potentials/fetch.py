"""Published NEP models, fetched into the user's library: hash checked, tried again, resumed."""

from pathlib import Path
from typing import Any

from campaign.errors import ResourceError, SpecError
from campaign.potentials.library import NEP_FILE, add_model, is_another, library, model_folder, own_potential
from campaign.potentials.potential import Potential
from campaign.potentials.published import PUBLISHED

RETRIES = 2
_TIMEOUT_S = 30
_FINAL = (401, 403, 404, 410)
"""Answers that will not change when the same is asked again."""

_CHUNK_BYTES = 4096
"""What is lost of a connection that breaks, at most."""


def fetch(name: str, url: str | None = None) -> Potential:
    """Fetch a published model, and put it into the library; where that has it, nothing is asked of a server.

    What arrived before a broken connection is kept: the next try, also one of another day, asks for the rest.

    Parameters
    ----------
    name
        One of `PUBLISHED`.
    url
        Another place that has the same file; its hash is checked all the same.

    Raises
    ------
    SpecError
        There is no published model of that name, the library has another one of it, or ``url`` is none.
    ResourceError
        It cannot be fetched, or what comes is another file.
    """
    import pooch
    import requests

    if name not in PUBLISHED:
        raise SpecError(f"no published model is called {name!r}", hint=f"known are: {', '.join(PUBLISHED)}")
    model = PUBLISHED[name]
    if is_another(name, model.sha256):
        raise SpecError(
            f"the library has another potential of the name {name}",
            where=str(model_folder(name)),
            hint="remove it, or get the file yourself and `campaign potentials add FILE --name OTHER`",
        )
    have = model_folder(name) / NEP_FILE
    if have.is_file():
        try:
            return own_potential(name)  # with lattice constants that were added to it
        except (ResourceError, FileNotFoundError):
            return add_model(have, name, model.facts())
    address = url or model.url
    place = library() / ".fetched"
    file = f"{model.sha256}.nep.txt"
    cache = pooch.create(
        place, base_url="", registry={file: model.sha256}, urls={file: address}, retry_if_failed=RETRIES
    )
    elsewhere = f"get the file yourself and `campaign potentials add FILE --name {name}`"
    pooch.get_logger().setLevel("WARNING")  # what it does is told here
    try:
        path = Path(cache.fetch(file, downloader=_Resuming(place / f"{file}.part")))
    except (
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
    ) as error:
        raise SpecError("is no address", where=address, hint="give all of it: https://...") from error
    except requests.RequestException as error:
        hint = f"try again, it goes on where it stopped; or {elsewhere}"
        raise ResourceError(f"cannot be fetched: {_reason(error)}", where=address, hint=hint) from error
    except ValueError as error:
        message = f"has another file than {model.name}, whose SHA-256 is {model.sha256}"
        raise ResourceError(message, where=address, hint=elsewhere) from error
    potential = add_model(path, name, model.facts())
    path.unlink()
    return potential


def _reason(error: Exception) -> str:
    """Say what went wrong, without the names of five classes around it."""
    import requests

    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    text = " ".join(str(error).split())
    if isinstance(error, requests.ConnectionError):
        return text.removesuffix('"))').rpartition(": ")[2]
    return text


class _Resuming:
    """A downloader for pooch that keeps what has come and asks for the rest (HTTP Range, RFC 9110)."""

    def __init__(self, part: Path) -> None:
        self._part = part

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        """Get a file; pooch calls it again after a connection error."""
        import requests

        have = self._part.stat().st_size if self._part.exists() else 0
        # A compressed answer could not be continued.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
            if answer.status_code == requests.codes.range_not_satisfiable:
                self._part.unlink()  # it is of another file; the next try begins anew
            elif answer.status_code in _FINAL:
                raise ResourceError(
                    f"the server says {answer.status_code} {answer.reason}",
                    where=url,
                    hint="name another place with --url, or get the file and `campaign potentials add` it",
                )
            answer.raise_for_status()
            # A server that knows no ranges sends all of it again.
            mode = "ab" if answer.status_code == requests.codes.partial_content else "wb"
            with self._part.open(mode) as file:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
        self._part.replace(output_file)
