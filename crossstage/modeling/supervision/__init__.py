"""Matching, labels and losses."""
