"""``prosocial zoo``: what models there are, whether their files are intact, how to add more."""

import sys
from pathlib import Path

import click

from parlai_prosocial.compat.installation import default_datapath
from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.entry import ENTRIES, KINDS, entry_names, find_entry

DATAPATH = click.option(
    "--datapath",
    envvar="PARLAI_DATAPATH",
    type=click.Path(file_okay=False, path_type=Path),
    help="ParlAI's data folder. [default: PARLAI_DATAPATH, else beside ParlAI]",
)


@click.group()
def zoo() -> None:
    """List, verify, build and add the models of the zoo.

    They are used by their names, zoo:prosocial/NAME in our commands, and in parlai with /model: -mf
    zoo:prosocial/NAME/model. They are installed on first use.
    """


@zoo.command("list")
@DATAPATH
def list_entries(datapath: Path | None) -> None:
    """List the models, one a line.

    \b
    Example:
      prosocial zoo list
    """
    from parlai_prosocial.cards.description import megabytes
    from parlai_prosocial.evaluation.results.tables import make_table, terminal_table
    from parlai_prosocial.zoo.install import installed_folder

    where = _datapath(datapath)
    rows = []
    for name in entry_names():
        entry = find_entry(name)
        installed = installed_folder(entry, where).is_dir()
        rows.append(
            {
                "name": entry.name,
                "kind": KINDS[entry.kind],
                "size": megabytes(entry.size),
                "installed": "yes" if installed else "-",
                "what": entry.what,
            }
        )
    columns = {key: {"label": key} for key in rows[0]}
    click.echo(terminal_table(make_table("zoo:prosocial/NAME", columns, rows)))


@zoo.command()
@click.argument("name")
def show(name: str) -> None:
    """Show all that is known of a model.

    \b
    Example:
      prosocial zoo show minilm_safety
    """
    from parlai_prosocial.cards.description import description

    click.echo(description(find_entry(name)))


@zoo.command()
@click.argument("names", nargs=-1)
@DATAPATH
def verify(names: tuple[str, ...], datapath: Path | None) -> None:
    """Check the hashes of models, bundled and installed; of all if none is named.

    Exit status 1 if a file is not what its entry says.

    \b
    Examples:
      prosocial zoo verify
      prosocial zoo verify smollm2_135m_mle
    """
    from parlai_prosocial.zoo.install import installed_folder, verify_bundled, verify_installed

    where, wrong = _datapath(datapath), 0
    for name in names or entry_names():
        entry = find_entry(name)
        checked = []
        try:
            if entry.kind == "bundled":
                verify_bundled(entry)
                checked.append("bundled")
            if installed_folder(entry, where).is_dir():
                verify_installed(entry, where)
                checked.append(f"installed in {installed_folder(entry, where)}")
        except UserError as error:
            wrong += 1
            click.echo(f"wrong  {entry.name}: {error}")
            continue
        click.echo(f"ok     {entry.name}: {' and '.join(checked) or 'not here'}")
    if wrong:
        click.echo(f"Wrong: {wrong}.")
        sys.exit(1)


@zoo.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def build(name: str, yes: bool) -> None:
    """Run the commands that train a model, in this folder.

    \b
    Example:
      prosocial zoo build smollm2_135m_mle
    """
    from parlai_prosocial.zoo.build import run_commands

    entry = find_entry(name)
    if not entry.commands:
        raise UserError(f"{entry.name} is not trained but {KINDS[entry.kind]}: just use it")
    for note in entry.notes:
        click.echo(note)
    click.echo("This will run:")
    for command in entry.commands:
        click.echo(f"  {command}")
    if not yes:
        click.confirm("Go on?", default=True, abort=True)
    run_commands(entry)
    click.echo(f"Talk to it:\n  parlai interactive -m {entry.agent} -mf {entry.builds[-1]}")


@zoo.command()
@click.argument("name")
@click.option("--model", required=True, help="The finished run: ParlAI's -mf.")
@click.option("--what", required=True, help="One line for the list.")
@click.option(
    "--results",
    required=True,
    multiple=True,
    type=(click.Path(path_type=Path, dir_okay=False, exists=True), str),
    metavar="FILE ROW",
    help="Its measurements: results.json of compare or ablate, summary.json of evaluate, or "
    "classifier.json of bench_classifier.py, and the model's row or column in the tables.",
)
@click.option(
    "--command",
    "commands",
    multiple=True,
    help="What trained it, where no finished.json of prosocial train says so.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=ENTRIES,
    help="Folder of entries. [default: the package's own]",
)
@DATAPATH
def add(
    name: str,
    model: str,
    what: str,
    results: tuple[tuple[Path, str], ...],
    commands: tuple[str, ...],
    out: Path,
    datapath: Path | None,
) -> None:
    """Bundle a finished run: for maintainers, in a checkout.

    The adapter is rounded to bfloat16, hashed and put beside its entry, which says how it was
    trained, on what, and how it measured. Run it where the run's relative paths hold.

    \b
    Example:
      prosocial zoo add my_model --model runs/mine/step2/model --what "My model" \\
          --results benchmarks/results/ablation-seed-0.json n-pair
    """
    from parlai_prosocial.cards.add import add_entry
    from parlai_prosocial.cards.description import megabytes

    entry, change = add_entry(name, model, what, results, commands, out, str(_datapath(datapath)))
    click.echo(f"Greatest change of a score by bfloat16: {change:.4f}")
    click.echo(f"{megabytes(entry.size)} in {entry.folder}, described in {entry.folder}.json")


def _datapath(given: Path | None) -> Path:
    datapath = given or default_datapath()
    if datapath is None:
        raise UserError("ParlAI is not installed: run `prosocial setup`, or give --datapath")
    return datapath
