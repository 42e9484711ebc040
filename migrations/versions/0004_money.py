"""Money: the ledger as a log of hashed batches, overdrafts, withdrawals, the currency.

Transfers that exist are hashed as they are and become the first batch of the log.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flopmarket.trust import ledger_log
from flopmarket.trust.merkle import EMPTY_TREE

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APPEND_ONLY = ("ledger_batch", "ledger_head")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UNBOUNDED = "ledger_account_id IN ('platform/external', 'platform/issue')"


def upgrade() -> None:
    op.create_table(
        "setting",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    _overdrafts()
    op.create_table(
        "ledger_batch",
        sa.Column("number", SERIAL, autoincrement=False, nullable=False),
        sa.Column("last_transfer", sa.BigInteger(), nullable=False),
        sa.Column("transfers_root", sa.LargeBinary(), nullable=False),
        sa.Column("root_before", sa.LargeBinary(), nullable=False),
        sa.Column("nodes", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ledger_batch")),
        sa.UniqueConstraint("last_transfer", name=op.f("uq_ledger_batch_last_transfer")),
    )
    op.create_table(
        "ledger_head",
        sa.Column("batch_count", SERIAL, autoincrement=False, nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("batch_count", name=op.f("pk_ledger_head")),
    )
    _hash_transfers()
    op.create_table(
        "ledger_expiry",
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer_id"],
            ["transfer.transfer_id"],
            name=op.f("fk_ledger_expiry_transfer_id_transfer"),
        ),
        sa.PrimaryKeyConstraint("transfer_id", name=op.f("pk_ledger_expiry")),
    )
    op.create_index(op.f("ix_ledger_expiry_expires_at_us"), "ledger_expiry", ["expires_at_us"])
    op.create_table(
        "withdrawal",
        sa.Column("withdrawal_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("decision", sa.LargeBinary(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False),
        sa.Column("decided_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'paid', 'rejected', 'expired')",
            name=op.f("ck_withdrawal_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_withdrawal_account_id_account")
        ),
        sa.PrimaryKeyConstraint("withdrawal_id", name=op.f("pk_withdrawal")),
    )
    op.create_index("ix_withdrawal_account", "withdrawal", ["account_id", "created_at_us"])
    op.create_index("ix_withdrawal_state", "withdrawal", ["state", "created_at_us"])
    for table in APPEND_ONLY:
        for statement in _immutable(table):
            op.execute(statement)


def _overdrafts() -> None:
    """A balance may go below zero, as far as its account's overdraft."""
    with op.batch_alter_table("ledger_account") as batch_op:
        batch_op.add_column(
            sa.Column("overdraft_nano", sa.BigInteger(), nullable=False, server_default="0")
        )
        batch_op.drop_constraint(op.f("ck_ledger_account_covered"), type_="check")
        batch_op.create_check_constraint(
            op.f("ck_ledger_account_covered"),
            f"{UNBOUNDED} OR balance_nano >= reserved_nano - overdraft_nano",
        )
        batch_op.create_check_constraint(
            op.f("ck_ledger_account_overdraft_not_negative"), "overdraft_nano >= 0"
        )
    op.execute(  # where coins come from; the platform's other accounts are there already
        "INSERT INTO ledger_account (ledger_account_id, balance_nano, reserved_nano) "
        "SELECT 'platform/issue', 0, 0 FROM ledger_account "
        "WHERE ledger_account_id = 'platform/external'"
    )


def _hash_transfers() -> None:
    """Number transfers without gaps, hash them, and make one batch of them."""
    op.drop_index(op.f("ix_transfer_job_id"), "transfer")  # nothing looks there; it cost a write
    connection = op.get_bind()
    on_postgresql = connection.dialect.name == "postgresql"
    _allow_changes()
    op.add_column(
        "transfer",
        sa.Column("expires_at_us", sa.BigInteger(), nullable=False, server_default="0"),
    )
    op.add_column(
        "transfer", sa.Column("leaf", sa.LargeBinary(), nullable=False, server_default="")
    )
    transfer = sa.table(
        "transfer",
        *(sa.column(name) for name in (
            "number", "transfer_id", "kind", "debit", "credit", "amount_nano", "purpose", "job_id",
            "reference", "pending_id", "created_at_us",
        )),
        sa.column("leaf", sa.LargeBinary),
    )  # fmt: skip
    rows = connection.execute(
        sa.select(*[column for column in transfer.c if column.name != "leaf"]).order_by(
            transfer.c.number
        )
    ).mappings()
    leaves: list[bytes] = []
    last_us = 0
    for number, row in enumerate(rows.all(), 1):
        values = dict(row) | {"number": number, "pending_id": row["pending_id"] or ""}
        leaf = ledger_log.transfer_leaf(ledger_log.LedgerTransfer(**values, expires_at_us=0))
        # Numbers only go down, oldest first, so none is taken twice on the way.
        connection.execute(
            sa.update(transfer)
            .where(transfer.c.number == row["number"])
            .values(number=number, leaf=leaf)
        )
        leaves.append(leaf)
        last_us = row["created_at_us"]
    if on_postgresql:
        op.execute("ALTER TABLE transfer ALTER COLUMN number DROP DEFAULT")
        op.execute("DROP SEQUENCE transfer_number_seq")
        op.execute("ALTER TABLE transfer ALTER COLUMN leaf DROP DEFAULT")
    _forbid_changes()
    if leaves:
        root = ledger_log.transfers_root(leaves)
        batch = ledger_log.LedgerBatch(1, len(leaves), root, EMPTY_TREE, last_us)
        op.bulk_insert(
            sa.table(
                "ledger_batch",
                *(sa.column(name) for name in ("number", "last_transfer", "created_at_us")),
                *(
                    sa.column(name, sa.LargeBinary)
                    for name in ("transfers_root", "root_before", "nodes")
                ),
            ),
            [
                {
                    "number": batch.number,
                    "last_transfer": batch.last_transfer,
                    "transfers_root": batch.transfers_root,
                    "root_before": batch.root_before,
                    "nodes": ledger_log.batch_leaf(batch),
                    "created_at_us": batch.created_at_us,
                }
            ],
        )


def _allow_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER transfer_no_update")
        op.execute("DROP TRIGGER transfer_no_delete")
    else:
        op.execute("DROP TRIGGER transfer_no_change ON transfer")
        op.execute("DROP FUNCTION transfer_immutable()")


def _forbid_changes() -> None:
    for statement in _immutable("transfer"):
        op.execute(statement)


def _immutable(table: str) -> tuple[str, ...]:
    """Statements that refuse any change of a table's rows."""
    message = f"{table} rows are immutable"
    if op.get_bind().dialect.name == "sqlite":
        return tuple(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            for verb in ("UPDATE", "DELETE")
        )
    return (
        f"CREATE FUNCTION {table}_immutable() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{message}'; END $$",
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_immutable()",
    )


def downgrade() -> None:
    raise NotImplementedError("hashed transfers stay hashed; restore a backup")
