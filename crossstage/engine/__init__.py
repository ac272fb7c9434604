"""Training runs.

- `run`: a run, from its command line to its exit status; read it first
- `setup`: arguments, config, seed, devices and processes
- `session`: the environment and the parts of a run
- `output`: the output folder
- `class_rows`: fits the class heads of initial weights to the classes of a training
- `optim`: parameter groups and learning rates
- `trainer`: the training loop
- `ema`: averaged weights
- `interrupt`: Ctrl-C and SIGTERM
- `metrics`: medians, and metrics.json
- `log`: log.txt, the terminal, TensorBoard
- `curves`: curves.png
"""
