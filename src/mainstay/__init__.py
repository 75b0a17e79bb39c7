"""Mainstay: managed relational databases that you own, behind the Amazon RDS wire API."""

__version__ = "0.1.0"

from mainstay import compiled

compiled.use()
