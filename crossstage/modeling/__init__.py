"""The parts of a detector, in the order of the data flow.

seams (what a part of each kind is given and returns), detector (the whole), backbone, neck, encoders, queries, decoders
(transformer: their layer), supervision, postprocess.
`crossstage.structures` says what flows between them.
"""

from crossstage.torchvision_on_cpu import declare_missing_operators

declare_missing_operators()  # timm imports torchvision
