"""The decision whether a call may go on: pure, without any transport or store."""
