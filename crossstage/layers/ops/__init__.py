"""The few operations that take most of a detector's time, each as one function.

- `weighted_rows`: weighted sums of rows of a table, with a quick gradient on a CPU
"""
