import pandas as pd

from latentgeo.paper import benchmark, figures


def test_errors_against_time_are_drawn(saved):
    runs = pd.DataFrame(
        {"solver": ["ours", "ours", "other"], "ratio": [0.1, 0.2, 5.0], "mean_error": [1e-3, 1e-5, 0.1]}
    )
    saved(figures.error_against_time({"one": runs, "two": runs}))


def test_scaling_is_drawn(saved):
    grown = pd.DataFrame({"variable": list("PPNN"), "size": [1, 10, 8, 16], "seconds": [0.1, 1.0, 0.2, 0.3]})
    saved(figures.scaling(grown, benchmark.exponents(grown)))


def test_the_calibration_of_certificates_is_drawn(saved):
    certified = pd.DataFrame({"claimed": [1e-3, 1e-2], "true": [1e-4, 0.0]})
    saved(figures.calibration({"smooth": certified}))
