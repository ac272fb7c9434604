"""The papers' tables as runs, and reports of them beside the published figures.

- `rows`: a row of a table as data
- `detr_rows`: StageInteractor's tables over the DETR family
- `mixer_rows`: StageInteractor's tables over AdaMixer
- `tables`: all tables
- `data`: the data sets that a table can be run on
- `runs`: one row with one seed: its command and its folder
- `process`: a training as a process of its own
- `intervals`: means over seeds and their differences, with intervals
- `report`: the report of a table
"""
