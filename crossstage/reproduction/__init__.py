"""Run the rows of a paper's table and report them next to its figures.

rows, detr_rows, mixer_rows, tables   the tables as data
runs                                  what is asked for, and a run: its command, its folder, what that holds
process                               a run as a child process that signals reach
runner                                the loop over runs
report, intervals                     the figures of finished runs, with intervals over seeds
"""
