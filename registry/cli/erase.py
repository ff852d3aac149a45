"""``registry erase``: remove content permanently."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.cli.base import DatasetName, Url, Yes, app
from registry.cli.confirm import confirm
from registry.cli.open_to_change import open_to_change
from registry.cli.output import counted, print_note


@app.command()
def erase(
    dataset: DatasetName,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys of samples.")],
    yes: Yes = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="On PostgreSQL, rewrite the tables, so that nothing stays in their free space. "
            "Nobody can read or write them meanwhile, and it takes as much room again.",
        ),
    ] = False,
    url: Url = None,
) -> None:
    """Remove all content of samples permanently: in the database, and in mirrors when next synced.

    The rows stay in the log, retracted and empty, so that everything else can still be verified
    and replayed. Epochs and versions that contain them report it when they are read.

    Many samples are erased in several transactions, between which others can write. If it is
    interrupted, run it again with the same keys.

    It does not reach backups, WAL archives, replicas that lag, exported files, mirrors that are
    never synced again, and inbox rows without a key. Importing the same file again inserts the
    samples again. A SQLite file is rewritten, which needs as much free disk space as the file has.
    """
    with connect(url) as registry:
        opened = open_to_change(registry, dataset)
        # After the dataset was opened: nobody should confirm a name that does not exist.
        samples = f"{len(keys)} samples" if len(keys) > 1 else f"{keys[0]!r}"
        confirm(f"Erase all that {opened.name} ever held of {samples}, permanently?", yes=yes)
        erasure = opened.erase(*keys, full=full)
    typer.echo(
        f"{opened.name}: {counted(erasure.rows, 'row')} of the log erased, "
        f"{erasure.inbox_rows:,} of the inbox"
    )
    if erasure.remains is not None:
        # To stderr: it is advice, and not part of the result.
        print_note(erasure.remains)
