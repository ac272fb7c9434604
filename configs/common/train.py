"""How a run goes, whatever it trains: detrex's node."""

from omegaconf import OmegaConf

train = OmegaConf.create(
    {
        "output_dir": "./output",
        "init_checkpoint": "",  # weights to start from: a file or an http(s) address; "" = initial weights
        "checkpoint_names": None,  # a NameTable node, if init_checkpoint has another library's parameter names
        "max_iter": 90000,  # optimizer steps; the learning-rate schedule stretches with it
        "accumulate": 1,  # batches whose gradients are averaged into one optimizer step
        "amp": {"enabled": False, "dtype": "bf16"},  # or fp16, with loss scaling
        "float32_matmul_precision": "high",  # on a GPU: TF32 for float32 products; "highest": exact float32
        "ddp": {"broadcast_buffers": False, "find_unused_parameters": False},
        "clip_grad": {"enabled": True, "params": {"max_norm": 0.1, "norm_type": 2}},
        "eval_period": 5000,  # iterations; 0 = only at the end
        "log_period": 20,
        "checkpointer": {"period": 5000, "max_to_keep": 100},  # max_to_keep 0 = all
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
        "wandb": {"enabled": False, "params": {"project": "crossstage"}},
        "fast_dev_run": {"enabled": False},  # 20 iterations, evaluation every 10, a log line for each
    }
)
