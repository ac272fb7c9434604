"""The commands; `tools/` calls them.

- `predict`: draw what a detector finds in images
- `convert`: convert weights between libraries, or cut them to some classes
- `reproduce`: run the rows of a paper's table
"""
