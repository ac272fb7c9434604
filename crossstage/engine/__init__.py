"""Training and evaluation runs: `run.main` is the command line, `trainer.Trainer.train` the loop."""
