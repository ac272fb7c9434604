"""The parts of a detector, in the order of the data flow.

detector, backbone, neck, encoder, queries, denoising, decoder, matching, labels, losses, criterion, postprocess; and
pretrained (foreign weights). `detrkit.structures` says what flows between them.
"""
