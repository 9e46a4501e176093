"""The same environments behind other programs' interfaces. Each bridge is one module, and loads what it needs."""
