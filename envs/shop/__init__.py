"""A shop with a customer who answers back, and with other buyers."""

from .env import Shop

__all__ = ["Shop"]
