"""analyze: replay an archive and compute what explains its generalization."""
