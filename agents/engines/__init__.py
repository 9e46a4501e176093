"""Engines: how a model generates. Each public module here is one, by the name that stands before the colon: its loader
is registered in `ENGINES` (agents/loading.py) when that name is asked for."""
