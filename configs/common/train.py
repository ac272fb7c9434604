"""How a run goes, whatever it trains: detrex's node."""

from omegaconf import OmegaConf

train = OmegaConf.create(
    {
        "output_dir": "./output",
        "init_checkpoint": "",  # weights to start from: a file or an http(s) address; "" = initial weights
        "checkpoint_names": None,  # a NameTable node, if init_checkpoint has another library's parameter names
        "max_iter": 90000,  # optimizer steps; the learning-rate schedule stretches with it
        "max_epochs": 0,  # if above 0, max_iter is computed from it: epochs x images / (batch size x accumulate)
        "accumulate": 1,  # batches whose gradients make one optimizer step, as one batch of their total size would
        "amp": {"enabled": False, "dtype": "bf16"},  # or fp16, with loss scaling
        "float32_matmul_precision": "high",  # on a GPU: TF32 for float32 products; "highest": exact float32
        "strategy": "ddp",  # or fsdp: several processes share the weights, gradients and moments of one model
        "channels_last": None,  # memory format of the backbone's convolutions; None: on a GPU, but not with fsdp
        "cudnn_benchmark": None,  # cuDNN measures each new size; None: on a GPU if size_divisor makes the sizes few
        "compile": {"enabled": False, "backend": "inductor"},  # backbone, encoder and decoder layers, in training
        "ddp": {"broadcast_buffers": False, "find_unused_parameters": False},
        "clip_grad": {"enabled": True, "params": {"max_norm": 0.1, "norm_type": 2}},
        "eval_period": 5000,  # iterations; 0 = only at the end
        "eval_epochs": 0,  # if above 0, eval_period is computed from it
        "log_period": 20,
        "checkpointer": {"period": 5000, "epochs": 0, "max_to_keep": 100},  # epochs as above; max_to_keep 0 = all
        "query_metrics": {"enabled": False},  # count in each evaluation which queries work: docs/inspection.md
        "best_metric": "bbox/AP",  # the score, higher is better, whose best weights are model_best.pth; "" = none
        "early_stopping": {"patience": 0},  # stop after so many evaluations without a better score; 0 = never
        "nonfinite": "stop",  # or skip: leave a step with a loss or gradient that is not finite out
        "bad_batch": "stop",  # or skip: leave a step with an image that cannot be read out
        "max_skipped": 50,  # steps that may be left out in a run; one more ends it
        "model_ema": {
            "enabled": False,
            "decay": 0.999,
            "use_warmup": False,  # a smaller decay at first: 1 - (1 + step / warmup_gamma) ** -warmup_power
            "warmup_gamma": 1.0,
            "warmup_power": 2 / 3,
            "use_ema_weights_for_eval_only": False,
        },
        "seed": -1,  # -1 draws a seed, which is stored in config.yaml in output_dir
        "deterministic": False,  # slower on a GPU; an operation without a deterministic form raises an error
        "device": "cuda",  # if there is no GPU, the CPU is used and a line of the log says so
        "cpu_threads": 0,  # threads of torch on the CPU; 0 = as torch chooses (OMP_NUM_THREADS, or one per core)
        "wandb": {"enabled": False, "params": {"project": "crossstage"}},
        "fast_dev_run": {"enabled": False},  # 20 iterations, evaluation every 10, a log line for each
    }
)
