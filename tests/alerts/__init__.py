"""Alerts: rules, episodes, messages and their delivery."""
