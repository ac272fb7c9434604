"""Learning rates over a training on COCO: one step down near the end, no warm-up; 7 500 iterations are an epoch.

A schedule is evaluated at iteration / max_iter: changing `train.max_iter` alone stretches it, steps included.
"""

from fvcore.common.param_scheduler import MultiStepParamScheduler

from crossstage.config import LazyCall as L

lr_multiplier_12ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[82500, 90000])
lr_multiplier_24ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[150000, 180000])
lr_multiplier_36ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[225000, 270000])
lr_multiplier_50ep = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[300000, 375000])
