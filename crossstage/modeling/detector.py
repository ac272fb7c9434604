"""The skeleton that all detectors fill: its `forward` is the data flow of the papers' figures."""

from collections.abc import Sequence

import torch
from torch import nn

from crossstage.modeling.seams import Backbone, Criterion, Decoder, Encoder, Neck, Postprocess, QueryMaker
from crossstage.structures import (
    Detections,
    GroupOutputs,
    ImageBatch,
    Losses,
    Memory,
    PaddedTargets,
    Queries,
    StageOutputs,
)


class Detector(nn.Module):
    """A query-based detector from its parts (`crossstage.modeling`), with three seams: queries, decoder, supervision.

    num_classes: K, also checked against the dataset.  embed_dim: C, the width that the parts share; both are there
    for configs to refer to.  eval_ignores_padding: treat padding as image in evaluation, as detrex does; boxes then
    depend on what an image is batched with. (A little they always do: group norms and DINO's query positions, as
    trained, see the padded map. Evaluate with batches of one for a paper.)
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        encoder: Encoder,
        queries: QueryMaker,
        decoder: Decoder,
        criterion: Criterion,
        postprocess: Postprocess,
        num_classes: int,
        embed_dim: int = 256,
        eval_ignores_padding: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.encoder = backbone, neck, encoder
        self.queries, self.decoder = queries, decoder
        self.criterion, self.postprocess = criterion, postprocess
        self.num_classes, self.embed_dim = num_classes, embed_dim
        self.eval_ignores_padding = eval_ignores_padding
        for name in queries.group_names:
            criterion.supervision(name)  # raises ValueError for a group without supervision

    def forward(self, batch: ImageBatch) -> Losses | list[Detections]:
        """In training: the losses. In evaluation: one Detections per image, in original pixels.

        Raises:
            ValueError: in training, if the batch has no targets.
        """
        if not self.training:
            _, groups = self.predict(batch)
            return self.postprocess(group_named("matching", groups).outputs, batch)
        if batch.targets is None:
            raise ValueError("a training batch needs targets; call model.eval() to predict without them")
        targets = PaddedTargets.of(batch.targets)
        queries, stages = self.decode(batch, targets)
        groups = split_groups(queries, stages)
        proposals = [] if queries.proposals is None else [queries.proposals]
        return self.criterion(groups + proposals, targets).joined(queries.losses, stages.losses)

    def predict(self, batch: ImageBatch, targets: PaddedTargets | None = None) -> tuple[Queries, list[GroupOutputs]]:
        """The data flow without supervision: the queries, and each group's outputs, in the order of the query axis.

        Without targets there is the group "matching" alone.
        """
        queries, stages = self.decode(batch, targets)
        return queries, split_groups(queries, stages)

    def decode(self, batch: ImageBatch, targets: PaddedTargets | None = None) -> tuple[Queries, StageOutputs]:
        """From images to the predictions of all queries at every stage."""
        queries, memory = self.encode(batch, targets)
        return queries, self.decoder(queries, memory)

    def encode(self, batch: ImageBatch, targets: PaddedTargets | None = None) -> tuple[Queries, Memory]:
        """From images to what the decoder is given."""
        mask = batch.mask
        if self.eval_ignores_padding and not self.training:
            mask = torch.zeros_like(mask)
        maps = self.backbone(batch.pixels, batch.mask)
        pyramid = self.neck(maps, mask)
        memory = self.encoder(pyramid)
        return self.queries(memory, targets), memory


def split_groups(queries: Queries, stages: StageOutputs) -> list[GroupOutputs]:
    """Cut the outputs of all queries into those of each group, in the order of the query axis."""
    parts = stages.split([group.size for group in queries.groups])
    return [GroupOutputs(group, part) for group, part in zip(queries.groups, parts, strict=True)]


def group_named(name: str, groups: Sequence[GroupOutputs]) -> GroupOutputs:
    """The group of that name. Raises ValueError, naming those that exist, if there is none."""
    for predicted in groups:
        if predicted.group.name == name:
            return predicted
    found = ", ".join(predicted.group.name for predicted in groups)
    raise ValueError(f"no query group is called {name!r}; there are: {found}")
