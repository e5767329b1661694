"""How far independently trained models agree."""
