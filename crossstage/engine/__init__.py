"""Training runs.

- `run`: a run, from its command line to its exit status; read it first
- `setup`: arguments, config, seed, devices and processes
- `acceleration`: how the device computes
- `length`: iterations from epochs
- `session`: the environment and the parts of a run
- `provenance`: versions, commit and device of a run
- `output`: the output folder and its lock
- `checks`: what is checked before a run starts
- `class_rows`: fits the class heads of initial weights to the classes of a training
- `optim`: parameter groups and learning rates
- `trainer`: the training loop
- `step`: one optimizer step
- `learner`: what a step changes and a checkpoint stores
- `sharding`: a model in parts over several processes
- `network`: the model as Fabric wraps it
- `ema`: averaged weights
- `best`: the best evaluation, and early stopping
- `interrupt`: Ctrl-C and other signals
- `failure`: what a loss that is not finite leaves
- `remedies`: errors of the machine (memory, disk) as one line that says what to do
- `recorder`: the numbers of the steps
- `metrics`: medians, and metrics.json
- `log`: log.txt, the terminal, TensorBoard
- `curves`: curves.png
"""
