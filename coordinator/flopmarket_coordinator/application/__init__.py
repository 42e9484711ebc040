"""The use cases of the coordinator, and the only thing that servicers, loops and the CLI call.

Every method takes the :class:`Transaction` it runs in. Commands go through
``await tick.submit(lambda tx: application.submit(tx, session, request))``, which answers after the
commit; queries (quote, authenticate, get and list methods, ``next_audit``, ``spot``, ``check``,
``artifact_may_*``) through ``await tick.read(...)``. A command that raises leaves nothing behind.
Methods neither wait nor read a clock: ``tx.now_us`` is the time.

Each room holds one side of the market: ``accounts``, ``buying``, ``working``, ``dispatching``
(matching and expiry), ``auditing``, ``offers``, ``storing``, ``checking``; ``settling`` is what
follows from their changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket_coordinator.application.accounts import AccountUseCases
from flopmarket_coordinator.application.administration import AdministrationUseCases
from flopmarket_coordinator.application.auditing import AuditingUseCases
from flopmarket_coordinator.application.beating import BeatingUseCases
from flopmarket_coordinator.application.buying import BuyingUseCases
from flopmarket_coordinator.application.checking import CheckingUseCases
from flopmarket_coordinator.application.explaining import ExplainingUseCases
from flopmarket_coordinator.application.inviting import InvitationUseCases
from flopmarket_coordinator.application.money import MoneyUseCases
from flopmarket_coordinator.application.predicting import PredictingUseCases
from flopmarket_coordinator.application.ruling import RulingUseCases
from flopmarket_coordinator.application.storing import ArtifactUseCases
from flopmarket_coordinator.application.tape import TapeUseCases
from flopmarket_coordinator.application.webhooks import WebhookUseCases
from flopmarket_coordinator.core.ports import ArtifactReader
from flopmarket_coordinator.parameters import Parameters


class Application(
    AccountUseCases,
    MoneyUseCases,
    BuyingUseCases,
    PredictingUseCases,
    BeatingUseCases,
    ExplainingUseCases,
    AuditingUseCases,
    RulingUseCases,
    ArtifactUseCases,
    TapeUseCases,
    WebhookUseCases,
    CheckingUseCases,
    InvitationUseCases,
    AdministrationUseCases,
):
    """All use cases over one set of parameters. Holds no facts about the market itself.

    ``key`` signs verdicts and receipts and is the audience of every envelope; ``artifacts`` reads
    programs; ``entropy(n)`` returns n random bytes (ids, tokens, nonces); ``operator_keys`` may
    state deposits; ``chain_secret`` (32 bytes, the same after a restart) is what draws come from.
    """

    def __init__(
        self,
        *,
        key: KeyPair,
        parameters: Parameters,
        artifacts: ArtifactReader,
        entropy: Callable[[int], bytes],
        operator_keys: Collection[PublicKey],
        chain_secret: bytes,
    ) -> None:
        super().__init__(
            key=key,
            parameters=parameters,
            artifacts=artifacts,
            entropy=entropy,
            operator_keys=operator_keys,
            chain_secret=chain_secret,
        )
