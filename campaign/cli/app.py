"""Commands, and the one place where an error becomes a line on stderr and an exit code.

Data goes to stdout, progress and messages to stderr. Heavy modules are imported inside the commands, so that
``campaign --help`` and ``campaign status`` answer at once.
"""

import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from campaign.cli.directory import read_identity
from campaign.errors import CampaignError, ExitCode, LedgerError, Location, ResourceError, SpecError
from campaign.layout import Layout

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Ensembles of molecular-dynamics calculations: one YAML spec in, labelled data out.\n\n"
    "Exit codes: 0 done, 1 some runs failed, 2 wrong spec or command, 3 an engine or resource is missing, "
    "4 another driver holds the campaign, 70 a bug of ours, 130 interrupted.",
)


class _Console(Console):
    """A console that falls silent when its reader has gone; without emoji, or :100: of a line is one."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)

    def on_broken_pipe(self) -> None:
        """Let the command go on: nothing is wrong with `campaign status | head`."""
        self.quiet = True
        # The stream still holds what it could not write, and writes it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = _Console()
err = _Console(stderr=True)

NODE_WAIT_S = 120

TRACEBACK = "CAMPAIGN_TRACEBACK"
"""Environment variable: if it is set, tracebacks are shown."""

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The campaign's YAML file.", show_default=False)
]
DirectoryArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIR]",
        help="Directory of the campaign; default: this one, or the only one in campaigns/.",
        show_default=False,
    ),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        help="The campaign's directory; default campaigns/NAME, as the spec says.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
SiteOption = Annotated[
    str | None,
    typer.Option(
        "--site",
        help="A cluster: the name of one of your sites, or a site file. Default: this machine.",
        show_default=False,
    ),
]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Go on without asking, also beyond the stated limits.")
]


def main() -> None:
    """Run the command line; no traceback reaches a user for a mistake of theirs."""
    # Warnings go through the console that shows live progress, so that neither garbles the other.
    handler = RichHandler(logging.WARNING, console=err, show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        app(standalone_mode=True)
    except CampaignError as error:
        # An error in a file starts with the file's name, as editors want it.
        prefix = "" if isinstance(error.where, Location) else "campaign: "
        _end(f"{prefix}{error}", error.exit_code)
    except OSError as error:
        place = error.filename2 or error.filename
        where = "" if place is None else f"{place}: "
        _end(f"campaign: {where}{error.strerror or error}", ExitCode.RESOURCE)
    except Exception as error:  # a bug of ours, with an exit code that tells it from failed runs
        what = " ".join(f"{type(error).__name__}: {error}".split())
        hint = f"what was finished is kept; set {TRACEBACK}=1 to see where it happened"
        _end(f"campaign: this is a bug of campaign: {what}; {hint}", ExitCode.INTERNAL)


def _end(message: str, code: int) -> NoReturn:
    """Print the message of the exception that is being handled, and end."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    err.print(message, style="red", markup=False)
    raise SystemExit(code) from None


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        from campaign import __version__

        out.print(__version__)
        raise typer.Exit


def campaign_layout(directory: Path | None) -> Layout:
    """Layout of an existing campaign, found where a user would expect it, in a format that we know."""
    layout = find_campaign(directory)
    read_identity(layout)
    return layout


def find_campaign(directory: Path | None) -> Layout:
    """Layout of an existing campaign, whatever its format is."""
    if directory is None:
        candidates = _campaigns_here()
        if not candidates:
            raise LedgerError(
                "no campaign here, nor in campaigns/", hint="name its directory, for `retry` with --dir"
            )
        if len(candidates) > 1:
            names = ", ".join(sorted(str(path) for path in candidates))
            hint = f"name its directory, for `retry` with --dir; found: {names}"
            raise LedgerError("it is not clear which campaign", hint=hint)
        (directory,) = candidates
    layout = Layout(directory)
    if not layout.identity.exists():
        raise LedgerError(
            "no campaign here", where=str(directory), hint="`campaign run SPEC --dir DIR` makes one"
        )
    return layout


def _campaigns_here() -> list[Path]:
    if Path("campaign.json").exists():
        return [Path()]
    return [path.parent for path in Path("campaigns").glob("*/campaign.json")]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say which file of the user's cannot be written, and not which temporary one beside it."""
    if path.is_dir():
        raise SpecError("is a directory", where=str(path), hint="name a file")
    try:
        yield
    except OSError as error:
        message = f"cannot be written: {error.strerror or error}"
        raise ResourceError(message, where=str(path), hint="choose another place") from None


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("campaign.yaml"),
) -> None:
    """Write a commented template of a spec."""
    from campaign.cli.specs import write_template

    with _writing(path):
        write_template(path)


@app.command()
def check(spec: SpecArgument, yes: YesOption = False, json_: JsonOption = False) -> None:
    """Check a spec; nothing is run.

    Every error is told with its line and column.
    """
    from campaign.cli.specs import check_spec

    check_spec(spec, yes=yes, as_json=json_)


@app.command()
def plan(
    spec: SpecArgument,
    directory: DirectoryOption = None,
    site: SiteOption = None,
    yes: YesOption = False,
    json_: JsonOption = False,
) -> None:
    """Show what would run, and what it costs.

    Also what is reused, and why the rest is not; with --site the jobs, too. Nothing is run.
    """
    from campaign.cli.specs import plan_spec

    plan_spec(spec, directory, site=site, yes=yes, as_json=json_)


@app.command()
def run(  # noqa: PLR0917 - one parameter for each option
    spec: SpecArgument,
    directory: DirectoryOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: cores / threads.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each run; default: 1.", show_default=False)
    ] = None,
    site: SiteOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Put the driver into a job of the --site, and return.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    yes: YesOption = False,
    json_: JsonOption = False,
) -> None:
    """Make or continue a campaign.

    Runs what is missing, then shows the result and writes the report.
    """
    from campaign.cli.run import Options, run_spec
    from campaign.cli.specs import plan_spec

    if site is not None and (workers or threads):
        raise SpecError("--workers and --threads are for this machine", hint="the site says both")
    if dry_run:
        plan_spec(spec, directory, site=site, yes=yes, as_json=json_)
        return
    cores = len(os.sched_getaffinity(0))
    if (workers or 1) * (threads or 1) > cores:
        from campaign.cli.text import plural

        what = f"{plural(workers or 1, 'worker')} of {plural(threads or 1, 'thread')}"
        err.print(f"campaign: {what} on {plural(cores, 'core')}: slow", style="yellow", markup=False)
    options = Options(workers=workers, threads=threads, site=site, yes=yes, as_json=json_, detach=detach)
    raise typer.Exit(run_spec(spec, directory, options))


@app.command(hidden=True)
def drive(
    directory: Annotated[Path, typer.Argument(help="The campaign's directory.")],
    site: Annotated[str, typer.Option(help="Name or file of the site.")],
) -> None:
    """Drive a campaign in a job; `campaign run --detach` submits it."""
    from campaign.cli.detach import drive

    raise typer.Exit(drive(directory, site))


@app.command()
def status(directory: DirectoryArgument = None, json_: JsonOption = False) -> None:
    """Show the states of all runs, and the failures.

    The states are shown as a grid, the failures by class.
    """
    from campaign.cli.inspection import show_status

    show_status(campaign_layout(directory), as_json=json_)


@app.command()
def watch(directory: DirectoryArgument = None) -> None:
    """Show a running campaign, live.

    States, speeds, jobs, failures, the time left, and the results so far. Ctrl-C ends the view only.
    """
    from campaign.cli.watch import watch

    watch(campaign_layout(directory))


@app.command()
def why(
    run_: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run, or labels: direction=forward,seed=2.")
    ],
    directory: DirectoryArgument = None,
    json_: JsonOption = False,
) -> None:
    """Tell all about one run.

    Its settings and attempts, where and how long they ran, the error, the log, and what to type next.
    """
    from campaign.cli.inspection import show_why

    show_why(campaign_layout(directory), run_, as_json=json_)


@app.command()
def retry(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT...",
            help="A failure class ('lost worker'), labels (seed=3), a run, a stage, 'all', or 'gone'.",
        ),
    ],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The campaign's directory.", show_default=False)
    ] = None,
) -> None:
    """Ask for failed runs to be tried again.

    What is held back for these failures goes on too. A running driver does it at once, else the next
    `campaign run`. 'gone' are finished stages that were taken from the disk, also where nothing needs them.
    """
    from campaign.cli.requests import request_retry

    request_retry(campaign_layout(directory), what)


@app.command()
def stop(
    directory: DirectoryArgument = None,
    wait: Annotated[bool, typer.Option(help="Wait until the driver has ended.")] = True,
) -> None:
    """Ask the running driver to end.

    What is finished is kept; `campaign run` goes on from there.
    """
    from campaign.cli.requests import request_stop

    request_stop(campaign_layout(directory), wait=wait)


@app.command()
def report(directory: DirectoryArgument = None) -> None:
    """Write the HTML report, and print its path.

    It shows what there is so far.
    """
    layout = campaign_layout(directory)
    last = ""
    if layout.report.exists():
        from campaign.cli.text import ago

        last = f"; the last one is of {ago(time.time() - layout.report.stat().st_mtime)}"
    err.print(f"writing {layout.report} of what there is now{last}", markup=False)
    from campaign.report import write_report

    with _writing(layout.report):
        written = write_report(layout.root)
    out.print(str(written), markup=False)


@app.command()
def schema(
    path: Annotated[
        Path | None, typer.Argument(help="File to write; default: stdout.", show_default=False)
    ] = None,
) -> None:
    """Write the JSON Schema of specs, for editors.

    A file that is there is replaced.
    """
    from campaign.cli.specs import write_schema

    if path is None:
        write_schema(None)
        return
    with _writing(path):
        write_schema(path)


@app.command()
def doctor(
    directory: DirectoryArgument = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file of every stage, and compare its hash.")
    ] = False,
    site: SiteOption = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help=f"Longest wait for a node of the --site; default: {NODE_WAIT_S}.",
            show_default=False,
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Check this machine, and a campaign's directory; or a cluster.

    One line for each check, and what to do about it. Nothing is changed. With --site each resource of the
    cluster gets one job of at most two minutes.
    """
    if site is not None:
        if directory is not None or verify:
            raise SpecError("--site checks a cluster", hint="check a campaign's directory without it")
        from campaign.cli.doctor_site import examine_site

        raise typer.Exit(examine_site(site, wait_s=wait or NODE_WAIT_S, as_json=json_))
    if wait is not None:
        raise SpecError("--wait is for the nodes of a --site", hint="name one, or leave it out")
    from campaign.cli.doctor import examine

    if verify:
        directory = find_campaign(directory).root
    elif directory is None:
        candidates = _campaigns_here()
        directory = candidates[0] if len(candidates) == 1 else None
    raise typer.Exit(examine(directory, verify=verify, as_json=json_))


@app.command()
def rebuild(directory: DirectoryArgument = None, json_: JsonOption = False) -> None:
    """Make ledger and store again from the committed stages.

    Every file is compared with its hash; damaged stages are set aside. The old ledger and store are kept in
    set-aside/. Only the history of failed attempts is lost.
    """
    from campaign.cli.maintenance import rebuild_campaign

    raise typer.Exit(rebuild_campaign(campaign_layout(directory), as_json=json_))


@app.command()
def gc(
    directory: DirectoryArgument = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GROUP", help="Only this group; may be repeated.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what nothing needs any more, and what it would cost to make again.

    Stages that no run uses, leftovers of dead attempts, restarts of finished stages. Removed only with --yes.
    """
    from campaign.cli.maintenance import collect

    collect(campaign_layout(directory), only or [], yes=yes, as_json=json_)


potentials = typer.Typer(help="Interatomic potentials: show them, add your own NEP models.")
app.add_typer(potentials, name="potentials", invoke_without_command=True)


@potentials.callback()
def list_potentials(context: typer.Context, json_: JsonOption = False) -> None:
    """Show all potentials: what each is for, and whether its files are here."""
    if context.invoked_subcommand is not None and json_:
        message = f"--json before {context.invoked_subcommand} has no effect"
        raise SpecError(message, hint="for one potential: campaign potentials show NAME --json")
    if context.invoked_subcommand is None:
        from campaign.cli.potentials import show_potentials

        show_potentials(as_json=json_)


@potentials.command("show")
def show_potential(
    name: Annotated[str, typer.Argument(help="Name of a potential.")], json_: JsonOption = False
) -> None:
    """Tell all about one potential.

    Files and their hashes, lattice constants, what to cite, what it is good for.
    """
    from campaign.cli.potentials import show_potential

    show_potential(name, as_json=json_)


@potentials.command("add")
def add_potential(
    file: Annotated[Path, typer.Argument(help="A NEP model in GPUMD's format (nep.txt).")],
    name: Annotated[
        str | None, typer.Option(help="Its name; default: that of the file.", show_default=False)
    ] = None,
    lattice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MATERIAL=ANGSTROM",
            help="Its own lattice constant; may be repeated. Default: found by relaxing monolayers with it.",
            show_default=False,
        ),
    ] = None,
    monolayers: Annotated[
        bool, typer.Option("--monolayers", help="It was trained on single layers only.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In place of another one of that name.")] = False,
) -> None:
    """Put a NEP model into your library.

    The library is the folder CAMPAIGN_POTENTIALS, by default ~/.local/share/campaign/potentials.
    """
    from campaign.cli.potentials import add_file

    add_file(file, name, lattice or [], monolayers=monolayers, replace=replace)


@potentials.command("fetch")
def fetch_potential(
    name: Annotated[str, typer.Argument(help="Name of a published model.")],
    url: Annotated[
        str | None, typer.Option(help="Another place that has the same file.", show_default=False)
    ] = None,
) -> None:
    """Fetch a published NEP model into your library.

    Its hash is checked. A download that broke off goes on where it stopped.
    """
    from campaign.cli.potentials import fetch_model

    fetch_model(name, url)
