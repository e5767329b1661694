from latentgeo.paper import figures


def test_two_models_are_drawn(table, codes, labels, saved):
    saved(figures.two_models(codes, labels, [str(i) for i in range(10)], table))


def test_latent_spaces_are_drawn(codes, labels, saved):
    saved(figures.latent_spaces({"a": codes[0], "b": codes[1]}, labels, [str(i) for i in range(10)]))
