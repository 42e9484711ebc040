"""Money between use cases and protobuf."""

from __future__ import annotations

from flopmarket.trust.encoding import encode
from flopmarket.trust.merkle import MerkleProof
from flopmarket.v1 import ledger_pb2
from flopmarket_coordinator.application.money import ProvedPage
from flopmarket_coordinator.application.types_money import Balances
from flopmarket_coordinator.rpc.convert import money
from flopmarket_coordinator.store.withdrawals import WithdrawalRow


def account(balances: Balances) -> ledger_pb2.GetAccountResponse:
    """Balances of one account."""
    return ledger_pb2.GetAccountResponse(
        account_id=balances.account_id,
        display_name=balances.display_name,
        available=money(balances.available_nano),
        reserved=money(balances.reserved_nano),
        held=money(balances.held_nano),
        bond=money(balances.bond_nano),
        overdraft=money(balances.overdraft_nano),
    )


def proved(page: ProvedPage) -> ledger_pb2.ProveTransfersResponse:
    """A page of a statement with proofs."""
    return ledger_pb2.ProveTransfersResponse(
        transfers=[
            ledger_pb2.ProvedTransfer(
                transfer=encode(item.transfer),
                batch_number=item.batch_number,
                proof=_path(item.proof),
            )
            for item in page.transfers
        ],
        batches=[
            ledger_pb2.ProvedBatch(batch=encode(item.batch), proof=_path(item.proof))
            for item in page.batches
        ],
        next_page_token=page.next_page_token,
    )


def withdrawal(row: WithdrawalRow) -> ledger_pb2.Withdrawal:
    """One request to pay out."""
    return ledger_pb2.Withdrawal(
        withdrawal_id=row.withdrawal_id,
        account_id=row.account_id,
        amount=money(row.amount_nano),
        destination=row.destination,
        state=row.state.value,
        reference=row.reference,
        created_at_us=row.created_at_us,
        expires_at_us=row.expires_at_us,
        decided_at_us=row.decided_at_us,
    )


def _path(proof: MerkleProof) -> ledger_pb2.InclusionProof:
    return ledger_pb2.InclusionProof(
        leaf_index=proof.leaf_index, leaf_count=proof.leaf_count, siblings=proof.siblings
    )
