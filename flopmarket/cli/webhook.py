"""``flop webhook``: addresses that are told when our jobs start and end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import Output, instant

if TYPE_CHECKING:
    from flopmarket.client.client import Client
    from flopmarket.client.results_owner import Webhook


@click.group()
def webhook() -> None:
    """Signed messages about our jobs, sent to an https address."""


@webhook.command()
@click.argument("url")
@click.option("--events", help="Such as job.succeeded,job.failed; all if not given.")
@json_option
@connection_options
def add(url: str, events: str | None, as_json: bool, **connection: Any) -> None:
    """Tell URL of our jobs. The same URL again changes its events and enables it."""
    names = [name for name in (events or "").split(",") if name]
    with connect(connection) as client:
        added = client.add_webhook(url, names)
        key_text = _key_text(client)
    out = output(as_json)
    if as_json:
        out.record(added)
        return
    out.line(added.webhook_id)
    out.say(f"told of {', '.join(added.events)}; try it with `flop webhook test`")
    out.say(f"messages are signed with {key_text}: receivers check with verify_webhook")


@webhook.command("list")
@json_option
@connection_options
def list_webhooks(as_json: bool, **connection: Any) -> None:
    """Our webhooks, and how their deliveries go."""
    out = output(as_json)
    with connect(connection) as client:
        found = client.webhooks()
        key_text = _key_text(client) if found else ""
    columns = ("webhook", "URL", "events", "state", ">waiting", ">failures", "delivered (UTC)")
    nothing = "no webhooks yet; `flop webhook add URL`"
    out.listing(found, (*columns, "last error"), _cells, nothing)
    if found and not as_json:
        out.say(f"signed with {key_text}")


def _cells(item: Webhook) -> tuple[str, ...]:
    return (
        item.webhook_id[:12],
        item.url,
        ",".join(item.events),
        "enabled" if item.enabled else f"disabled: {item.disabled_reason}",
        str(item.pending),
        str(item.failures),
        instant(item.delivered_at_us),
        item.last_error,
    )


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@connection_options
def remove(webhook_id: str, **connection: Any) -> None:
    """Tell it nothing more. WEBHOOK is an id, the beginning of one, or the URL."""
    with connect(connection) as client:
        found = _resolve(client, webhook_id)
        client.remove_webhook(found.webhook_id)
    output().say(f"{found.url} is told nothing more")


@webhook.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@json_option
@connection_options
def test(webhook_id: str, as_json: bool, **connection: Any) -> None:
    """Send a message now; exit code 1 when it was not taken. Success enables it again."""
    from flopmarket.errors import FlopmarketError

    out = output(as_json)
    with connect(connection) as client:
        done = client.test_webhook(_resolve(client, webhook_id).webhook_id)
    if as_json:
        out.record(done)
    if not done.delivered:
        raise FlopmarketError(
            f"{done.webhook.url} did not take the message: {done.error}",
            code="WEBHOOK_NOT_DELIVERED",
        )
    if not as_json:
        _say_delivered(out, done.webhook)


def _say_delivered(out: Output, item: Webhook) -> None:
    out.line("delivered")
    out.say(f"{item.url} answered with success")


def _key_text(client: Client) -> str:
    from flopmarket.trust.webhooks import public_key_text

    return public_key_text(client.coordinator().public_key)


def _resolve(client: Client, text: str) -> Webhook:
    from flopmarket.errors import InvalidInput, NotFound

    found = [
        item
        for item in client.webhooks()
        if item.url == text or (text and item.webhook_id.startswith(text))
    ]
    if not found:
        raise NotFound(f"no webhook of ours is {text[:200]}", code="WEBHOOK_UNKNOWN")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} webhooks begin with {text}", code="WEBHOOK_AMBIGUOUS")
    return found[0]
