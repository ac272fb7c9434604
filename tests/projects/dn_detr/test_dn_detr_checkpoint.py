"""detrex's DN-DETR and ours are the same tensors under two names."""

from pathlib import Path

from tests.foreign_names import detector_and_table, foreign_shapes, parameter_counts, reached_names


def test_every_name_of_detrex_is_one_of_ours_and_back():
    detector, table = detector_and_table("dn_detr/configs/dn_detr_r50_50ep.py")
    foreign = foreign_shapes(Path(__file__).parent / "data/detrex_dn_detr_r50_50ep.txt")
    reached = reached_names(detector, table, foreign)
    assert reached["queries.extra.denoising.label_embed.weight"] == ["denoising_generator.label_encoder.weight"]
    assert parameter_counts(detector) == (43_689_345, 43_679_937)
