"""Run the rows of a paper's table and report them next to its figures.

- `rows`: rows and tables as data, and the published figures from paper_figures.json
- `detr_rows`: StageInteractor's tables over the DETR family
- `mixer_rows`: StageInteractor's tables over AdaMixer
- `deqdet_rows`: DEQDet's tables
- `paq_rows`: PaQ-DETR's tables
- `tables`: all tables by paper
- `questions`: rows of a table with a recipe, seeds and data: the tables of docs/results.md
- `pretraining`: the backbone from which a question's runs start
- `preparation`: makes what is missing before the first run: the generated set, a backbone
- `runs`: a request, and a run: its command and its folder
- `merge`: takes over finished runs that were made elsewhere
- `process`: runs a training in a child process and forwards signals to it
- `runner`: the loop over runs
- `intervals`: means over seeds with confidence intervals, and tests of paired differences
- `course`: AP by evaluation, and its differences between rows
- `convergence`: draws AP over iterations with intervals over seeds
- `report`: the report of finished runs
"""
