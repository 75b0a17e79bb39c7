"""The control process: the AWS front, the store and the workflow worker, wired together. Databases work without it."""
