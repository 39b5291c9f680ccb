"""Alerts: which conditions are worth a message, since when they hold, and the messages on their way."""
