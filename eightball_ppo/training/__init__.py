"""How any training is logged, guarded, stopped and resumed."""
