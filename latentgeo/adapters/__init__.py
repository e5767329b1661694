"""Models, data structures and estimators of other libraries, as what the geometry takes."""
