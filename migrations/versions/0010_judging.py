"""Judging: faults found late, strikes, quarantine, the held window, debts for audits, their pay."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = "held_state = 'waiting'"


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def upgrade() -> None:
    for table, name in (
        ("job", "returned_nano"),
        ("job", "unreturned_nano"),
        ("segment", "to_audit_nano"),
        ("account", "audit_debt_nano"),
    ):
        column = sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        op.add_column(table, column)
    op.create_index("ix_segment_account", "segment", ["account_id", "segment_id"])
    op.create_index("ix_segment_device", "segment", ["device_key_id", "segment_id"])
    waiting = sa.text(_WAITING)
    for name, columns in (
        ("ix_segment_waiting_account", ["account_id", "segment_id"]),
        ("ix_segment_waiting_settled", ["settled_at_us"]),
    ):
        op.create_index(name, "segment", columns, sqlite_where=waiting, postgresql_where=waiting)
    op.create_table(
        "strike",
        sa.Column("number", _SERIAL, autoincrement=True, nullable=False),
        _text("device_key_id"),
        _text("account_id"),
        _text("kind"),
        _big("unit"),
        _big("segment_id"),
        _text("reason"),
        _big("created_at_us"),
        sa.CheckConstraint(
            "kind IN ('flip', 'silence', 'auditor-silent', 'auditor-wrong')",
            name=op.f("ck_strike_kind_known"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_strike_account_id_account")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_strike")),
    )
    op.create_index("ix_strike_device", "strike", ["device_key_id", "number"])
    op.create_table(
        "quarantine",
        _text("device_key_id"),
        _text("reason"),
        _big("since_us"),
        _big("until_us"),
        _big("lifted_us"),
        sa.PrimaryKeyConstraint("device_key_id", name=op.f("pk_quarantine")),
    )
    op.create_table(
        "audit_pay",
        _text("lease_id"),
        _text("account_id"),
        _big("from_audit_nano"),
        _big("from_fee_nano"),
        _big("paid_nano"),
        _text("state"),
        sa.CheckConstraint(
            "state IN ('reserved', 'paid', 'freed')", name=op.f("ck_audit_pay_state_known")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.account_id"], name=op.f("fk_audit_pay_account_id_account")
        ),
        sa.PrimaryKeyConstraint("lease_id", name=op.f("pk_audit_pay")),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup")
