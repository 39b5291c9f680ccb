"""The decision whether to allow a call: pure, without any transport or store."""
