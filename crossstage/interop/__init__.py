"""Bridges to other libraries' data and training loops. Nothing of them is imported before it is used."""
