"""The parts of a detector, in the order of the data flow.

- `seams`: the interfaces between the parts: arguments and results of each kind of part
- `layer_seams`: the same for the parts of an encoder's or decoder's layer
- `detector`: the whole detector; its `forward` is the data flow
- `backbone`: pixels to feature maps: any timm network
- `pretrained`: its pretrained weights, without a long wait where there is no internet
- `neck`: feature maps to a pyramid of one width
- `encoders`: a pyramid to memory tokens
- `queries`: the sources of the decoder's queries
- `decoders`: queries and memory to the predictions of every stage
- `transformer`: one layer of an encoder or a decoder
- `recompute`: layers that are computed again in the backward pass, to save memory
- `stages`: numbers that differ from stage to stage
- `parts`: parts by name, registered as modules under their own type
- `supervision`: matching, labels and losses
- `postprocess`: the last stage's predictions to detections

`crossstage.structures` defines the values that flow between them.
"""

from crossstage.torchvision_on_cpu import declare_missing_operators

declare_missing_operators()  # timm imports torchvision
