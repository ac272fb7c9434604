"""A trained detector in use, from Python and by `crossstage predict`. Read `loading` first.

- `loading`: `crossstage.load`: from a run's folder, or a config and weights, to a predictor
- `run_files`: the config and the weights that a folder or a file stands for
- `classes`: gives a config the classes of its weights, and reads the annotations of its test set
- `predictor`: detects in images
- `pictures`: from files, Pillow's images, arrays and tensors to what a predictor batches
- `video`: frames of a video file or a camera, and a video file of pictures
- `publication`: a model as a folder for others: safetensors, a config without code, a model card
- `model_card`: the text of the card
- `safe_config`: refuses a config from the web that could run code
- `hub`: uploads and fetches such folders
"""
