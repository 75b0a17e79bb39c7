"""Secrets Manager: secrets, versions and staging labels, resource policies, rotation. `api` has the operations."""
