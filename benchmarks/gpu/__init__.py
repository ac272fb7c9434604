"""What we want to know of a GPU, in one run of a few minutes.

check.py                  the script: the command line, the list of sections, the loop over them
record.py, measuring.py   what a run is given and finds; times, peak memory, waits for the device
scenes.py, forms.py       inputs, models and batches; several implementations of deformable sampling
kernels.py                with and without our Triton kernels
offline.py                what the compiler makes of them; needs no GPU
device.py, reference_op.py, sampling.py, pyramid.py, criterion.py   sections of single operations
steps.py, marks.py, runs.py, processes.py   sections of whole steps, of whole runs, and of two processes
prepare, question         scripts: what the check needs on a lent machine; a question's runs, many at a time
results/                  what the check printed
"""

import crossstage.modeling  # noqa: F401  (before torchvision)
