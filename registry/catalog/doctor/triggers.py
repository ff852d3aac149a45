"""Checking the triggers that keep logs append-only and dense, and the inbox's actions known.

Each trigger's definition, with that of its function, is read from the catalog and hashed, and the
hash is compared to that of the definition in the migrations.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from sqlalchemy import Engine, Row

from registry.catalog.doctor.finding import Finding, ask

_CHANGED = "rows of the log can be changed or removed"
_HOLES = "whoever may insert can leave a hole in a log, or end it early"
_ACTIONS = "an unknown action is rejected only when the row is moved to the log"

# By trigger: what may happen without it, and the digest of the definition in the migrations. A
# migration that changes a trigger must change the digest here, or sound databases are reported.
_EXPECTED = {
    "postgresql": {
        "samples_append_only": (_CHANGED, "d24c6e283e52ad04"),
        "samples_never_emptied": (_CHANGED, "822a31fd997acf9e"),
        "samples_continue_log": (_HOLES, "7e305ab5c20a905c"),
        "heads_begin_with_log": (_HOLES, "f5fb797b3ff913c6"),
        "heads_agree_with_log": (_HOLES, "ac051d5e6ad2dcc4"),
        "inbox_known_action": (_ACTIONS, "44a0ac9a72ec568f"),
    },
    "sqlite": {
        "samples_never_change": (_CHANGED, "0f2fb56d9325d12d"),
        "samples_never_leave": (_CHANGED, "8ebb4908d57d9a8c"),
        "inbox_known_action": (_ACTIONS, "6e75a6c64e36a7ea"),
        "inbox_known_new_action": (_ACTIONS, "6c0677b61a023e3f"),
    },
}
# The schema's name is left out of the definition, since it is the deployer's choice. Only the name
# of the table's schema is: a function whose search_path names another schema is not ours.
_QUERIES = {
    "postgresql": """
        SELECT tgname AS name, relname AS "table", tgenabled IN ('O', 'A') AS enabled,
            replace(pg_get_triggerdef(pg_trigger.oid), quote_ident(nspname) || '.', '') || prosrc
            || replace(coalesce(array_to_string(proconfig, ','), ''), quote_ident(nspname), '')
            || prosecdef AS definition
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        JOIN pg_namespace ON pg_namespace.oid = relnamespace JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE tgrelid = ANY (ARRAY[
            to_regclass('samples'), to_regclass('heads'), to_regclass('inbox')
        ]) AND NOT tgisinternal
    """,
    "sqlite": """
        SELECT name, tbl_name AS "table", 1 AS enabled, sql AS definition
        FROM sqlite_master WHERE type = 'trigger'
    """,
}
_CREATE_AGAIN = "run what `registry init --sql` prints of this name, with DROP TRIGGER before it"


def check_triggers(engine: Engine) -> Iterator[Finding]:
    """Find triggers that are missing, disabled or replaced."""
    dialect = engine.dialect.name
    triggers = {row.name: row for row in ask(engine, _QUERIES[dialect])}
    # Further triggers, which somebody has added, are not examined.
    for name, (danger, digest) in _EXPECTED[dialect].items():
        if (problem := _problem(triggers.get(name), digest)) is not None:
            said, remedy = problem
            yield Finding(
                "error",
                f"trigger {name}",
                f"it {said}, so that {danger}",
                f"{remedy}; then check each log with `registry verify`",
            )


def _problem(
    trigger: Row[tuple[str, str, bool, str]] | None, digest: str
) -> tuple[str, str] | None:
    """Return a problem of a trigger and its remedy, or None."""
    if trigger is None:
        return "is missing", "run the CREATE TRIGGER of this name that `registry init --sql` prints"
    if not trigger.enabled:
        return "is disabled", f"ALTER TABLE {trigger.table} ENABLE TRIGGER {trigger.name}"
    if _digest(trigger.definition) != digest:
        return "or its function was replaced", _CREATE_AGAIN
    return None


def _digest(definition: str) -> str:
    """Hash a definition without white space, quotes and brackets, which servers may vary."""
    plain = "".join(c for c in definition if not c.isspace() and c not in '"()')
    return blake2b(plain.encode(), digest_size=8).hexdigest()
