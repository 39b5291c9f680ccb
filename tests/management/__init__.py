"""Tests of `management`."""
