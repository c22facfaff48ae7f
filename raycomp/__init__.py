"""raycomp finds Pareto-optimal prune-then-merge recipes for ViT segmentation models.

Reading order: recipe.py (what to build), flops.py (what it costs), compress/ (how it is built),
evaluate/measure.py (what is measured), search/proposer.py (what is tried next), search/sweep.py.
"""
