"""Run the rows of a paper's table and report them next to its figures.

- `rows`: a row of a table as data
- `detr_rows`: StageInteractor's tables over the DETR family
- `mixer_rows`: StageInteractor's tables over AdaMixer
- `tables`: all tables
- `runs`: what is asked for, and a run: its command, its folder, what that holds
- `process`: a run as a child process that signals reach
- `runner`: the loop over runs
- `intervals`: means over seeds and their differences, with intervals
- `report`: the figures of finished runs
"""
