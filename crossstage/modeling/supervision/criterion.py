"""The criterion: one loop over query groups, all stages at once."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from crossstage.config.names import suggestion
from crossstage.modeling.parts import module_dict
from crossstage.modeling.supervision.matching import MatchRequest, start_matching
from crossstage.modeling.supervision.supervision import Supervision
from crossstage.structures import GroupOutputs, Losses, PaddedTargets


class SetCriterion(nn.Module):
    """Losses of every stage of every query group, weighted and named as in detrex.

    Args:
        groups: the supervision of each group, by the group's name.

    Raises:
        ValueError: if two groups would call their losses the same.
    """

    def __init__(self, *, groups: Mapping[str, Supervision]) -> None:
        super().__init__()
        self.groups = module_dict(groups)
        owner: dict[str, str] = {}
        for name, supervision in groups.items():
            other = owner.setdefault(supervision.loss_name("class"), name)
            if other != name:
                raise ValueError(f"groups.{name}.names={supervision.names!r} is that of {other}; losses need own names")

    def supervision(self, group: str) -> Supervision:
        """The supervision of a group. Raises ValueError, with the nearest name, if there is none."""
        if group not in self.groups:
            known = list(self.groups)
            raise ValueError(
                f"criterion.groups has no supervision for the query group {group!r}. It has: {', '.join(known)}."
                f"{suggestion(group, known)}"
            )
        return self.groups[group]

    def forward(self, groups: Sequence[GroupOutputs], targets: PaddedTargets) -> Losses:
        """The weighted losses of all groups; their total is what is minimised. Geometry runs outside autocast."""
        losses: dict[int, dict[str, Tensor]] = {}
        with torch.autocast(targets.boxes.device.type, enabled=False):
            for index, matches in self.matches(groups, targets):
                supervision = self.supervision(groups[index].group.name)
                losses[index] = supervision.losses(groups[index], targets, matches)
        return Losses.of({name: loss for _, terms in sorted(losses.items()) for name, loss in terms.items()})

    def match(self, groups: Sequence[GroupOutputs], targets: PaddedTargets) -> list[Tensor]:
        """Each group's matches, int64 [S, B, N], in the order of the groups."""
        return [matches for _, matches in sorted(self.matches(groups, targets), key=lambda found: found[0])]

    def matches(self, groups: Sequence[GroupOutputs], targets: PaddedTargets) -> Iterator[tuple[int, Tensor]]:
        """Each group's index and matches, int64 [S, B, N]: the known ones first, then those of one matching.

        The costs of that matching travel to the host while the caller works with the known matches.
        """
        requests: dict[int, MatchRequest] = {}
        for index, predicted in enumerate(groups):
            if predicted.group.matches is None:
                supervision = self.supervision(predicted.group.name)
                requests[index] = MatchRequest(supervision.matcher, predicted.outputs, supervision.objects(targets))
        pending = start_matching(list(requests.values()))
        for index, predicted in enumerate(groups):
            if predicted.group.matches is not None:  # the same at every stage
                yield index, predicted.group.matches.expand(predicted.outputs.num_stages, -1, -1)
        yield from zip(requests, pending.finish(), strict=True)
