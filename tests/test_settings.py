"""Settings whose text is read by the settings themselves."""

import pytest

from ratelimit_service.settings import parse_gateways


def test_gateways_are_names_and_uris() -> None:
    """Names are separated by commas and compared without their case; URIs are kept as they are."""
    text = " Gateway.Example.com, spiffe://example.com/Gateway ,urn:example:gateway"
    assert parse_gateways(text) == {"gateway.example.com", "spiffe://example.com/Gateway", "urn:example:gateway"}
    assert parse_gateways("") == parse_gateways("  ") == frozenset()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*.example.com", "patterns are not matched"),
        ("spiffe://example.com/*", "patterns are not matched"),
        ("gateway.example.com,", "'': it is neither"),
        (",", "'': it is neither"),
        ("a gateway", "neither a DNS name nor a URI"),
        ("a..b", "neither"),
        ("x" * 64, "neither"),
        ("spiffe:", "neither"),
        ("spiffe://example.com/a b", "neither"),
        ("g\N{CYRILLIC SMALL LETTER A}teway", "neither"),
        ("gate\nway", "neither"),
    ],
)
def test_what_cannot_name_a_gateway_is_refused(text: str, reason: str) -> None:
    """Text that no certificate could have as it is meant is an error, so that nobody is left out unnoticed."""
    with pytest.raises(ValueError, match=reason) as raised:
        parse_gateways(text)
    assert "write gateway.example.com or spiffe://example.com/gateway" in str(raised.value)
