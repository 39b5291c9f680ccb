"""The webhook's client, against real HTTP and HTTPS servers."""

import asyncio
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from alerts.receiver import Receiver, receiving
from ratelimit_service.webhook.address import Address, Endpoint, is_public
from ratelimit_service.webhook.open import open_webhook
from ratelimit_service.webhook.sender import MAX_RESPONSE, WebhookSender
from server.certificates import Authority

LOCAL = ip_address("127.0.0.1")
PUBLIC = ip_address("93.184.215.14")


class Names:
    """A resolver that returns these addresses, a list for each question."""

    def __init__(self, *answers: Sequence[Address]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        del port
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def sender(receiver: Receiver, *answers: Sequence[Address], allow_private: bool = True) -> WebhookSender:
    """A sender to this receiver under the name hooks.test."""
    endpoint = Endpoint.parse(f"http://hooks.test:{receiver.port}/in?team=a", allow_private=True)
    return WebhookSender(endpoint, allow_private=allow_private, resolver=Names(*(answers or ([LOCAL],))), timeout=5)


async def test_a_message_is_posted() -> None:
    """Method, path with query, host, headers and body arrive as they are; a status of success is success."""
    async with receiving() as receiver:
        response = await sender(receiver).send({"RateLimit-Webhook-Id": "one"}, b'{"a": 1}')
    assert (response.status, response.error) == (204, "")
    (request,) = receiver.received
    assert (request.method, request.target, request.body) == ("POST", "/in?team=a", b'{"a": 1}')
    assert request.headers["host"] == f"hooks.test:{receiver.port}"
    assert request.headers["ratelimit-webhook-id"] == "one"


async def test_a_redirect_is_not_followed() -> None:
    """A 302 to another server is a failure, and that server sees nothing."""
    async with receiving() as other, receiving(statuses=[302]) as receiver:
        receiver.headers = [("location", f"http://127.0.0.1:{other.port}/")]
        response = await sender(receiver).send({}, b"{}")
    assert (response.status, response.error) == (302, "responded with status 302")
    assert other.connections == 0


@pytest.mark.parametrize("addresses", [[LOCAL], [PUBLIC, LOCAL], [ip_address("::ffff:127.0.0.1")]])
async def test_a_private_address_is_refused(addresses: list[Address]) -> None:
    """If any address of the name is not public, nothing is connected to."""
    async with receiving() as receiver:
        response = await sender(receiver, addresses, allow_private=False).send({}, b"{}")
    assert "not public" in response.error
    assert receiver.connections == 0


async def test_a_name_that_changes_its_address_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once, and the connection goes to the address that was checked, not to a later answer."""
    connected: list[str] = []

    async def connect(host: str, *_args: object, **_options: object) -> None:
        connected.append(host)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", connect)
    endpoint = Endpoint.parse("https://hooks.test/in", allow_private=False)
    names = Names([PUBLIC], [LOCAL])
    await WebhookSender(endpoint, resolver=names).send({}, b"{}")
    assert (names.asked, connected) == (["hooks.test"], [str(PUBLIC)])
    again = await WebhookSender(endpoint, resolver=names).send({}, b"{}")
    assert "not public" in again.error
    assert connected == [str(PUBLIC)]


async def test_tls_is_verified_against_the_name(tmp_path: Path) -> None:
    """A certificate of the right name from a known authority is accepted, one of another name or authority is not."""
    authority = Authority(tmp_path)
    pair = authority.issue("webhook")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pair.certificate, pair.key)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    async with receiving(server) as receiver:
        responses = []
        for host, tls in (("localhost", trusting), ("hooks.test", trusting), ("localhost", None)):
            endpoint = Endpoint.parse(f"https://{host}:{receiver.port}/", allow_private=True)
            client = WebhookSender(endpoint, allow_private=True, resolver=Names([LOCAL]), tls=tls)
            responses.append(await client.send({}, b"{}"))
    assert responses[0].status == 204
    assert ["TLS failed" in response.error for response in responses] == [False, True, True]
    assert len(receiver.received) == 1


async def test_a_response_without_end_is_cut() -> None:
    """Of a large response only a bounded part is read; its status counts."""
    async with receiving(statuses=[200]) as receiver:
        receiver.body = b"x" * (MAX_RESPONSE * 50)
        response = await sender(receiver).send({}, b"{}")
    assert (response.status, response.error) == (200, "")


async def test_what_does_not_answer_is_given_up() -> None:
    """A server that accepts and says nothing, or nothing of HTTP, or is not there, is an error in words."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n\r\n")
        await reader.read()
        writer.close()

    errors = []
    for behave in (silent, babble):
        server = await asyncio.start_server(behave, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint.parse(f"http://hooks.test:{port}/", allow_private=True)
        client = WebhookSender(endpoint, allow_private=True, resolver=Names([LOCAL]), timeout=0.5)
        errors.append((await client.send({}, b"{}")).error)
        server.close()
        await server.wait_closed()
    endpoint = Endpoint.parse(f"http://hooks.test:{port}/", allow_private=True)
    errors.append((await WebhookSender(endpoint, allow_private=True, resolver=Names([LOCAL])).send({}, b"{}")).error)
    assert errors[:2] == ["no response within 0.5 s", "did not respond in HTTP/1.1"]
    assert errors[2].startswith("cannot be reached")


async def test_a_name_that_no_resolver_takes_is_an_attempt_that_failed() -> None:
    """Sending never raises, or the message would be sent again at once, for ever."""
    for host in ("a..test", "a" * 64):
        client = WebhookSender(Endpoint(secure=False, host=host, port=80, target="/"), allow_private=True)
        response = await client.send({}, b"{}")
        assert response.status == 0
        assert "correct RATELIMIT_ALERT_WEBHOOK_URL" in response.error


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("192.168.1.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:a00:1::", False),
        ("2001:0:a00:1::f5ff:fffe", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b:1::7f00:1", False),
        ("fec0::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """Private, local, link-local, shared and multicast ones are not, nor IPv6 ones that stand for such an IPv4 one."""
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://a.test/",
        "ftp://a.test/",
        "https:///x",
        "https://user:pw@a.test/",
        "https://a.test:x/",
        "https://a b/",
        "https://a..test/",
        "https://.test/",
        f"https://{'a' * 64}.test/",
    ],
)
def test_a_url_that_cannot_be_used(url: str) -> None:
    """It is refused with a reason that does not repeat it."""
    with pytest.raises(ValueError, match="RATELIMIT_ALERT_WEBHOOK_URL cannot be used") as caught:
        open_webhook(url, "s" * 16, allow_private=False)
    assert url not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_webhook_needs_a_secret() -> None:
    """With a URL, a short or missing secret is an error; without a URL there is no webhook."""
    with pytest.raises(ValueError, match="RATELIMIT_ALERT_WEBHOOK_SECRET"):
        open_webhook("https://a.test/", "short", allow_private=False)
    assert open_webhook("", "", allow_private=False) is None
