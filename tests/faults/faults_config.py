"""The run of the campaign: a tiny detector with dropout, workers, averaged weights, and a slow evaluation."""

from faults_parts import SlowEvaluator

from crossstage.config import LazyCall as L
from tests.crossstage.engine.engine_config import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

dataloader.evaluator = L(SlowEvaluator)(
    json_file="${dataloader.test.dataset.json_file}", output_dir="${train.output_dir}"
)
dataloader.train.num_workers = 1
train.max_iter = 40
train.eval_period = 10
train.log_period = 5
train.checkpointer.update(period=2, max_to_keep=3)
