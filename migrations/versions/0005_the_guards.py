"""The guards: PostgreSQL keeps each log dense, and its head where the log ends."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A role that may insert samples and update heads could otherwise leave a hole in a log, or end it
# early, and no role could undo that: samples are append-only. The rows of each statement must
# continue the log, and move its head in the same statement, so that rows without a head, or a head
# without rows, cannot be committed. A chain value cannot be computed here: `verify` proves those.
CONTINUE = """
    CREATE FUNCTION samples_continue_log() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    DECLARE
        part record;
    BEGIN
        FOR part IN
            SELECT dataset_id, min(position) AS first, max(position) AS last, count(*) AS size,
                bool_and(bucket BETWEEN 0 AND 65535 AND length(chain) = 16) AS sound,
                bool_and(supersedes >= 0 AND supersedes < position) IS NOT FALSE AS backward
            FROM added GROUP BY dataset_id ORDER BY dataset_id
        LOOP
            IF NOT (part.sound AND part.backward) THEN
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
# Else the functions would take a temporary table of the role that inserts for `heads`.
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
    if op.get_context().dialect.name == "sqlite":  # it has no roles
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
    op.execute("DROP TRIGGER samples_continue_log ON samples")
    op.execute("DROP TRIGGER heads_begin_with_log ON heads")
    op.execute("DROP TRIGGER heads_agree_with_log ON heads")
    op.execute("DROP FUNCTION samples_continue_log()")
    op.execute("DROP FUNCTION heads_agree_with_log()")
