"""What the queries are taught: matching, labels and losses, per query group.

- `criterion`: the loop over query groups
- `supervision`: one group: whom its queries are matched with, their labels, the losses
- `matching`: which query is which object
- `solver`: the assignment of one image at one stage
- `labels`: label rules: from matches to class targets
- `losses`: class and box losses
- `normalizers`: what the losses are divided by
"""
