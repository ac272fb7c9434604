"""The parts of a detector, in the order of the data flow.

detector, backbone, neck, encoder (dense_encoder), queries (anchor_queries), denoising, decoder (conditional_decoder),
matching, labels, losses, criterion, postprocess; and pretrained (foreign weights). `detrkit.structures` says what
flows between them.
"""
