"""The guards: PostgreSQL ensures that a log has no gaps, and that its head is at its end.

How it works: after each INSERT on ``samples``, a trigger moves the heads to the end of the new
rows, and raises if they do not start at the head. After each INSERT or UPDATE of a head, another
trigger raises unless the log ends there.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Otherwise a role that may insert samples and update heads could leave a gap in a log or set its
# head too low, and no role could repair that: samples are append-only. The rows of each statement
# must continue the log and move its head in the same statement, so that neither rows without a head
# nor a head without rows can be committed. Chain values cannot be computed here: `verify` checks
# them.
#
# The functions turn off sequential and bitmap scans, so that their lookups use an index whatever
# the table's statistics say.
CONTINUE = """
    CREATE FUNCTION samples_continue_log() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    DECLARE
        part record;
    BEGIN
        FOR part IN
            SELECT dataset_id, min(position) AS first, max(position) AS last, count(*) AS size,
                bool_and(
                    bucket BETWEEN 0 AND 65535 AND length(chain) = 16
                    AND (supersedes IS NULL OR supersedes BETWEEN 0 AND position - 1)
                ) AS sound
            FROM added GROUP BY dataset_id ORDER BY dataset_id
        LOOP
            IF NOT part.sound THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'check_violation',
                    MESSAGE = 'samples of dataset ' || part.dataset_id || ': a bucket is in [0, '
                        || '65536), a chain value has 16 bytes, and supersedes is an earlier '
                        || 'position',
                    HINT = 'insert with the registry package, or into the inbox';
            END IF;
            IF part.last - part.first = part.size - 1 THEN
                UPDATE heads SET position = part.last + 1, updated_at = now(), chain = (
                    SELECT chain FROM samples
                    WHERE dataset_id = part.dataset_id AND position = part.last
                ) WHERE dataset_id = part.dataset_id AND position = part.first;
                CONTINUE WHEN FOUND;
            END IF;
            RAISE EXCEPTION USING
                ERRCODE = 'check_violation',
                MESSAGE = 'samples of dataset ' || part.dataset_id || ': ' || part.size
                    || ' rows at positions ' || part.first || ' to ' || part.last
                    || ' do not continue its log',
                HINT = 'insert with the registry package, or into the inbox';
        END LOOP;
        RETURN NULL;
    END $$
"""
AGREE = """
    CREATE FUNCTION heads_agree_with_log() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    DECLARE
        last bytea := decode(repeat('00', 16), 'hex');
    BEGIN
        IF NEW.position <> 0 THEN
            SELECT chain INTO last FROM samples
            WHERE dataset_id = NEW.dataset_id AND position = NEW.position - 1;
        END IF;
        IF NEW.chain = last AND NOT EXISTS (
            SELECT FROM samples WHERE dataset_id = NEW.dataset_id AND position = NEW.position
        ) THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            MESSAGE = 'head of dataset ' || NEW.dataset_id || ': its log does not end at position '
                || NEW.position || ' with that chain',
            HINT = 'insert with the registry package, or into the inbox';
    END $$
"""
# Without a search_path that ends in pg_temp, a role could create a temporary table named `heads`,
# and the functions would use it in place of ours.
FIND_OUR_TABLES = """
    DO $$ BEGIN
        EXECUTE 'ALTER FUNCTION {function}() SET search_path = '
            || quote_ident(current_schema()) || ', pg_temp';
    END $$
"""
TRIGGERS = [
    """
    CREATE TRIGGER samples_continue_log AFTER INSERT ON samples
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION samples_continue_log()
    """,
    """
    CREATE TRIGGER heads_begin_with_log AFTER INSERT ON heads
    FOR EACH ROW EXECUTE FUNCTION heads_agree_with_log()
    """,
    """
    CREATE TRIGGER heads_agree_with_log AFTER UPDATE ON heads
    FOR EACH ROW WHEN (NEW.position <> OLD.position OR NEW.chain <> OLD.chain)
    EXECUTE FUNCTION heads_agree_with_log()
    """,
]


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":  # SQLite has no roles
        return
    for statement in (CONTINUE, AGREE):
        op.execute(statement)
    for function in ("samples_continue_log", "heads_agree_with_log"):
        op.execute(FIND_OUR_TABLES.format(function=function))
    for statement in TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        return
    # PostgreSQL drops no function that a trigger uses: triggers first.
    op.execute("DROP TRIGGER samples_continue_log ON samples")
    op.execute("DROP TRIGGER heads_begin_with_log ON heads")
    op.execute("DROP TRIGGER heads_agree_with_log ON heads")
    op.execute("DROP FUNCTION samples_continue_log()")
    op.execute("DROP FUNCTION heads_agree_with_log()")
