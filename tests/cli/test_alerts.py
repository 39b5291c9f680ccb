"""Alerts on the command line, from end to end."""

import json

from fixtures.dev_server import DevServer


def test_alerts_are_listed_without_a_webhook(dev_server: DevServer) -> None:
    """Nothing is wrong with the server; a note beside the list warns that nothing is sent."""
    shown = dev_server.run("alerts", "list")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split()[:6] == ["STATE", "RULE", "SINCE", "UNTIL", "SUMMARY", "WEBHOOK"]
    assert "no webhook is configured" in shown.stderr
    found = json.loads(dev_server.run("alerts", "list", "--json").stdout)
    firing = {alert["rule"] for alert in found["alerts"] if alert["state"] == "FIRING"}
    assert firing <= {"quota", "denials"}  # other tests share the server, use quotas up, and are denied
    assert found["webhook"] is False


def test_a_test_without_a_webhook_is_refused(dev_server: DevServer) -> None:
    """With the settings to set."""
    done = dev_server.run("alerts", "test")
    assert done.returncode == 3
    assert "WEBHOOK_NOT_CONFIGURED" in done.stderr
    assert "RATELIMIT_ALERT_WEBHOOK_URL" in done.stderr
