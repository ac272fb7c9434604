"""Matching, labels and losses.

- `criterion`: the loop over query groups
- `matching`: which query is which object
- `labels`: from matches to class targets
- `losses`: losses as pure functions
"""
