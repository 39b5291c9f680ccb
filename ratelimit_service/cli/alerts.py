"""`ratelimit-service alerts ...`: what is wrong, and whether the webhook was notified."""

from time import monotonic, sleep
from typing import Annotated

import typer

from ratelimit_service._gen.ratelimit.v1.alerts_pb2 import Alert, AlertDelivery, ListAlertsRequest, ListAlertsResponse
from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.cli.options import AsJson, Output, PageSize, PageToken, Server, Token, output_format
from ratelimit_service.cli.output import Format, print_as, print_json, print_next_page, print_table
from ratelimit_service.cli.times import format_time

app = command_group("What is wrong, and whether the webhook was notified.")

_POLL_SECONDS = 0.5


@app.command("list")
def list_alerts(
    *,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    server: Server = None,
    token: Token = None,
    output: Output = Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """List alerts, those that are firing first."""
    with connect(server, token) as client:
        page = client.list_alerts(ListAlertsRequest(page_size=page_size, page_token=page_token))
        print_as(output_format(output, as_json=as_json), page, _print_page)


@app.command("test")
def send_test(
    *,
    wait: Annotated[float, typer.Option(min=0, max=300, help="Seconds to wait for the first attempt.")] = 15.0,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send a test message to the webhook, and report whether it was accepted. Exits with 1 if it was not."""
    with connect(server, token) as client:
        delivery_id = client.test_alert().delivery_id
        delivery = _wait(client, delivery_id, monotonic() + wait)
        if as_json:
            print_json(delivery)
        elif delivery.state == AlertDelivery.DELIVERED:
            typer.echo(f"accepted with status {delivery.status}: {delivery_id}")
        elif delivery.attempts:
            typer.echo(f"not accepted, will be sent again: {delivery.error}: {delivery_id}")
        else:
            typer.echo(f"not sent yet; see `ratelimit-service alerts list --json`: {delivery_id}")
    if delivery.state != AlertDelivery.DELIVERED:
        raise typer.Exit(Exit.NO)


def _wait(client: Client, delivery_id: str, until: float) -> AlertDelivery:
    """Return the message after its first attempt, or as it is when the time is over."""
    while True:
        tests = client.list_alerts(ListAlertsRequest(page_size=1)).tests
        found = next((delivery for delivery in tests if delivery.delivery_id == delivery_id), None)
        if found is None:
            raise CommandError.usage(f"the message {delivery_id} is not among the last tests any more")
        if found.attempts or monotonic() >= until:
            return found
        sleep(_POLL_SECONDS)


def _print_page(page: ListAlertsResponse) -> None:
    print_table(
        ("STATE", "RULE", "SINCE", "UNTIL", "SUMMARY", "WEBHOOK"),
        (
            (
                Alert.State.Name(alert.state),
                alert.rule,
                format_time(alert.start_time),
                format_time(alert.end_time),
                alert.summary,
                _describe(alert.deliveries[0]) if alert.deliveries else "",
            )
            for alert in page.alerts
        ),
    )
    print_next_page(page.next_page_token)
    if not page.webhook:
        typer.echo("\nno webhook is configured: alerts are listed here, and not sent", err=True)


def _describe(delivery: AlertDelivery) -> str:
    state = AlertDelivery.State.Name(delivery.state).lower().replace("_", " ")
    attempts = f"{delivery.attempts} attempt{'s' * (delivery.attempts != 1)}"
    return f"{delivery.event} {state}, {attempts}" + (f": {delivery.error}" if delivery.error else "")
