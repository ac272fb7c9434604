"""Shows what a trained detector does: `crossstage inspect` (docs/inspection.md).

- `stages`: the predictions of every stage, and what they would be taught
- `queries`: which queries work, counted over a data set, for one or more checkpoints
- `refinement`: what each step of a decoder changes, and its AP
- `assignment`: which query is taught which object, on a picture
- `points`: where a query samples the image, on a picture
- `features`: whether the states of the queries separate the classes
- `pictures`: the images of a batch as pictures
- `figures`: PNG and PDF fit for a paper, numbers as JSON
"""
