"""Developers' speed measurements; nothing of it is in the wheel."""
