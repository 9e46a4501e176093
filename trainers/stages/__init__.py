"""Kinds of stages of a recipe, one file each."""
