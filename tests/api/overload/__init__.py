"""Overload control."""
