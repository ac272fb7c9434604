"""Run the rows of a paper's table and report them next to its figures.

- `rows`: a row of a table as data
- `detr_rows`: StageInteractor's tables over the DETR family
- `mixer_rows`: StageInteractor's tables over AdaMixer
- `tables`: all tables
- `runs`: a request, and a run: its command and its folder
- `process`: runs a training in a child process and forwards signals to it
- `runner`: the loop over runs
- `intervals`: means over seeds and differences of means, with confidence intervals
- `report`: the report of finished runs
"""
