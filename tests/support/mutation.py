"""Mutation tests: find small faults in the core that the tests would not notice.

``python -m tests.support.mutation GROUP`` copies the project to a new folder, has mutmut (to be
installed beforehand) change a group's modules one place at a time, runs the group's tests against
each change, and prints the changes that no test noticed. Each is either equivalent to the code or a
test that is missing. The wording of messages is not changed, and what mypy rejects is not tested.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import registry
from tests.support.databases import create_template, started_server

ROOT = Path(__file__).parent.parent.parent
LOG, MIRROR, TRAINING = "registry/storage/log", "registry/storage/mirror", "registry/training"


@dataclass(frozen=True)
class Group:
    """Modules, as patterns of paths, and the tests that are run against their changes."""

    modules: list[str]
    tests: list[str]


GROUPS = {
    "filters": Group(
        [f"{TRAINING}/{n}.py" for n in ("*conditions", "filters", "*_columns")]
        + [f"{MIRROR}/columns.py"],
        ["tests/training/test_conditions.py", "tests/training/test_filters.py"],
    ),
    "schemas": Group(
        [f"registry/samples/{name}.py" for name in ("schema", "projection")]
        + [f"{LOG}/schemas.py", f"{LOG}/alter.py"],
        ["tests/samples/test_schema.py", "tests/storage/test_altering.py"],
    ),
    "inbox": Group(
        [f"{LOG}/inbox*.py"],
        ["tests/storage/test_inbox.py", "tests/storage/test_inbox_corrections.py"],
    ),
    "tables": Group(
        [f"registry/samples/{name}.py" for name in ("arrow", "columns", "tables")]
        + [f"{LOG}/insertions.py"],
        ["tests/catalog/test_tables.py"],
    ),
    "writer": Group(
        [f"{LOG}/{name}.py" for name in ("writer", "append", "batch", "head", "locking")]
        + [f"{LOG}/{name}.py" for name in ("hash_chain", "bulk_insert", "few_rows")],
        [
            "tests/catalog/test_dataset.py",
            "tests/storage/test_concurrency.py",
            "tests/storage/test_lookup.py",
            "tests/storage/test_writing.py",
        ],
    ),
    "reader": Group(
        [f"{LOG}/{name}.py" for name in ("reader", "following", "rows_ahead", "page")]
        + [f"{LOG}/{name}.py" for name in ("page_queries", "entries", "records")],
        [
            "tests/catalog",
            *("tests/faults/test_divergence.py", "tests/faults/test_mirror.py"),
            *("tests/storage/test_concurrency.py", "tests/storage/test_erase.py"),
            *("tests/storage/test_inbox.py", "tests/storage/test_lookup.py"),
            *("tests/storage/test_standbys.py", "tests/storage/test_writing.py"),
            "tests/tensorflow/test_images.py",
            "tests/training",
        ],
    ),
    "lookup": Group(
        [f"{LOG}/lookup.py", f"{LOG}/changes.py"],
        [
            "tests/catalog/test_dataset.py",
            "tests/samples/test_codec.py",
            "tests/samples/test_images.py",
            "tests/storage/test_inbox.py",
            "tests/storage/test_lookup.py",
            "tests/storage/test_writing.py",
        ],
    ),
    "erase": Group([f"{LOG}/eras*.py", f"{MIRROR}/erase.py"], ["tests/storage/test_erase.py"]),
    "drop": Group([f"{LOG}/drop.py"], ["tests/storage/test_drop.py"]),
    "replica": Group(
        [f"{LOG}/{name}.py" for name in ("replica", "standby", "divergence", "notifications")],
        [
            "tests/faults/test_divergence.py",
            "tests/storage/test_concurrency.py",
            "tests/storage/test_standbys.py",
        ],
    ),
    "mirror": Group(
        [f"{MIRROR}/*.py"],
        [
            f"tests/storage/test_{name}.py"
            for name in ("mirror", "checksums", "index", "prefixes", "value_units")
        ],
    ),
    "order": Group(
        [
            f"{TRAINING}/{name}.py"
            for name in ("permutation", "sharding", "population", "batching", "chunks")
        ],
        ["tests/training"],
    ),
    "run": Group(
        [
            f"{TRAINING}/*{name}*.py"
            for name in ("run", "pin", "epoch", "source", "policy", "erased")
        ],
        ["tests/training"],
    ),
    "labeling": Group(
        [
            f"registry/io/labeling/{name}.py"
            for name in (
                *("annotation_state", "apply", "consensus", "state_table", "stored_states"),
                "task_table",
            )
        ],
        ["tests/io/labeling", "tests/server/test_webhooks.py"],
    ),
    "tokens": Group(["registry/server/tokens.py"], ["tests/server/test_tokens.py"]),
    "keras": Group(
        # Not "checkpoint": Keras reads the signature of a layer's constructor, which mutmut hides.
        [
            f"registry/tensorflow/keras/{name}.py"
            for name in (
                *("arguments", "callback_list", "consumption", "datasets", "distribution"),
                *("fit", "progress", "recorder"),
            )
        ],
        [
            f"tests/tensorflow/test_keras{part}.py"
            for part in ("", "_arguments", "_distributed", "_resume", "_streams")
        ],
    ),
}
SETTINGS = """
[tool.mutmut]
source_paths = ["registry"]
only_mutate = {modules}
# The wording of messages.
do_not_mutate_patterns = ['^\\s*f?"[^"]*"\\)?$', '^\\s*raise ', 'logger\\.']
also_copy = ["migrations", "alembic.ini", "README.md", "docs", ".ci"]
type_check_command = [
  "mypy", "registry", "--output", "json", "--no-warn-unused-ignores", "--no-warn-unreachable"
]
pytest_add_cli_args = ["-n", "0", "-q", "-x"]
pytest_add_cli_args_test_selection = {tests}
# A process with threads cannot be forked safely: the forks are made from one that has none.
process_isolation = "forkserver"
timeout_multiplier = 5.0
timeout_constant = 10.0
"""


def main() -> None:
    """Run the group that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"registry-mutation-{options.group}-"))
    copy_project(folder, GROUPS[options.group])
    with started_server() as server:
        create_template(server, "registry_template")
        file = folder / "template.db"
        registry.connect(f"sqlite:///{file}").close()
        # Each change is tested by a new process: none of them has to migrate.
        environment = os.environ | {
            "REGISTRY_TEST_URL": server.render_as_string(hide_password=False),
            "REGISTRY_TEST_TEMPLATE": "registry_template",
            "REGISTRY_TEST_FILE": str(file),
        }
        command = ["mutmut", "run", "--max-children", str(options.processes)]
        subprocess.run(command, cwd=folder, env=environment, check=True)
    show_survivors(folder)


def copy_project(folder: Path, group: Group) -> None:
    """Copy the files under version control, with the settings of a group."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0")[:-1]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    with (folder / "pyproject.toml").open("a") as file:
        file.write(
            SETTINGS.format(modules=json.dumps(group.modules), tests=json.dumps(group.tests))
        )


def show_survivors(folder: Path) -> None:
    """Print the changes that no test noticed."""
    results = subprocess.run(
        ["mutmut", "results"], cwd=folder, check=True, capture_output=True, text=True
    )
    for line in results.stdout.splitlines():
        name, _, outcome = line.strip().partition(": ")
        if outcome in {"survived", "no tests"}:
            sys.stdout.write(f"\n{name} ({outcome})\n")
            sys.stdout.flush()
            subprocess.run(["mutmut", "show", name], cwd=folder, check=True)


if __name__ == "__main__":
    main()
