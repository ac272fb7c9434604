"""The few operations that take most of a detector's time, each as one function.

- `bilinear_samples`: weighted bilinear samples of a feature pyramid; chooses between the two below
- `bilinear_triton`: the same as a pair of Triton kernels, for a CUDA device
- `corners`: the four cells around each sample and their shares, with gradients written out
- `weighted_rows`: weighted sums of rows of a table, with a quick gradient on a CPU, and as a gather for export
- `shared_gradient`: one gradient for a tensor that both forms read several times
- `exporting`: whether a call is recorded for another runtime
"""
